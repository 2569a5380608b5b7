"""Show the progress of a run: a bar in a terminal, otherwise at most one line per minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from nograd.datasets.run import RunSummary

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Lines", "RateEstimate", "show_progress", "summary_of"]

LINE_EVERY_S = 60.0


class RateEstimate:
    """Compute the rate and the remaining time since the first call, so that loading the model is excluded."""

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None

    def describe(self, now: float, rows: int, fraction: float | None) -> str:
        """Return the progress of a run, in one line.

        Args:
            now: time in seconds.
            rows: rows written so far.
            fraction: share of the input that is done; None if unknown.
        """
        if self._first is None:
            self._first = now, rows, fraction or 0.0
        seconds, done = now - self._first[0], (fraction or 0.0) - self._first[2]
        words = [f"{rows:,} rows", _rate(rows - self._first[1], seconds), "" if fraction is None else f"{fraction:.0%}"]
        if fraction is not None and done > 0 and fraction < 1:
            words.append(f"{_time(seconds * (1 - fraction) / done)} left")
        return ", ".join(filter(None, words))


def _rate(rows: int, seconds: float) -> str:
    if not seconds:
        return ""
    return f"{rows / seconds:,.0f}/s" if rows >= 10 * seconds else f"{rows / seconds:.3g}/s"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def summary_of(summary: RunSummary, output: str, errors: str) -> str:
    """Return the summary of a run, in one line.

    Args:
        summary: the summary.
        output: name of the output file.
        errors: name of the file of bad rows.
    """
    words = [f"{output}: {summary.rows:,} rows"]
    if summary.was_whole:
        words.append("whole already, made by this command: nothing to do")
    else:
        is_rest = summary.rows > summary.rows_now
        words.append(f"{summary.rows_now:,} of them in {summary.seconds:.1f} s" if is_rest else f"{summary.seconds:.1f} s")
        words.append(_rate(summary.rows_now, summary.seconds))
    if summary.padding_share:
        words.append(f"padding {summary.padding_share:.1%}")
    if summary.repeats:
        words.append(f"{summary.repeats:,} repeated texts not run again")
    if summary.bad:
        words.append(f"{summary.bad:,} bad rows in {errors}")
    return ", ".join(filter(None, words))


class Lines:
    """Write at most one line per minute.

    Args:
        write: writes a line.
        clock: returns the time in seconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._last = clock()
        self._course = RateEstimate()

    def phase(self, text: str) -> None:
        """Write the name of a phase."""
        self._write(text)

    def note(self, text: str) -> None:
        """Write a sentence."""
        self._write(text)

    def update(self, rows: int, fraction: float | None) -> None:
        """Write the progress, if the last line is a minute old."""
        now = self._clock()
        line = self._course.describe(now, rows, fraction)
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            self._write(line)


class _Bar:
    """Show a bar."""

    def __init__(self, bar: Progress, clock: Callable[[], float]) -> None:
        self._bar, self._clock = bar, clock
        self._course = RateEstimate()
        self._task = bar.add_task("predicting", total=None, text="")

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False)

    def update(self, rows: int, fraction: float | None) -> None:
        text = self._course.describe(self._clock(), rows, fraction)
        self._bar.update(
            self._task, description="predicting", completed=fraction or 0.0, total=None if fraction is None else 1.0, text=text
        )


@contextmanager
def show_progress(file: IO[str], clock: Callable[[], float]) -> Iterator[Lines | _Bar]:
    """Show a run on a stream within this context: as a bar on a terminal, otherwise as lines."""
    if not file.isatty():
        yield Lines(lambda text: file.write(f"{text}\n"), clock)
        return
    from rich.console import Console  # late: only a terminal needs it
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(file=file, highlight=False)) as bar:
        yield _Bar(bar, clock)
