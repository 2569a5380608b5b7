"""What the user sees of a run: a bar in a terminal, else a line a minute at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nograd.jobs.run import Summary

__all__ = ["Course", "Lines", "shown_on", "summary_of"]

LINE_EVERY_S = 60.0


class Course:
    """Rate and time left, from what was done since it was first asked: loading the model is not in it."""

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None

    def told(self, now: float, rows: int, fraction: float | None) -> str:
        """Return how far a run is, in one line.

        Args:
            now: seconds.
            rows: written so far.
            fraction: of the input that is done; None where that is not known.
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


def summary_of(summary: Summary, output: str, errors: str) -> str:
    """Return what became of a run, in one line.

    Args:
        summary: of the run.
        output: name of the file.
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
        words.append(f"{summary.bad:,} bad rows, told in {errors}")
    return ", ".join(filter(None, words))


class Lines:
    """Writes a line a minute.

    Args:
        write: takes a line.
        clock: gives seconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._last = clock()
        self._course = Course()

    def note(self, text: str) -> None:
        """Say a sentence."""
        self._write(text)

    def update(self, rows: int, fraction: float | None) -> None:
        """Say how far it is, where the last time was a minute ago."""
        now = self._clock()
        line = self._course.told(now, rows, fraction)
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            self._write(line)


class _Bar:
    """Shows a bar."""

    def __init__(self, bar: Progress, clock: Callable[[], float]) -> None:
        self._bar, self._clock = bar, clock
        self._course = Course()
        self._task = bar.add_task("predicting", total=None, told="")

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False)

    def update(self, rows: int, fraction: float | None) -> None:
        told = self._course.told(self._clock(), rows, fraction)
        self._bar.update(self._task, completed=fraction or 0.0, total=None if fraction is None else 1.0, told=told)


@contextmanager
def shown_on(file: IO[str], clock: Callable[[], float]) -> Iterator[Lines | _Bar]:
    """Show a run on a stream for as long as the context lasts: a bar on a terminal, else lines."""
    if not file.isatty():
        yield Lines(lambda text: file.write(f"{text}\n"), clock)
        return
    columns = (TextColumn("predicting"), BarColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*columns, console=Console(file=file, highlight=False)) as bar:
        yield _Bar(bar, clock)
