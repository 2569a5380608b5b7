"""Render the parts of the report's page, except its tables. Each function returns markup, empty if it has no content."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import isfinite

from nograd.report import figures
from nograd.report.figures import Figure
from nograd.report.markup import card, element, table, text
from nograd.report.svg import is_positive
from nograd.runtime.terminal import clean
from nograd.tuning import plots, tradeoff, wording
from nograd.tuning.report import budget, rounds
from nograd.tuning.values import CurvePoint, Row, TuneReport

__all__ = ["curves", "effort", "machine", "notes", "picture", "verdict"]

MAX_CURVES = 4
"""Maximum cost curves in one plot; the winner's is first."""


# The verdict


def verdict(report: TuneReport) -> str:
    """Return the verdict, the runner-up, and the winner's figures next to the reference's."""
    about = ", ".join(part for part in (f"goal {report.goal}", report.data, _tolerance(report)) if part)
    parts = [element("h1", text(report.model or "a model")), element("p", text(about), class_="about")]
    parts.append(element("p", _sentence(report), class_="verdict"))
    own = report.winner.reason if report.winner else ""
    parts += [element("p", text(said), class_="lead") for said in (own, wording.margin(report)) if said]
    tiles = "".join(map(_tile, _tiles(report)))
    return element("section", [*parts, element("dl", tiles, class_="tiles") if tiles else ""], class_="card top-card")


def _tile(tile: tuple[str, str, str]) -> str:
    name, value, note = map(text, tile)
    said = element("dt", name) + element("dd", value)
    return element("div", said + (element("dd", note, class_="note") if note else ""))


def _tolerance(report: TuneReport) -> str:
    return f"tolerance {report.tolerance}" if report.tolerance else ""


def _sentence(report: TuneReport) -> str:
    winner = report.winner
    if winner is None:
        return element("strong", text(wording.verdict(report)))
    said, _, confirmed = wording.standing(report).rpartition("; ")
    tone = {True: "good", False: "bad"}[report.confirmation.confirmed] if report.confirmation else "quiet"
    name = element("strong", text(wording.full_name(winner.candidate)))
    whole = re.sub(r"\[[^\]]*\]", r'<span class="whole">\g<0></span>', text(said))  # an interval must not break over two lines
    return f"{name}: {whole}; {element('span', text(confirmed), class_=tone)}"


def _tiles(report: TuneReport) -> list[tuple[str, str, str]]:
    """Return name, value and note of each known figure of the winner."""
    winner = report.winner
    if winner is None:
        return []
    near = wording.parity_of(winner)
    built = f"built in {figures.seconds(winner.build_s)}" if winner.build_s else ""
    found = [
        ("one row alone", _timed(winner.lone_s), _versus(report, lambda row: _timed(row.lone_s))),
        (
            "its 99th percentile",
            figures.seconds(winner.lone_p99_s),
            _versus(report, lambda row: figures.seconds(row.lone_p99_s)),
        ),
        ("all lanes busy", _rate(winner.rows_per_s), _versus(report, lambda row: _rate(row.rows_per_s))),
        ("memory", figures.size(winner.rss_bytes), _versus(report, lambda row: figures.size(row.rss_bytes))),
        ("file", figures.size(winner.file_bytes), built),
        ("least cosine", figures.cosine(near.min_cosine), f"with eager, over {figures.count(near.rows, 'row')}")
        if near
        else None,
        ("your metric", figures.number(winner.metric, 4), _reference_metric(report)),
    ]
    return [tile for tile in found if tile is not None and tile[1] != figures.NONE]


def _timed(figure: Figure | None) -> str:
    return figures.seconds(figure.median if figure else None)


def _rate(figure: Figure | None) -> str:
    return f"{figures.number(figure.median)} rows/s" if figure and isfinite(figure.median) else figures.NONE


def _versus(report: TuneReport, say: Callable[[Row], str]) -> str:
    base = next((row for row in report.rows if wording.is_reference(row, report) and row is not report.winner), None)
    said = say(base) if base else figures.NONE
    return f"{base.candidate}: {said}" if base and said != figures.NONE else ""


def _reference_metric(report: TuneReport) -> str:
    return f"reference: {figures.number(report.reference_metric, 4)}" if report.reference_metric is not None else ""


def notes(report: TuneReport) -> str:
    """Return the notes of the report."""
    said = [element("li", text(note)) for note in report.notes]
    return element("ul", said, class_="notice", aria_label="Notes") if said else ""


# Plots


def picture(report: TuneReport) -> str:
    """Return the plot of latency against throughput; empty if fewer than two candidates have both."""
    drawn = [row for row in report.rows if tradeoff.is_drawn(row)]
    if len(drawn) < 2:
        return ""
    title = element("h2", "Latency against throughput")
    lead = "Up and to the left is better. No candidate is better in both than a point on the line. Crosses are 95 % intervals."
    if len(drawn) > min(map(tradeoff.max_names, tradeoff.SHAPES)):
        lead += " Points without a name are in the table below."
    body = "".join(tradeoff.tradeoff(report, shape) for shape in tradeoff.SHAPES)
    head = element("figcaption", title + element("p", lead, class_="lead") + _legend(drawn, report))
    return element("figure", head + body, class_="card")


