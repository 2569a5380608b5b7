"""The report of a load run: a table, JSON, and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nograd import __version__
from nograd.bench.summary import LATE_S, PERCENTILES, Summary
from nograd.report.figures import amount, number, seconds, size
from nograd.runtime.exits import INTERRUPTED

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["COLUMNS", "WIDTH", "BenchReport", "cells", "notes", "table", "to_text"]

WIDTH = 130
"""Width of the table in columns of the terminal."""

SHOWN = tuple(name for name in PERCENTILES if name != "p95")

COLUMNS = ("load", "answers/s", "95 %", *SHOWN, "max", "samples", "errors", "late")


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All loads of one run."""

    target: str
    """The server, the model and the requests in words."""

    summaries: tuple[Summary, ...]
    when: str
    """UTC."""

    interrupted: str = ""
    """What Ctrl-C ended, in one sentence; empty if all loads ran."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        loads = [summary.to_json() for summary in self.summaries]
        return {
            "kind": "nograd bench",
            "nograd": __version__,
            "target": self.target,
            "when": self.when,
            "interrupted": self.interrupted,
            "loads": loads,
        }

    def exit_code(self) -> int:
        """Return 130 after Ctrl-C, 1 if a load got no response with status 200, else 0."""
        if self.interrupted:
            return INTERRUPTED
        return int(any(summary.answered == 0 for summary in self.summaries))


def cells(summary: Summary) -> tuple[str, ...]:
    """Return a row of the table."""
    rate = summary.rate
    return (
        summary.label, number(rate.per_s, 4), f"{number(rate.low)} .. {number(rate.high)}",
        *(seconds(summary.percentiles[name]) for name in SHOWN), seconds(summary.max_s), f"{summary.num_samples:,}",
        f"{sum(summary.errors.values()):,}", f"{summary.late:,}",
    )  # fmt: skip


def table(summaries: Sequence[Summary]) -> Table:
    """Return the table for a terminal."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        made.add_column(name, justify="left" if name == "load" else "right", no_wrap=True)
    for summary in summaries:
        made.add_row(*cells(summary))
    return made


def to_text(report: BenchReport, width: int = WIDTH) -> str:
    """Return the report as text: the target, the loads, and notes.

    Args:
        report: the report.
        width: columns of the terminal. If the table does not fit, each load is a list of figures instead.
    """
    drawn = _drawn_table(report.summaries) if width >= WIDTH else _listed(report.summaries, width)
    return "\n".join((report.target, *drawn, *notes(report))) + "\n"


def _drawn_table(summaries: Sequence[Summary]) -> Iterator[str]:
    from io import StringIO

    from rich.console import Console

    drawn = StringIO()
    Console(file=drawn, width=WIDTH, highlight=False).print(table(summaries))
    return (line.rstrip() for line in drawn.getvalue().splitlines())


def _listed(summaries: Sequence[Summary], width: int) -> Iterator[str]:
    """Yield each load with its figures by name, in lines of at most `width` columns."""
    for summary in summaries:
        label, *figures = cells(summary)
        yield from ("", label)
        shown = ", ".join(
            f"{name} {figure}".replace(" ", "\N{NO-BREAK SPACE}") for name, figure in zip(COLUMNS[1:], figures, strict=True)
        )
        lines = textwrap.wrap(shown, width, initial_indent="  ", subsequent_indent="  ")
        yield from (line.replace("\N{NO-BREAK SPACE}", " ") for line in lines)
    yield ""


def notes(report: BenchReport) -> Iterator[str]:
    """Yield notes for the reader, one sentence each."""
    if report.interrupted:
        yield report.interrupted
    for each in report.summaries:
        for what, count in each.errors.items():
            yield f"{each.label}: {count:,} of {each.requests:,} requests: {what}"
        if each.late:
            yield (
                f"{each.label}: the generator came to {each.late:,} of {each.requests:,} requests more than {amount(LATE_S)} "
                f"after they were due, at worst {amount(each.latest_s)}: this wait is in the latencies, and not the server's"
            )
        if missing := [name for name, value in each.percentiles.items() if value is None]:
            yield f"{each.label}: {each.num_samples:,} samples are too few for {', '.join(missing)}"
        yield f"{each.label}: {size(each.sent_bytes)} sent, {size(each.received_bytes)} received, {each.seconds:.4g} s measured"
