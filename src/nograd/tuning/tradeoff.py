"""Plot latency of a single row against rows per second, with the Pareto front, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from nograd.report import figures
from nograd.report.axes import Axes, Shape, drawing, line, reach, text_at, ticks_of
from nograd.report.markup import element
from nograd.report.svg import AxisScale, Box, Label, is_positive, place, polyline
from nograd.runtime.terminal import clean
from nograd.tuning import wording
from nograd.tuning.values import Row, TuneReport

__all__ = ["SHAPES", "front", "is_drawn", "max_names", "tradeoff"]

SHAPES = (Shape("wide", 1060, 400, 13), Shape("medium", 680, 380), Shape("narrow", 330, 330, left=50, right=12))
"""Shapes of the plot: `wide` from 1000 pixels, `medium` below, `narrow` below 620 (see `report.css`)."""


def is_drawn(row: Row) -> bool:
    """Return True if a row has both figures of a point in the plot."""
    return (
        row.lone_s is not None and row.rows_per_s is not None and is_positive(row.lone_s.median, row.rows_per_s.median)
    )  # fmt: skip


def point_of(row: Row) -> tuple[float, float]:
    """Return the seconds of a single row, and rows per second."""
    assert row.lone_s is not None  # noqa: S101  see `is_drawn`
    assert row.rows_per_s is not None  # noqa: S101
    return row.lone_s.median, row.rows_per_s.median


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row beats in both latency and rate (Pareto), by latency."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (point_of(row)[0], -point_of(row)[1])):
        if not best or point_of(row)[1] > point_of(best[-1])[1]:
            best.append(row)
    return best


def tradeoff(report: TuneReport, shape: Shape) -> str:
    """Return the plot of single-row latency against rows per second, with intervals, the front and names."""
    rows = [row for row in report.rows if is_drawn(row)]
    axes = _tradeoff_axes(rows, shape)
    best = front(rows)
    marks = [_mark(row, axes, report) for row in reversed(rows)]
    parts = [
        *axes.draw(),
        _front_line(best, axes),
        *(_whiskers(row, axes) for row in rows),
        *marks,
        *_names(rows, axes, report),
    ]
    desc = "; ".join(
        f"{row.candidate}: {figures.seconds(x)}, {figures.number(y)} rows/s" for row in rows for x, y in [point_of(row)]
    )
    return drawing(shape, "tradeoff", "Latency of one row alone against rows per second", clean(desc), parts)


def _tradeoff_axes(rows: Sequence[Row], shape: Shape) -> Axes:
    frame = shape.frame
    latencies = [value for row in rows if row.lone_s for value in reach(row.lone_s)]
    rate = [value for row in rows if row.rows_per_s for value in reach(row.rows_per_s)]
    x, y = AxisScale.over(latencies, frame.left, frame.right), AxisScale.over(rate, frame.bottom, frame.top, pad=0.1)
    unit = figures.unit_of(latencies)
    return Axes(shape, x, y, unit, figures.Unit(""), ticks_of(x, shape), f"one row alone, {unit.name}", "rows per second")


def _front_line(best: Sequence[Row], axes: Axes) -> str:
    """Return the front as a line. It steps from point to point, and continues to the frame at both ends."""
    frame, corners = axes.shape.frame, _front_corners(best, axes)
    area = polyline([*corners, (frame.right, frame.bottom)], class_="beaten", closed=True)
    return area + polyline(corners, class_="front")


def _front_corners(best: Sequence[Row], axes: Axes) -> list[tuple[float, float]]:
    frame, points = axes.shape.frame, [(axes.x(x), axes.y(y)) for x, y in map(point_of, best)]
    corners = [(points[0][0], frame.bottom)]
    for x, y in points:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (frame.right, corners[-1][1])]


def _whiskers(row: Row, axes: Axes) -> str:
    x, y = (scale(value) for scale, value in zip((axes.x, axes.y), point_of(row), strict=True))
    parts = []
    if ends := figures.spread(row.lone_s):
        parts.append(line(axes.x(ends[0]), y, axes.x(ends[1]), y, "whisker"))
    if ends := figures.spread(row.rows_per_s):
        parts.append(line(x, axes.y(ends[0]), x, axes.y(ends[1]), "whisker"))
    return element("g", parts, class_=f"of-{row.status}")


def _mark(row: Row, axes: Axes, report: TuneReport) -> str:
    latency, rate = point_of(row)
    x, y = axes.x(latency), axes.y(rate)
    said = (
        f"{row.candidate} ({wording.STATUSES[row.status][0]}): {figures.seconds(latency)} alone, {figures.number(rate)} rows/s"
    )
    title = element("title", escape(clean(said)))
    kind = "reference" if wording.is_reference(row, report) and row.status != "winner" else row.status
    if kind == "reference":
        return element("rect", title, x=x - 5, y=y - 5, width=10, height=10, class_="mark reference")
    ring = element("circle", cx=x, cy=y, r=11, class_="ring") if kind == "winner" else ""
    return ring + element("circle", title, cx=x, cy=y, r=7 if kind == "winner" else 5, class_=f"mark {kind}")


def _names(rows: Sequence[Row], axes: Axes, report: TuneReport) -> list[str]:
    """Return labels next to the points: the winner's first, then those of the front. Labels without room are omitted."""
    best, size = front(rows), axes.shape.font_px
    order = sorted(rows, key=lambda row: _rank(row, report, is_best=row in best))
    most = max_names(axes.shape)
    points = [(_short(str(row.candidate)), axes.x(point_of(row)[0]), axes.y(point_of(row)[1])) for row in order]
    radii = [13 if row.status == "winner" else 6 for row in order]
    taken = [Box(x - r, y - r, x + r, y + r) for (_, x, y), r in zip(points, radii, strict=True)] + _whisker_boxes(rows, axes)
    corners = _front_corners(best, axes)
    lines = [Box(min(a, c), min(b, d) - 1, max(a, c) + 1, max(b, d)) for (a, b), (c, d) in pairwise(corners)]
    winners = {point[1:] for row, point in zip(order, points, strict=True) if row.status == "winner"}
    labels = place(points[:most], taken, axes.shape.frame, font_px=size, lines=lines)
    return [part for label in labels for part in _name(label, size, is_winner=label.point in winners)]


