"""The parts of the report's page, each a function from the report to markup; empty where there is nothing to say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite

from nograd.parity import ParityReport
from nograd.tuning import plots, wording
from nograd.tuning.markup import element, table, text
from nograd.tuning.report import budget, by_reason, is_measured, rounds
from nograd.tuning.svg import is_positive
from nograd.tuning.values import Figure, Row, TuneReport

__all__ = ["candidates", "confirmation", "curves", "effort", "machine", "notes", "parity", "picture", "unused", "verdict"]

MAX_CURVES = 4
"""Cost curves in one plot; the winner's first."""

MAX_OPEN_ROWS = 12
"""Worst rows that are shown without being asked for."""


def _card(title: str, body: str, *, lead: str = "", class_: str = "card") -> str:
    head = element("h2", text(title)) + (element("p", text(lead), class_="lead") if lead else "")
    return element("section", head + body, class_=class_) if body else ""


def _stacked(main: str, small: str) -> str:
    return text(main) + (element("small", text(small)) if small else "")


# The verdict


def verdict(report: TuneReport) -> str:
    """Return the sentence, what is next, and the winner's figures beside the reference's."""
    about = ", ".join(part for part in (f"goal {report.goal}", report.data, _tolerance(report)) if part)
    parts = [element("h1", text(report.model or "a model")), element("p", text(about), class_="about")]
    parts.append(element("p", _sentence(report), class_="verdict"))
    if said := wording.margin(report):
        parts.append(element("p", text(said), class_="lead"))
    tiles = "".join(
        element("div", element("dt", text(name)) + element("dd", text(value)) + (element("dd", text(note), class_="note") if note else ""))
        for name, value, note in _tiles(report)
    )  # fmt: skip
    return element("section", [*parts, element("dl", tiles, class_="tiles") if tiles else ""], class_="card top-card")


def _tolerance(report: TuneReport) -> str:
    return f"tolerance {report.tolerance}" if report.tolerance else ""


def _sentence(report: TuneReport) -> str:
    winner = report.winner
    if winner is None:
        return element("strong", text(wording.verdict(report)))
    said, _, confirmed = wording.standing(report).rpartition("; ")
    tone = {True: "good", False: "bad"}[report.confirmation.confirmed] if report.confirmation else "quiet"
    name = element("strong", text(wording.full_name(winner.candidate)))
    whole = re.sub(r"\[[^\]]*\]", r'<span class="whole">\g<0></span>', text(said))  # an interval is not broken over two lines
    return f"{name}: {whole}; {element('span', text(confirmed), class_=tone)}"


def _tiles(report: TuneReport) -> list[tuple[str, str, str]]:
    winner = report.winner
    if winner is None:
        return []
    base = next((row for row in report.rows if wording.is_reference(row, report) and row is not winner), None)
    found, name = [], str(base.candidate) if base else ""
    if winner.lone_s:
        found.append(("one row alone", wording.seconds(winner.lone_s.median), _versus(name, base and base.lone_s, wording.seconds)))
    if winner.lone_p99_s is not None:
        found.append(("its 99th percentile", wording.seconds(winner.lone_p99_s), _versus(name, base and base.lone_p99_s, wording.seconds)))
    if winner.rows_per_s:
        found.append(("all lanes busy", _rate(winner.rows_per_s.median), _versus(name, base and base.rows_per_s, _rate)))
    if winner.rss_bytes:
        found.append(("memory", wording.size(winner.rss_bytes), _versus(name, base and base.rss_bytes, wording.size)))
    if winner.file_bytes:
        found.append(("file", wording.size(winner.file_bytes), f"built in {wording.seconds(winner.build_s)}" if winner.build_s else ""))
    if near := wording.parity_of(winner):
        found.append(("least cosine", wording.cosine(near.min_cosine), f"with eager, over {wording.count(near.rows, 'row')}"))
    if winner.metric is not None:
        found.append(("your metric", wording.number(winner.metric, 4), _versus("reference", report.reference_metric, lambda v: wording.number(v, 4))))
    return found


def _rate(value: float | None) -> str:
    return f"{wording.number(value)} rows/s"


def _versus(name: str, value: Figure | float | None, say: Callable[[float], str]) -> str:
    plain = value.median if isinstance(value, Figure) else value
    return f"{name}: {say(plain)}" if plain is not None and isfinite(plain) else ""


