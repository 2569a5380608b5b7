"""Plots of a load run as inline SVG: latency against load, and the latency histogram of each load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nograd.bench.summary import Summary
from nograd.report import figures
from nograd.report.axes import Axes, Shape, drawing, text_at, ticks_of
from nograd.report.markup import element
from nograd.report.svg import AxisScale, polyline

__all__ = ["SHAPES", "by_kind", "latency_curves", "percentile_bars"]

SHAPES = (
    Shape("wide", 1060, 340, font_px=13, left=62),
    Shape("medium", 700, 300),
    Shape("narrow", 330, 260, left=50, right=12),
)
"""Shapes of each plot; the page shows one of them, depending on its width (see `report.css`)."""

CLASSES: Mapping[str, str] = {"p50": "c0", "p90": "c1", "p99": "c2", "p99.9": "c3"}
"""Percentile -> class that colours it."""

FEWEST_COLUMNS = 14
"""Minimum columns of a histogram. Two buckets that fill the frame would hide how narrow they are."""

Point = tuple[float, float]


def latency_curves(summaries: Sequence[Summary], shape: Shape) -> str:
    """Return the percentiles of latency by the rate of responses; empty with fewer than two loads with latencies.

    The load is the rate of responses, not the offered rate: beyond the server's capacity, curves go up and not to the
    right. Closed and open loops are separate lines, because latencies of clients that wait say nothing about clients that
    do not.
    """
    curves = {(name, kind): _points(each, name) for kind, each in by_kind(summaries).items() for name in CLASSES}
    curves = {key: points for key, points in curves.items() if points}
    values = [y for points in curves.values() for _, y in points]
    rates = [x for points in curves.values() for x, _ in points]
    if sum(len(points) for (name, _), points in curves.items() if name == "p50") < 2:
        return ""
    axes = _axes(rates, values, shape)
    parts = axes.draw()
    for (name, kind), points in reversed(curves.items()):
        placed = [(axes.x(x), axes.y(y)) for x, y in points]
        marks = [element("circle", cx=x, cy=y, r=3, class_="dot") for x, y in placed]
        parts.append(element("g", [polyline(placed, class_="line"), *marks], class_=f"curve {kind} {CLASSES[name]}"))
    unit = axes.y_unit
    description = "; ".join(
        f"{name}, {kind} loop: " + ", ".join(f"{unit(y)} {unit.name} at {x:.4g}/s" for x, y in points)
        for (name, kind), points in curves.items()
    )
    return drawing(shape, "load", "Latency against load", description, parts)


def by_kind(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Return `closed` loops in the order of their runs, and `open` loops by offered rate."""
    opened = [(each.offered_per_s, each) for each in summaries if each.offered_per_s is not None]
    return {
        "closed": [each for each in summaries if each.offered_per_s is None],
        "open": [each for _, each in sorted(opened, key=lambda pair: pair[0])],
    }


def _points(summaries: Sequence[Summary], name: str) -> list[Point]:
    found = [(each.rate.per_s, each.percentiles.get(name)) for each in summaries]
    return [(rate, value) for rate, value in found if rate > 0 and value is not None and value > 0]


def _axes(rates: Sequence[float], values: Sequence[float], shape: Shape) -> Axes:
    frame = shape.frame
    x = AxisScale.over(rates, frame.left, frame.right, pad=0.04)
    y = AxisScale.over(values, frame.bottom, frame.top, from_zero=True)
    unit = figures.unit_of(values)
    return Axes(shape, x, y, figures.Unit(""), unit, ticks_of(x, shape), "answers a second", f"latency, {unit.name}")


def percentile_bars(summary: Summary, shape: Shape, key: str) -> str:
    """Return the latency histogram with a bar for each bucket; empty with fewer than two buckets."""
    if len(summary.buckets) < 2:
        return ""
    frame = shape.frame
    step = summary.buckets[1][0] / summary.buckets[0][0]
    ends = [end for end, _ in summary.buckets]
    room = step ** max(0.0, (FEWEST_COLUMNS - len(ends)) / 2)
    x = AxisScale(ends[0] / step / room, ends[-1] * room, frame.left, frame.right, is_log=True)
    most = max(count for _, count in summary.buckets)
    y = AxisScale(0.0, most * 1.08, frame.bottom, frame.top)
    unit = figures.unit_of(ends)
    axes = Axes(shape, x, y, unit, figures.Unit(""), ticks_of(x, shape), f"latency, {unit.name}", "requests")
    parts = axes.draw()
    for end, count in summary.buckets:
        left, right, top = x(end / step), x(end), y(count)
        if count:
            width, height = max(right - left - 1, 1.0), max(frame.bottom - top, 1.0)
            parts.append(element("rect", x=left, y=frame.bottom - height, width=width, height=height, class_="bar winner"))
    for at, name in enumerate(("p50", "p99")):
        if (value := summary.percentiles.get(name)) is not None:
            parts.append(element("line", x1=x(value), y1=frame.top, x2=x(value), y2=frame.bottom, class_="one"))
            side, anchor = (-4, "end") if x(value) > frame.right - 40 else (4, "start")
            parts.append(text_at(name, x(value) + side, frame.top + 12 + 15 * at, "tick", anchor))
    description = ", ".join(f"{count} up to {unit(end)} {unit.name}" for end, count in summary.buckets if count)
    return drawing(shape, key, f"Latencies at {summary.label}", description, parts)
