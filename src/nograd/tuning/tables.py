"""Render the tables of the report's page. Each function returns markup, empty if it has no content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from nograd.core.parity import OutputParity, ParityReport
from nograd.report import figures
from nograd.report.figures import Figure
from nograd.report.markup import card, element, table, text
from nograd.report.svg import is_positive
from nograd.tuning import plots, wording
from nograd.tuning.report import by_reason, independences, is_measured
from nograd.tuning.values import Row, TuneReport

__all__ = ["candidates", "confirmation", "independence", "parity", "unused"]

MAX_OPEN_ROWS = 12
"""Maximum number of worst rows that are shown without expanding the table."""


def candidates(report: TuneReport) -> str:
    """Return a table of all measured candidates, the winner first."""
    rows = [row for _, group in wording.groups(report) for row in group if is_measured(row)]
    if not rows:
        return ""
    columns = _candidate_columns(rows, report)
    shown = {head: [cell(row) for row in rows] for head, (_, cell) in columns.items()}
    kept = [head for head, cells in shown.items() if any(cell not in ("", figures.NONE) for cell in cells)]
    heads = [("candidate", "name"), *((head, columns[head][0]) for head in kept)]
    body = [[text(row.candidate), *(shown[head][place] for head in kept)] for place, row in enumerate(rows)]
    lead = f"Ratios are paired round by round with {report.reference}; above 1 is better {wording.goal_phrase(report.goal)}. "
    layout = "1x2 means one lane with two threads. Brackets are 95 % intervals of the median."
    return card(
        "Candidates",
        table("Candidates", heads, body, class_="candidates"),
        lead=(lead if report.reference and any(row.ratio for row in rows) else "") + layout,
    )


def _candidate_columns(rows: Sequence[Row], report: TuneReport) -> dict[str, tuple[str, Callable[[Row], str]]]:
    single_row = figures.unit_of(row.lone_s.median for row in rows if row.lone_s)
    memory, file = (
        figures.unit_of(column, figures.BYTES) for column in ([r.rss_bytes for r in rows], [r.file_bytes for r in rows])
    )
    ends = [value for row in rows if row.ratio for value in (row.ratio.median, *(figures.spread(row.ratio) or ()))]
    largest = max([1.0, *(value for value in ends if is_positive(value))])
    return {
        "status": ("", lambda row: element("span", text(wording.STATUSES[row.status][0]), class_=f"status {row.status}")),
        f"times {report.reference or 'the reference'}": ("n", lambda row: _figure(row.ratio, ratio=True)),
        "": ("bar-cell", lambda row: plots.ratio_bar(row.ratio, largest, row.status)),
        f"one row alone, {single_row.name}": ("n", lambda row: _figure(row.lone_s, single_row)),
        f"p99, {single_row.name}": ("n", lambda row: text(single_row(row.lone_p99_s))),
        "rows/s": ("n", lambda row: _figure(row.rows_per_s, figures.Unit(""))),
        "rows a run": ("n", lambda row: f"{row.batch_rows:,}" if row.batch_rows else figures.NONE),
        f"memory, {memory.name}": ("n", lambda row: text(memory(row.rss_bytes))),
        f"file, {file.name}": ("n", lambda row: text(file(row.file_bytes))),
        "build": ("n", lambda row: text(figures.seconds(row.build_s))),
        "metric": ("n", lambda row: text(figures.number(row.metric, 4))),
    }


def _figure(figure: Figure | None, unit: figures.Unit | None = None, *, ratio: bool = False) -> str:
    if figure is None or not isfinite(figure.median):
        return figures.NONE
    if unit is None or ratio:
        return _stacked(figures.times(figure), figures.interval(figure, say=figures.ratio))
    return _stacked(unit(figure.median), figures.interval(figure, unit.scale))


PARITY_HEADS = (
    ("variant", "name"), ("output", "name"), ("least cosine", "n"), ("mean cosine", "n"), ("max abs", "n"), ("max rel", "n"),
    ("agreement", "n"), ("NaN, inf", "n"), ("", ""),
)  # fmt: skip


def parity(report: TuneReport) -> str:
    """Return a table of each variant's parity with eager by output, and its worst rows."""
    found = _parities(report)
    rows = [
        [element("span", text(name), class_="again" if place else None), *_output(output), _passed(near)]
        for name, near in found
        for place, output in enumerate(near.outputs)
    ]
    if not rows:
        return ""
    is_fixed = [head[0] not in ("agreement", "NaN, inf") for head in PARITY_HEADS]
    kept = [place for place, always in enumerate(is_fixed) if always or any(row[place] != figures.NONE for row in rows)]
    body = table("Parity with eager", [PARITY_HEADS[place] for place in kept], [[row[place] for place in kept] for row in rows])
    over = figures.count(max(near.rows for _, near in found), "row")
    lead = f"Against eager, over {over}. Max rel is max abs divided by the output's largest value."
    return card("Same answers?", body + _worst(found), lead=lead)