def notes(report: TuneReport) -> str:
    """Return what a reader must know."""
    said = [element("li", text(note)) for note in report.notes]
    return element("ul", said, class_="notice", aria_label="Notes") if said else ""


# Pictures


def picture(report: TuneReport) -> str:
    """Return latency against throughput; empty where nothing has both."""
    drawn = [row for row in report.rows if plots.is_drawn(row)]
    if not drawn:
        return ""
    title = element("h2", "Latency against throughput")
    lead = "Up and to the left is better. The line is the front: no candidate beats a point on it in both. Crosses are 95 % intervals."
    body = "".join(plots.tradeoff(report, shape) for shape in plots.TRADEOFF_SHAPES)
    head = element("figcaption", title + element("p", lead, class_="lead") + _legend(drawn, report))
    return element("figure", head + body, class_="card")


def _legend(drawn: Sequence[Row], report: TuneReport) -> str:
    kinds = ["reference" if row.status != "winner" and wording.is_reference(row, report) else row.status for row in drawn]
    names = {status: name for status, (name, _) in wording.STATUSES.items()}
    keys = [
        element("li", element("i", class_=f"key {kind}") + text(names.get(kind, f"reference, {report.reference}")))  # type: ignore[call-overload]
        for kind in (*names, "reference") if kind in kinds
    ]  # fmt: skip
    return element("ul", keys, class_="legend")


def curves(report: TuneReport) -> str:
    """Return seconds and rate by the size of a run, and the first curve's figures as a table."""
    rows = [row for row in report.rows if len(_points(row)) > 1]
    rows = [row for row in rows if row.curve_unit == rows[0].curve_unit][:MAX_CURVES]
    if not rows:
        return ""
    unit = rows[0].curve_unit
    series = [plots.Series(wording.clean(row.candidate), f"c{place}", _points(row)) for place, row in enumerate(rows)]
    keys = [element("li", element("i", class_=f"key line {one.class_}") + text(one.name)) for one in series]
    legend = element("ul", keys, class_="legend")
    pair = [
        element("figure", element("figcaption", element("h3", title)) + "".join(
            plots.costs(series, shape, unit=unit, is_rate=is_rate) for shape in plots.COST_SHAPES
        ))
        for title, is_rate in (("Time of a run", False), (f"{unit.capitalize()} a second", True))
    ]  # fmt: skip
    lead = f"One lane. Each point is a median with its 95 % interval; sizes count {_counted(unit)}."
    return _card("Cost of a run", legend + element("div", pair, class_="pair") + _curve_table(rows[0]), lead=lead)


def _counted(unit: str) -> str:
    return "padded tokens, which are rows times the longest row" if unit == "tokens" else unit


def _points(row: Row) -> list[plots.CurvePoint]:
    return [point for point in row.curve if is_positive(point.size, point.seconds.median)]


def _curve_table(row: Row) -> str:
    points = _points(row)
    unit = wording.unit_of(point.seconds.median for point in points)
    cells = [
        (
            f"{point.size:,}", text(unit(point.seconds.median)), text(wording.interval(point.seconds, unit.scale)),
            text(wording.number(point.size / point.seconds.median)), f"{point.seconds.samples:,}",
        )
        for point in points
    ]  # fmt: skip
    kind = row.curve_unit
    heads = [(kind, "n"), (f"a run, {unit.name}", "n"), ("95 % interval", "n"), (f"{kind}/s", "n"), ("samples", "n")]
    inner = table(f"Cost of a run of {wording.clean(row.candidate)}", heads, cells, class_="tight")
    return element("details", element("summary", text(f"The figures of {row.candidate}")) + inner)


# Tables


def candidates(report: TuneReport) -> str:
    """Return a table of all that was measured, the winner first."""
    rows = [row for _, group in wording.groups(report) for row in group if is_measured(row)]
    if not rows:
        return ""
    columns = _candidate_columns(rows, report)
    shown = {head: [cell(row) for row in rows] for head, (_, cell) in columns.items()}
    kept = [head for head, cells in shown.items() if any(cell not in ("", wording.NONE) for cell in cells)]
    heads = [("candidate", "name"), *((head, columns[head][0]) for head in kept)]
    body = [[text(row.candidate), *(shown[head][place] for head in kept)] for place, row in enumerate(rows)]
    lead = f"Ratios are paired round by round with {report.reference}; above 1 is better {wording.goal_phrase(report.goal)}."
    layout = " 1x2 stands for one lane with two threads. Brackets are 95 % intervals of the median."
    return _card("Candidates", table("Candidates", heads, body, class_="candidates"), lead=(lead if report.reference else "") + layout)


