"""Write the report of `nograd tune` for a terminal and as a file: `to_text`, `dumps`, `loads`. For HTML see
`nograd.tuning.html`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from textwrap import wrap
from typing import Any

import msgspec

from nograd.core.independence import Independence
from nograd.errors import ModelLoadError
from nograd.report import figures
from nograd.runtime.terminal import clean
from nograd.tuning import wording
from nograd.tuning.values import Row, TuneReport

__all__ = ["dumps", "loads", "to_text"]

FORMAT = 1
KIND = "nograd tune report"
WIDTH = 100
"""Columns of the terminal."""

OPTIONAL = ("batch", "B", "kB", "MB", "GB", "metric")
"""Columns that are removed, in this order, if the candidates' names need the room."""

INDENT = 2

# File format


class _ReportFile(msgspec.Struct):
    kind: str
    format: int
    report: msgspec.Raw


def dumps(report: TuneReport) -> bytes:
    """Return the report as JSON. NaN and infinities, which JSON lacks, become the strings `nan`, `inf` and `-inf`."""
    body = msgspec.json.encode(_plain(report.to_json()))
    return msgspec.json.format(msgspec.json.encode(_ReportFile(KIND, FORMAT, msgspec.Raw(body)))) + b"\n"


def loads(text: bytes | str) -> TuneReport:
    """Return the report that `dumps` wrote.

    The report is equal except for values in `machine` and `parity` that JSON lacks: tuples become lists, NaN becomes its
    string.

    Raises:
        ModelLoadError: the text is not such a report, or has a newer format.
    """
    try:
        file = msgspec.json.decode(text, type=_ReportFile)
        if file.kind != KIND:
            raise ModelLoadError(f"the file is a {clean(file.kind)!r}; expected a {KIND!r}, as written by nograd tune")
        if file.format > FORMAT:
            raise ModelLoadError(f"the report has format {file.format}; this nograd reads up to {FORMAT}: update nograd")
        return msgspec.json.decode(file.report, type=TuneReport, strict=False)  # not strict: `nan` is a float too
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ModelLoadError(f"the file is not a report of nograd tune: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    # A file name that is not UTF-8 contains unpaired surrogates, which JSON lacks too.
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


# Terminal


def to_text(report: TuneReport) -> str:
    """Return the report for a terminal of 100 columns, without colours.

    The parts are: the verdict, the candidates from the winner down, the reasons for the others, the test under load, and
    the notes.
    """
    parts = [
        _head(report),
        _table(report),
        _reasons(report),
        _independence(report),
        _confirmation(report),
        _effort(report),
        _notes(report),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _head(report: TuneReport) -> list[str]:
    about = [report.model, f"goal {report.goal}", report.data, f"tolerance {report.tolerance}" if report.tolerance else ""]
    lines = _wrapped(", ".join(clean(part) for part in about if part))
    lines += ["", *_wrapped(wording.verdict(report))]
    return lines + _wrapped(wording.margin(report))


def _table(report: TuneReport) -> list[str]:
    rows = [row for _, group in wording.groups(report) for row in group if is_measured(row)]
    columns = _columns(rows, report)
    cells = {head: [cell(row) for row in rows] for head, cell in columns.items()}
    cells = {head: column for head, column in cells.items() if set(column) - {figures.NONE}}
    names = [clean(row.candidate) for row in rows]
    for optional in ("", *OPTIONAL):
        if optional:
            cells.pop(optional, None)
        widths = {head: max(map(len, [head, *column])) for head, column in cells.items()}
        room = WIDTH - INDENT - sum(widths.values()) - 2 * len(widths)
        if max(map(len, names), default=0) <= room:
            break
    first = max([9, *(len(name) for name in names if len(name) <= room)])
    lines = [_line("candidate", {head: head for head in cells}, first, widths)] if rows else []
    for place, name in enumerate(names):
        lines += _wrapped(name, INDENT) if len(name) > first else []
        shown = {head: column[place] for head, column in cells.items()}
        lines.append(_line(name if len(name) <= first else "", shown, first, widths))
    return lines


def is_measured(row: Row) -> bool:
    """Return True if a row has measurements to show."""
    return any(value is not None for value in (row.ratio, row.lone_s, row.rows_per_s))


def _columns(rows: Sequence[Row], report: TuneReport) -> dict[str, Callable[[Row], str]]:
    unit = figures.unit_of(row.lone_s.median for row in rows if row.lone_s)
    memory = figures.unit_of((row.rss_bytes for row in rows), figures.BYTES)
    against = clean(report.reference).partition(" ")[0]
    against = against if 0 < len(against) <= 12 else "reference"
    return {
        "status": lambda row: wording.STATUSES[row.status][0],
        f"x {against}": _ratio,
        f"1 row {unit.name}": lambda row: unit(row.lone_s.median if row.lone_s else None),
        "p99": lambda row: unit(row.lone_p99_s),
        "rows/s": lambda row: figures.number(row.rows_per_s.median if row.rows_per_s else None),
        "batch": lambda row: f"{row.batch_rows:,}" if row.batch_rows else figures.NONE,
        memory.name: lambda row: memory(row.rss_bytes),
        "cosine": lambda row: figures.cosine(found.min_cosine, 5) if (found := wording.parity_of(row)) else figures.NONE,
        "metric": lambda row: figures.number(row.metric, 4),
    }


def _ratio(row: Row) -> str:
    return " ".join(filter(None, [figures.times(row.ratio), figures.interval(row.ratio, say=figures.ratio)]))


def _line(name: str, cells: Mapping[str, str], first: int, widths: Mapping[str, int]) -> str:
    padded = [
        cell.ljust(widths[head]) if place < 2 else cell.rjust(widths[head]) for place, (head, cell) in enumerate(cells.items())
    ]
    return (" " * INDENT + "  ".join([name.ljust(first), *padded])).rstrip()


def _reasons(report: TuneReport) -> list[str]:
    lines: list[str] = []
    for status, rows in wording.groups(report):
        said = {row.reason for row in rows} - {""}
        if status in ("winner", "tied", "measured") and not said:
            continue
        lines.append(wording.STATUSES[status][0])
        for reason, names in by_reason(rows):
            lines += _wrapped(f"{wording.joined(names)}: {reason}" if reason else wording.joined(names), INDENT)
    return lines


def by_reason(rows: Iterable[Row]) -> list[tuple[str, list[str]]]:
    """Return the candidates' names by reason, in the order of the rows. Control characters are removed from both."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(clean(row.reason), []).append(clean(row.candidate))
    return list(found.items())


def independences(report: TuneReport) -> list[tuple[str, Independence]]:
    """Return each measured variant with its independence: how much a batch influences the answers of its rows."""
    found: dict[str, Independence] = {}
    for row in report.rows:
        if row.independence is not None:
            found.setdefault(clean(row.candidate.variant), row.independence)
    return list(found.items())


def _independence(report: TuneReport) -> list[str]:
    found = independences(report)
    if not found:
        return []
    return ["rows in a batch", *(line for name, each in found for line in _wrapped(f"{name}: {each}", INDENT))]


def _confirmation(report: TuneReport) -> list[str]:
    found = report.confirmation
    if found is None:
        return []
    lines = ["under load", *_wrapped(wording.confirmation_line(report), INDENT)]
    for name, measured, predicted in (
        ("p50", found.p50_s, found.predicted_p50_s), ("p99", found.p99_s, found.predicted_p99_s),
    ):  # fmt: skip
        lines.append(f"  {name} {figures.seconds(measured)}, predicted {figures.seconds(predicted)}")
    lines.append(f"  runs took {figures.number(found.cost_ratio)} times what the cost curve says")
    word = wording.outcome(found).replace("not", "NOT")
    lines += _wrapped(f"{word}: {clean(found.reason)}" if found.reason else word, INDENT)
    return lines if found.confirmed else lines + _wrapped(wording.NOT_CONFIRMED, INDENT)


def _effort(report: TuneReport) -> list[str]:
    spent = ", ".join(f"{clean(name)} {figures.seconds(value)}" for name, value in report.spent_s.items())
    lines = _wrapped(f"{figures.seconds(sum(report.spent_s.values()))} spent{budget(report)}: {spent}") if spent else []
    return lines + _wrapped(rounds(report))


def budget(report: TuneReport) -> str:
    """Return ` of a budget of 300 s`; empty without a budget."""
    return f" of a budget of {figures.seconds(report.budget_s)}" if report.budget_s > 0 else ""


def rounds(report: TuneReport) -> str:
    """Return the number of measured and of discarded rounds, as a sentence."""
    if not report.rounds and not report.discarded_rounds:
        return ""
    thrown = f"; {report.discarded_rounds:,} more discarded because the machine was busy" if report.discarded_rounds else ""
    return f"{figures.count(report.rounds, 'round')} measured{thrown}"


def _notes(report: TuneReport) -> list[str]:
    return [line for note in report.notes for line in _wrapped(f"note: {clean(note)}")]


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + (2 if indent else 0)))