def _legend(drawn: Sequence[Row], report: TuneReport) -> str:
    names = {str(status): name for status, (name, _) in wording.STATUSES.items()}
    names["reference"] = f"reference, {report.reference}"
    kinds = {"reference" if row.status != "winner" and wording.is_reference(row, report) else row.status for row in drawn}
    keys = [element("li", element("i", class_=f"key {kind}") + text(name)) for kind, name in names.items() if kind in kinds]
    return element("ul", keys, class_="legend")


def curves(report: TuneReport) -> str:
    """Return the plots of seconds and rate by the size of a run, and a table of the first curve's figures."""
    rows = [row for row in report.rows if len(_points(row)) > 1]
    rows = [row for row in rows if row.curve_unit == rows[0].curve_unit][:MAX_CURVES]
    if not rows:
        return ""
    unit = rows[0].curve_unit
    series = [plots.Series(clean(row.candidate), f"c{place}", _points(row)) for place, row in enumerate(rows)]
    keys = [element("li", element("i", class_=f"key line {one.class_}") + text(one.name)) for one in series]
    legend = element("ul", keys, class_="legend")
    pair = [
        element("figure", element("figcaption", element("h3", title)) + "".join(
            plots.costs(series, shape, unit=unit, is_rate=is_rate) for shape in plots.SHAPES
        ))
        for title, is_rate in (("Time of a run", False), (f"{unit.capitalize()} per second", True))
    ]  # fmt: skip
    lead = f"All lanes busy. Each point is a median with its 95 % interval; sizes count {_counted(unit)}."
    return card("Cost of a run", legend + element("div", pair, class_="pair") + _curve_table(rows[0]), lead=lead)


def _counted(unit: str) -> str:
    return "padded tokens, which are rows times the longest row" if unit == "tokens" else unit


def _points(row: Row) -> list[CurvePoint]:
    return [point for point in row.curve if is_positive(point.size, point.seconds.median)]


def _curve_table(row: Row) -> str:
    points = _points(row)
    unit = figures.unit_of(point.seconds.median for point in points)
    cells = [
        (
            f"{point.size:,}", text(unit(point.seconds.median)), text(figures.interval(point.seconds, unit.scale)),
            text(figures.number(point.size / point.seconds.median)), f"{point.seconds.samples:,}",
        )
        for point in points
    ]  # fmt: skip
    kind = row.curve_unit
    heads = [(kind, "n"), (f"a run, {unit.name}", "n"), ("95 % interval", "n"), (f"{kind}/s", "n"), ("samples", "n")]
    inner = table(f"Cost of a run of {clean(row.candidate)}", heads, cells, class_="tight")
    return element("details", element("summary", text(f"The figures of {row.candidate}")) + inner)


# Effort, machine


def effort(report: TuneReport) -> str:
    """Return the time spent per phase, and the number of rounds."""
    spent = {name: value for name, value in report.spent_s.items() if is_positive(value)}
    total = sum(spent.values())
    whole = max(total, report.budget_s) if is_positive(report.budget_s) else total
    shares = [(value / whole, f"s{place % 5}") for place, value in enumerate(spent.values())]
    keys = [_phase(name, value, f"s{place % 5}") for place, (name, value) in enumerate(spent.items())]
    body = plots.share_bar(shares) + element("dl", keys, class_="spent") if spent else ""
    said = rounds(report)
    body += element("p", text(f"{said}."), class_="lead") if said else ""
    return card("Time spent", body, lead=f"{figures.seconds(total)}{budget(report)}." if spent else "")


def _phase(name: str, value: float, class_: str) -> str:
    key = element("dt", element("i", class_=f"key block {class_}") + text(name))
    return element("div", key + element("dd", text(figures.seconds(value))))


def machine(report: TuneReport) -> str:
    """Return the machine, its libraries, and the command that reproduces the report."""
    facts = dict(report.machine)
    libraries = facts.pop("libraries", None)
    memory = facts.pop("memory_bytes", None)
    items = [
        (key.replace("_", " "), text(wording.facts(value))) for key, value in facts.items() if value not in (None, "", [], {})
    ]
    if isinstance(memory, int | float):
        items.insert(min(2, len(items)), ("memory", text(figures.size(memory))))
    if libraries:
        items.append(("libraries", text(wording.facts(libraries))))
    body = (
        element("dl", [element("dt", text(key)) + element("dd", said) for key, said in items], class_="facts") if items else ""
    )
    if report.command:
        body += element("h3", "The command") + element("pre", element("code", text(report.command)), tabindex=0)
    return card("Machine", body)