def _candidate_columns(rows: Sequence[Row], report: TuneReport) -> dict[str, tuple[str, Callable[[Row], str]]]:
    lone = wording.unit_of(row.lone_s.median for row in rows if row.lone_s)
    memory, file = (wording.unit_of(column, wording.BYTES) for column in ([r.rss_bytes for r in rows], [r.file_bytes for r in rows]))
    ends = [value for row in rows if row.ratio for value in (row.ratio.median, *(wording.spread(row.ratio) or ()))]
    largest = max([1.0, *(value for value in ends if is_positive(value))])
    return {
        "status": ("", lambda row: element("span", text(wording.STATUSES[row.status][0]), class_=f"status {row.status}")),
        f"times {report.reference or 'the reference'}": ("n", lambda row: _figure(row.ratio, ratio=True)),
        "": ("bar-cell", lambda row: plots.ratio_bar(row.ratio, largest, row.status)),
        f"one row alone, {lone.name}": ("n", lambda row: _figure(row.lone_s, lone)),
        f"p99, {lone.name}": ("n", lambda row: text(lone(row.lone_p99_s))),
        "rows/s": ("n", lambda row: _figure(row.rows_per_s, wording.Unit(""))),
        "rows a run": ("n", lambda row: f"{row.batch_rows:,}" if row.batch_rows else wording.NONE),
        f"memory, {memory.name}": ("n", lambda row: text(memory(row.rss_bytes))),
        f"file, {file.name}": ("n", lambda row: text(file(row.file_bytes))),
        "build": ("n", lambda row: text(wording.seconds(row.build_s))),
        "metric": ("n", lambda row: text(wording.number(row.metric, 4))),
    }


def _figure(figure: Figure | None, unit: wording.Unit | None = None, *, ratio: bool = False) -> str:
    if figure is None or not isfinite(figure.median):
        return wording.NONE
    if unit is None or ratio:
        return _stacked(wording.times(figure), wording.interval(figure, say=wording.ratio))
    return _stacked(unit(figure.median), wording.interval(figure, unit.scale))


def parity(report: TuneReport) -> str:
    """Return how near each variant's answers are to eager's, output by output, and its worst rows."""
    found = _parities(report)
    rows = [
        [
            element("span", text(name), class_="again" if place else None), text(output.name), wording.cosine(output.min_cosine), wording.cosine(output.mean_cosine),
            wording.number(output.max_abs), wording.number(output.max_rel),
            text(wording.NONE if output.agreement is None else wording.share(output.agreement)),
            f"{output.num_nonfinite:,}" if output.num_nonfinite else wording.NONE, _passed(near),
        ]
        for name, near in found for place, output in enumerate(near.outputs)
    ]  # fmt: skip
    if not rows:
        return ""
    heads = [
        ("variant", "name"), ("output", "name"), ("least cosine", "n"), ("mean cosine", "n"), ("max abs", "n"), ("max rel", "n"),
        ("agreement", "n"), ("NaN, inf", "n"), ("", ""),
    ]  # fmt: skip
    kept = [place for place, (head, _) in enumerate(heads) if place < 2 or head == "" or any(row[place] != wording.NONE for row in rows)]
    rows = [[row[place] for place in kept] for row in rows]
    lead = f"Against eager, over {wording.count(max(near.rows for _, near in found), 'row')}. Max rel is max abs divided by the output's largest value."
    body = table("Parity with eager", [heads[place] for place in kept], rows)
    return _card("Same answers?", body + _worst(found), lead=lead)


def _parities(report: TuneReport) -> list[tuple[str, ParityReport]]:
    """Each variant once, unless its layouts differ in their answers."""
    found: dict[tuple[str, str], ParityReport] = {}
    for row in report.rows:
        if near := wording.parity_of(row):
            found.setdefault((row.candidate.variant, repr(near)), near)
    return [(variant, near) for (variant, _), near in found.items()]


def _passed(near: ParityReport) -> str:
    return element("span", "passed" if near.passed else "refused", class_=f"status {'passed' if near.passed else 'refused'}")


