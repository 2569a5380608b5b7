"""Render a load run as one HTML file without scripts or external resources, for light and dark."""

from __future__ import annotations

from nograd import __version__
from nograd.bench.plots import CLASSES, SHAPES, by_kind, latency_curves, percentile_bars
from nograd.bench.report import COLUMNS, BenchReport, cells, notes
from nograd.report.markup import card, element, table, text
from nograd.report.page import header, page

__all__ = ["to_html"]


def to_html(report: BenchReport) -> str:
    """Return the report as one page that needs no network and no script. Write it as UTF-8."""
    top = header("nograd bench", __version__, f"{report.when} UTC")
    return page(
        f"nograd bench: {report.target}", top, [_about(report), _curves(report), _table(report), *_latency_cards(report)]
    )


def _about(report: BenchReport) -> str:
    said = "Latencies are counted from when a request was due, so that waiting for the server is in them."
    return card(report.target, element("p", said, class_="about"))


def _curves(report: BenchReport) -> str:
    legend = [element("span", element("i", class_=f"key line {kind}") + text(name)) for name, kind in CLASSES.items()]
    if all(by_kind(report.summaries).values()):
        legend.append(element("span", text("dashed: closed loops, whose clients wait for their answers")))
    plots = "".join(latency_curves(report.summaries, shape) for shape in SHAPES)
    body = element("p", legend, class_="legend") + plots if plots else ""
    return card(
        "Latency against load",
        body,
        lead="The horizontal axis shows answers per second. Beyond the server's capacity, curves rise steeply.",
    )


def _table(report: BenchReport) -> str:
    heads = [(name, "name" if name == "load" else "n") for name in COLUMNS]
    rows = [[text(cell) for cell in cells(summary)] for summary in report.summaries]
    listed = element("ul", [element("li", text(note)) for note in notes(report)], class_="about")
    return card("Figures", table("Every load", heads, rows) + listed)


def _latency_cards(report: BenchReport) -> list[str]:
    return [
        card(f"Latencies at {summary.label}", "".join(percentile_bars(summary, shape, f"spread{at}") for shape in SHAPES))
        for at, summary in enumerate(report.summaries)
    ]
