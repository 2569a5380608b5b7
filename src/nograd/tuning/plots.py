"""Small plots of a report as inline SVG: cost curves and bars. `report.css` sets the colours by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nograd.report import figures
from nograd.report.axes import Axes, Shape, drawing, line, reach, tick
from nograd.report.figures import Figure
from nograd.report.markup import element
from nograd.report.svg import AxisScale, is_positive, polyline, text_width
from nograd.runtime.terminal import clean
from nograd.tuning.values import CurvePoint

__all__ = ["SHAPES", "Series", "costs", "ratio_bar", "share_bar"]

SHAPES = (Shape("wide", 500, 270), Shape("small", 330, 240, left=50, right=12))
"""Shapes of cost curves: `wide` from 1000 pixels, `small` below (see `report.css`)."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its name, the class that colours it, and its points."""

    name: str
    class_: str
    points: Sequence[CurvePoint]


def costs(series: Sequence[Series], shape: Shape, *, unit: str, is_rate: bool) -> str:
    """Return a plot of the seconds of a run by its size, or of the rate by size; each point has its interval.

    Args:
        series: one or more curves; all sizes and times are positive.
        shape: the size of the drawing.
        unit: unit of the sizes: `rows` or `tokens`.
        is_rate: plot size divided by seconds.
    """
    data = [(one, [(point.size, _rate(point) if is_rate else point.seconds) for point in one.points]) for one in series]
    axes = _cost_axes([pair for _, pairs in data for pair in pairs], shape, unit, is_rate=is_rate)
    parts = axes.draw()
    for one, pairs in reversed(data):  # the first curve is drawn on top
        parts += _curve(one.class_, pairs, axes)
    title = f"{unit.capitalize()} per second by size of a run" if is_rate else "Seconds of a run by its size"
    key = "rate" if is_rate else "cost"
    return drawing(shape, key, title, clean("; ".join(_series_text(one, pairs, axes) for one, pairs in data)), parts)


def _rate(point: CurvePoint) -> Figure:
    seconds = point.seconds
    low, high = (point.size / end if is_positive(end) else 0.0 for end in (seconds.high, seconds.low))
    return Figure(point.size / seconds.median, low, high, seconds.samples)


def _cost_axes(pairs: Sequence[tuple[int, Figure]], shape: Shape, unit: str, *, is_rate: bool) -> Axes:
    frame = shape.frame
    values = [value for _, figure in pairs for value in reach(figure)]
    sizes = [float(size) for size, _ in pairs]
    x, y = (
        AxisScale.over(sizes, frame.left, frame.right, pad=0.03),
        AxisScale.over(values, frame.bottom, frame.top, from_zero=True),
    )
    shown = figures.Unit("") if is_rate else figures.unit_of(figure.median for _, figure in pairs)
    title = f"{unit} per second" if is_rate else f"{shown.name} per run"
    return Axes(shape, x, y, figures.Unit(""), shown, _size_ticks(sizes, x), f"{unit} in a run", title)


def _size_ticks(sizes: Sequence[float], x: AxisScale) -> list[float]:
    """Return the sizes as ticks, from the largest down, as far as their labels have room."""
    found: list[float] = []
    for size in sorted(set(sizes), reverse=True):
        if not found or x(found[-1]) - x(size) >= 26 + text_width(tick(figures.Unit(""), size), 6):
            found.append(size)
    return found[::-1]


def _curve(class_: str, pairs: Sequence[tuple[int, Figure]], axes: Axes) -> list[str]:
    ends = [(axes.x(size), figures.spread(figure) or (figure.median, figure.median)) for size, figure in pairs]
    band = [(x, axes.y(low)) for x, (low, _) in ends] + [(x, axes.y(high)) for x, (_, high) in reversed(ends)]
    curve = [(axes.x(size), axes.y(figure.median)) for size, figure in pairs]
    parts = [polyline(band, class_="band", closed=True), polyline(curve, class_="line")]
    parts += [line(x, axes.y(low), x, axes.y(high), "whisker") for x, (low, high) in ends]
    parts += [element("circle", cx=x, cy=y, r=3, class_="dot") for x, y in curve]
    return [element("g", parts, class_=f"curve {class_}")]


def _series_text(one: Series, pairs: Sequence[tuple[int, Figure]], axes: Axes) -> str:
    unit = axes.y_unit
    return f"{one.name}: " + ", ".join(f"{size}: {unit(figure.median)} {unit.name}".strip() for size, figure in pairs)


# Bars


def ratio_bar(figure: Figure | None, largest: float, class_: str) -> str:
    """Return a bar from 0 to a ratio, its interval as a whisker, and a line at 1; empty if there is no ratio.

    Args:
        figure: the ratio.
        largest: the ratio at the right end, 1 or more.
        class_: class that colours the bar.
    """
    if figure is None or not is_positive(figure.median, largest):
        return ""
    scale = AxisScale(0.0, largest, 1.0, 129.0)
    parts = [element("rect", x=1, y=4, width=max(scale(figure.median) - 1, 1.0), height=10, class_=f"bar {class_}")]
    if ends := figures.spread(figure):
        parts.append(line(scale(ends[0]), 9, scale(ends[1]), 9, "whisker"))
        parts += [line(scale(end), 6, scale(end), 12, "whisker") for end in ends]
    parts.append(line(scale(1.0), 0, scale(1.0), 18, "one"))
    return element("svg", parts, viewBox="0 0 130 18", class_="ratio", aria_hidden="true")


def share_bar(parts: Sequence[tuple[float, str]]) -> str:
    """Return a bar of length 1, divided into shares, each with its class."""
    at, found = 0.0, []
    for share, class_ in parts:
        found.append(element("rect", x=at * 1000, y=0, width=max(share * 1000 - 2, 1.0), height=14, class_=class_))
        at += share
    return element(
        "svg", found, viewBox="0 0 1000 14", class_="shares", preserveAspectRatio="none", aria_hidden="true"
    )  # fmt: skip