def max_names(shape: Shape) -> int:
    """Return the maximum number of labels at which a reader can still match each label to its point."""
    frame = shape.frame
    return int((frame.right - frame.left) * (frame.bottom - frame.top) / 7500)


def _rank(row: Row, report: TuneReport, *, is_best: bool) -> int:
    if row.status == "winner":
        return 0
    if is_best or wording.is_reference(row, report):
        return 1 if is_best else 2
    return 3 + ("tied", "measured", "dropped").index(row.status) if row.status in ("tied", "measured", "dropped") else 6


def _name(label: Label, size: float, *, is_winner: bool) -> list[str]:
    box, (x, y) = label.box, label.point
    middle = (box.left + box.right) / 2
    anchor, at = ("start", box.left) if box.left > x else ("end", box.right) if box.right < x else ("middle", middle)
    said = text_at(label.text, at, box.bottom - size * 0.32, "name winner" if is_winner else "name", anchor)
    if not label.is_far:
        return [said]
    near = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
    return [line(x, y, *near, "leader"), said]


def _whisker_boxes(rows: Sequence[Row], axes: Axes) -> list[Box]:
    found = []
    for row in rows:
        x, y = axes.x(point_of(row)[0]), axes.y(point_of(row)[1])
        if ends := figures.spread(row.lone_s):
            found.append(Box(axes.x(ends[0]), y - 1, axes.x(ends[1]), y + 1))
        if ends := figures.spread(row.rows_per_s):
            found.append(Box(x - 1, axes.y(ends[1]), x + 1, axes.y(ends[0])))
    return found


def _short(name: str, most: int = 28) -> str:
    name = clean(name)
    return name if len(name) <= most else f"{name[: most - 9]}\N{HORIZONTAL ELLIPSIS}{name[-8:]}"