def _worst(found: Sequence[tuple[str, ParityReport]]) -> str:
    rows = [
        [text(name), f"{worst.row:,}", text(worst.output), wording.cosine(worst.cosine), wording.number(worst.max_abs)]
        for name, near in sorted(found, key=lambda pair: pair[1].passed) for worst in near.worst[: 2 if near.passed else 5]
    ]  # fmt: skip
    if not rows:
        return ""
    heads = [("variant", "name"), ("row of the sample", "n"), ("output", "name"), ("cosine", "n"), ("max abs", "n")]
    inner = element("summary", "Rows that are furthest off") + table("Rows that are furthest off", heads, rows, class_="tight")
    return element("details", inner, **{"open": "open" if len(rows) <= MAX_OPEN_ROWS else None})


def unused(report: TuneReport) -> str:
    """Return what was refused, failed, dropped or not tried, each with its reason."""
    parts = []
    for status, rows in wording.groups(report):
        if status in ("winner", "tied", "measured"):
            rows = [row for row in rows if row.reason]
        if not rows:
            continue
        name, meaning = wording.STATUSES[status]
        head = element("h3", element("span", text(name), class_=f"status {status}") + element("small", text(meaning)))
        items = [
            element("dt", text(wording.joined(names))) + element("dd", text(reason or "no reason is known"))
            for reason, names in by_reason(rows)
        ]
        parts.append(head + element("dl", items, class_="reasons"))
    return _card("Not used, and why", "".join(parts))


# Under load, effort, machine


def confirmation(report: TuneReport) -> str:
    """Return the winner behind the real batcher: measured against predicted."""
    found = report.confirmation
    if found is None:
        return ""
    pairs = (("p50", found.p50_s, found.predicted_p50_s), ("p99", found.p99_s, found.predicted_p99_s))
    unit = wording.unit_of(value for _, *values in pairs for value in values)
    rows = [
        [name, text(unit(measured)), text(unit(predicted)), text(_quotient(measured, predicted))]
        for name, measured, predicted in pairs
    ]
    heads = [("latency", "name"), (f"measured, {unit.name}", "n"), (f"predicted, {unit.name}", "n"), ("measured / predicted", "n")]
    said = element("span", "confirmed" if found.confirmed else "not confirmed", class_="good" if found.confirmed else "bad")
    reason = f": {text(found.reason)}" if found.reason else ""
    cost = f"Runs took {wording.number(found.cost_ratio)} times what the cost curve says."
    body = element("p", said + reason, class_="said") + table("Latency under load", heads, rows, class_="tight") + element("p", text(cost), class_="lead")
    return _card("Under load", body, lead=wording.confirmation_line(report) + ", through the real batcher.")


def _quotient(measured: float, predicted: float) -> str:
    return f"{wording.ratio(measured / predicted)}x" if is_positive(measured, predicted) else wording.NONE


def effort(report: TuneReport) -> str:
    """Return where the time went, phase by phase, and the rounds."""
    spent = {name: value for name, value in report.spent_s.items() if is_positive(value)}
    total = sum(spent.values())
    whole = max(total, report.budget_s) if is_positive(report.budget_s) else total
    shares = [(value / whole, f"s{place % 5}") for place, value in enumerate(spent.values())]
    keys = [
        element("div", element("dt", element("i", class_=f"key block s{place % 5}") + text(name)) + element("dd", text(wording.seconds(value))))
        for place, (name, value) in enumerate(spent.items())
    ]  # fmt: skip
    body = plots.share_bar(shares) + element("dl", keys, class_="spent") if spent else ""
    said = rounds(report)
    body += element("p", text(f"{said}."), class_="lead") if said else ""
    return _card("Time spent", body, lead=f"{wording.seconds(total)}{budget(report)}." if spent else "")


def machine(report: TuneReport) -> str:
    """Return the machine, its libraries, and what gives the report again."""
    facts = dict(report.machine)
    libraries = facts.pop("libraries", None)
    memory = facts.pop("memory_bytes", None)
    items = [(key.replace("_", " "), text(wording.facts(value))) for key, value in facts.items() if value not in (None, "", [], {})]
    if isinstance(memory, int | float):
        items.insert(min(2, len(items)), ("memory", text(wording.size(memory))))
    if libraries:
        items.append(("libraries", text(wording.facts(libraries))))
    body = element("dl", [element("dt", text(key)) + element("dd", said) for key, said in items], class_="facts") if items else ""
    if report.command:
        body += element("h3", "The command") + element("pre", element("code", text(report.command)), tabindex=0)
    return _card("Where this was measured", body)