def _output(output: OutputParity) -> list[str]:
    return [
        text(output.name), figures.cosine(output.min_cosine), figures.cosine(output.mean_cosine),
        _difference(output.max_abs), _difference(output.max_rel),
        text(figures.NONE if output.agreement is None else figures.share(output.agreement)),
        f"{output.num_nonfinite:,}" if output.num_nonfinite else figures.NONE,
    ]  # fmt: skip


def _difference(value: float) -> str:
    return figures.number(value) if isfinite(value) else text(value)


def _parities(report: TuneReport) -> list[tuple[str, ParityReport]]:
    """Return each variant once, or more often if its layouts differ in their parity."""
    found: dict[tuple[str, str], ParityReport] = {}
    for row in report.rows:
        if near := wording.parity_of(row):
            found.setdefault((row.candidate.variant, repr(near)), near)
    return [(variant, near) for (variant, _), near in found.items()]


def _passed(near: ParityReport) -> str:
    return element("span", "passed" if near.passed else "refused", class_=f"status {'passed' if near.passed else 'refused'}")


def _worst(found: Sequence[tuple[str, ParityReport]]) -> str:
    rows = [
        [text(name), f"{worst.row:,}", text(worst.output), figures.cosine(worst.cosine), _difference(worst.max_abs)]
        for name, near in sorted(found, key=lambda pair: pair[1].passed) for worst in near.worst[: 2 if near.passed else 5]
    ]  # fmt: skip
    if not rows:
        return ""
    heads = [("variant", "name"), ("row of the sample", "n"), ("output", "name"), ("cosine", "n"), ("max abs", "n")]
    inner = element("summary", "Rows with the largest differences") + table(
        "Rows with the largest differences", heads, rows, class_="tight"
    )
    return element("details", inner, open="open" if len(rows) <= MAX_OPEN_ROWS else None)


def independence(report: TuneReport) -> str:
    """Return a table of how much the rows of a batch influence each other, by variant."""
    found = independences(report)
    if not found:
        return ""
    heads = [
        ("variant", "name"), ("rows are", "name"), ("bound", "n"), ("allowed", "n"), ("batch size effect", "n"),
        ("batches", "n"),
    ]  # fmt: skip
    rows = [
        [
            text(name), text(each.verdict), _difference(each.bound), _difference(each.tolerance), _difference(each.size_effect),
            f"{each.num_batches:,}",
        ]
        for name, each in found
    ]  # fmt: skip
    lead = (
        "Bound: the largest difference of a row's answer between batches that differ only in the other rows, divided by the "
        "output's largest value. The effect of the batch size is rounding."
    )
    return card("Rows in a batch", table("Rows in a batch", heads, rows, class_="tight"), lead=lead)


def unused(report: TuneReport) -> str:
    """Return the candidates that were refused, failed, dropped or not tried, each with its reason."""
    parts = []
    for status, rows in wording.groups(report):
        listed = [row for row in rows if row.reason or status not in ("tied", "measured")]
        if status == "winner" or not listed:
            continue
        name, meaning = wording.STATUSES[status]
        head = element("h3", element("span", text(name), class_=f"status {status}") + element("small", text(meaning)))
        items = [
            element("dt", text(wording.joined(names))) + element("dd", text(reason or "no reason is known"))
            for reason, names in by_reason(listed)
        ]
        parts.append(head + element("dl", items, class_="reasons"))
    return card("Not used, and why", "".join(parts))


def _stacked(main: str, small: str) -> str:
    return text(main) + (element("small", text(small)) if small else "")


def confirmation(report: TuneReport) -> str:
    """Return the winner's latency through the real batcher: measured against predicted."""
    found = report.confirmation
    if found is None:
        return ""
    pairs = (("p50", found.p50_s, found.predicted_p50_s), ("p99", found.p99_s, found.predicted_p99_s))
    unit = figures.unit_of(value for _, *values in pairs for value in values)
    rows = [
        [name, text(unit(measured)), text(unit(predicted)), text(_quotient(measured, predicted))]
        for name, measured, predicted in pairs
    ]
    heads = [
        ("latency", "name"),
        (f"measured, {unit.name}", "n"),
        (f"predicted, {unit.name}", "n"),
        ("measured / predicted", "n"),
    ]
    said = element("span", wording.outcome(found), class_="good" if found.confirmed else "bad")
    reason = f": {text(found.reason)}" if found.reason else ""
    cost = f"Runs took {figures.number(found.cost_ratio)} times as long as the cost curve predicts."
    body = (
        element("p", said + reason, class_="said")
        + ("" if found.confirmed else element("p", text(wording.NOT_CONFIRMED), class_="lead"))
        + table("Latency under load", heads, rows, class_="tight")
        + element("p", text(cost), class_="lead")
    )
    return card("Under load", body, lead=wording.confirmation_line(report) + ", through the real batcher.")


def _quotient(measured: float, predicted: float) -> str:
    return f"{figures.ratio(measured / predicted)}x" if is_positive(measured, predicted) else figures.NONE
