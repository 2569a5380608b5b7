"""The report's pictures as inline SVG. Colours come from `report.css` by class; nothing here is fetched, nothing needs a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from nograd.tuning import wording
from nograd.tuning.markup import element
from nograd.tuning.svg import Box, Label, Scale, is_positive, place, polyline, text_width
from nograd.tuning.values import CurvePoint, Figure, Row, TuneReport

__all__ = ["COST_SHAPES", "TRADEOFF_SHAPES", "Series", "Shape", "costs", "front", "is_drawn", "ratio_bar", "share_bar", "tradeoff"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a plot, in CSS pixels; a page holds each plot in several, and shows one."""

    name: str
    width: float
    height: float
    font_px: float = 12.0
    left: float = 54.0
    right: float = 16.0
    top: float = 30.0
    bottom: float = 44.0

    @property
    def frame(self) -> Box:
        """Where data is drawn."""
        return Box(self.left, self.top, self.width - self.right, self.height - self.bottom)


TRADEOFF_SHAPES = (Shape("wide", 1060, 400, 13), Shape("medium", 680, 380), Shape("narrow", 330, 330, left=50, right=12))
COST_SHAPES = (Shape("wide", 500, 270), Shape("small", 330, 240, left=50, right=12))
"""`wide` from 1000 pixels on, `medium` and `small` below it, `narrow` below 620 (see `report.css`)."""


def _svg(shape: Shape, key: str, title: str, desc: str, parts: Iterable[str]) -> str:
    ids = (f"{key}-{shape.name}-title", f"{key}-{shape.name}-desc")
    head = [element("title", escape(title), id=ids[0]), element("desc", escape(desc), id=ids[1])]
    return element(
        "svg", [*head, *parts], viewBox=f"0 0 {shape.width:g} {shape.height:g}", class_=f"plot {shape.name}", role="img",
        aria_labelledby=" ".join(ids),
    )  # fmt: skip


def _text(text: str, x: float, y: float, class_: str, anchor: str = "start") -> str:
    return element("text", escape(text), x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


# Axes


@dataclass(frozen=True, slots=True)
class Axes:
    """A frame with two scales, and what their ticks are called."""

    shape: Shape
    x: Scale
    y: Scale
    x_unit: wording.Unit
    y_unit: wording.Unit
    x_ticks: Sequence[float]
    x_title: str
    y_title: str

    def draw(self) -> list[str]:
        """Return grid, ticks and titles."""
        frame, shape = self.shape.frame, self.shape
        parts = [_line(frame.left, self.y(tick), frame.right, self.y(tick), "grid") for tick in self.y_ticks]
        parts += [_line(self.x(tick), frame.top, self.x(tick), frame.bottom, "grid") for tick in self.x_ticks]
        parts += [_line(frame.left, frame.bottom, frame.right, frame.bottom, "base")]
        parts += [_text(_short_tick(self.y_unit, t), frame.left - 7, self.y(t) + 4, "tick", "end") for t in self.y_ticks]
        parts += [_text(_tick(self.x_unit, t), self.x(t), frame.bottom + 18, "tick", "middle") for t in self.x_ticks]
        parts.append(_text(self.y_title + _log(self.y), 2, shape.font_px + 2, "axis"))
        parts.append(_text(self.x_title + _log(self.x), frame.right, shape.height - 7, "axis", "end"))
        return parts

    @property
    def y_ticks(self) -> list[float]:
        """About one tick each 45 pixels."""
        frame = self.shape.frame
        return self.y.ticks(max(3, int((frame.bottom - frame.top) / 45)))


def _log(scale: Scale) -> str:
    return ", logarithmic" if scale.is_log else ""


def _tick(unit: wording.Unit, value: float) -> str:
    text = f"{value * unit.scale:,.10g}"
    return text if len(text) <= 7 else f"{value * unit.scale:.3g}"


def _short_tick(unit: wording.Unit, value: float) -> str:
    """In thousands or millions from 10,000 on, since it stands beside the frame."""
    shown = value * unit.scale
    power, letter = (6, "M") if shown >= 1e7 else (3, "k") if shown >= 1e4 else (0, "")
    return f"{_tick(unit, value / 10**power)}{letter}"


def _ticks(scale: Scale, shape: Shape) -> list[float]:
    return scale.ticks(max(3, int((shape.frame.right - shape.frame.left) / 110)))


def _reach(figure: Figure) -> tuple[float, ...]:
    """What an axis shows of a figure: its median, and its interval, of which no end is shown that is further off than 3 times."""
    middle = figure.median
    return middle, *(min(max(end, middle / 3), middle * 3) for end in wording.spread(figure) or ())


# Latency against throughput


def is_drawn(row: Row) -> bool:
    """Whether a row has both figures that make a point of the picture."""
    return (
        row.lone_s is not None and row.rows_per_s is not None and is_positive(row.lone_s.median, row.rows_per_s.median)
    )  # fmt: skip


def point_of(row: Row) -> tuple[float, float]:
    """Return seconds of one row alone, and rows a second."""
    assert row.lone_s is not None and row.rows_per_s is not None  # noqa: S101  see `is_drawn`
    return row.lone_s.median, row.rows_per_s.median


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no other row beats in both latency and rate (Pareto), by latency."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (point_of(row)[0], -point_of(row)[1])):
        if not best or point_of(row)[1] > point_of(best[-1])[1]:
            best.append(row)
    return best


def tradeoff(report: TuneReport, shape: Shape) -> str:
    """Return the picture: latency of one row alone against rows a second, with intervals, the front, and names."""
    rows = [row for row in report.rows if is_drawn(row)]
    axes = _tradeoff_axes(rows, shape)
    best = front(rows)
    marks = [_mark(row, axes, report) for row in reversed(rows)]
    parts = [*axes.draw(), _front_line(best, axes), *(_whiskers(row, axes) for row in rows), *marks, *_names(rows, axes, report)]
    desc = "; ".join(f"{row.candidate}: {wording.seconds(x)}, {wording.number(y)} rows/s" for row in rows for x, y in [point_of(row)])
    return _svg(shape, "tradeoff", "Latency of one row alone against rows a second", wording.clean(desc), parts)


def _tradeoff_axes(rows: Sequence[Row], shape: Shape) -> Axes:
    frame = shape.frame
    lone = [value for row in rows if row.lone_s for value in _reach(row.lone_s)]
    rate = [value for row in rows if row.rows_per_s for value in _reach(row.rows_per_s)]
    x, y = Scale.over(lone, frame.left, frame.right), Scale.over(rate, frame.bottom, frame.top, pad=0.1)
    unit = wording.unit_of(lone)
    return Axes(shape, x, y, unit, wording.Unit(""), _ticks(x, shape), f"one row alone, {unit.name}", "rows a second")


def _front_line(best: Sequence[Row], axes: Axes) -> str:
    """The edge of what is beaten: it steps from point to point, and goes on to the frame at both ends."""
    frame, line = axes.shape.frame, _front_corners(best, axes)
    area = polyline([*line, (frame.right, frame.bottom)], class_="beaten", closed=True)
    return area + polyline(line, class_="front")


def _front_corners(best: Sequence[Row], axes: Axes) -> list[tuple[float, float]]:
    frame, points = axes.shape.frame, [(axes.x(x), axes.y(y)) for x, y in map(point_of, best)]
    line = [(points[0][0], frame.bottom)]
    for x, y in points:
        line += [(x, line[-1][1]), (x, y)]
    return [*line, (frame.right, line[-1][1])]


def _whiskers(row: Row, axes: Axes) -> str:
    x, y = (scale(value) for scale, value in zip((axes.x, axes.y), point_of(row), strict=True))
    parts = []
    if ends := wording.spread(row.lone_s):
        parts.append(_line(axes.x(ends[0]), y, axes.x(ends[1]), y, "whisker"))
    if ends := wording.spread(row.rows_per_s):
        parts.append(_line(x, axes.y(ends[0]), x, axes.y(ends[1]), "whisker"))
    return element("g", parts, class_=f"of-{row.status}")


def _mark(row: Row, axes: Axes, report: TuneReport) -> str:
    lone, rate = point_of(row)
    x, y = axes.x(lone), axes.y(rate)
    said = f"{row.candidate} ({wording.STATUSES[row.status][0]}): {wording.seconds(lone)} alone, {wording.number(rate)} rows/s"
    title = element("title", escape(wording.clean(said)))
    kind = "reference" if wording.is_reference(row, report) and row.status != "winner" else row.status
    if kind == "reference":
        return element("rect", title, x=x - 5, y=y - 5, width=10, height=10, class_="mark reference")
    ring = element("circle", cx=x, cy=y, r=11, class_="ring") if kind == "winner" else ""
    return ring + element("circle", title, cx=x, cy=y, r=7 if kind == "winner" else 5, class_=f"mark {kind}")


def _names(rows: Sequence[Row], axes: Axes, report: TuneReport) -> list[str]:
    """Names beside the points: the winner's first, then those of the front; where there is no room, none."""
    best, size = front(rows), axes.shape.font_px
    order = sorted(rows, key=lambda row: _rank(row, report, is_best=row in best))
    points = [(_short(str(row.candidate)), axes.x(point_of(row)[0]), axes.y(point_of(row)[1])) for row in order]
    radii = [13 if row.status == "winner" else 6 for row in order]
    taken = [Box(x - r, y - r, x + r, y + r) for (_, x, y), r in zip(points, radii, strict=True)] + _whisker_boxes(rows, axes)
    corners = _front_corners(best, axes)
    lines = [Box(min(a, c), min(b, d) - 1, max(a, c) + 1, max(b, d)) for (a, b), (c, d) in zip(corners, corners[1:], strict=False)]
    winners = {point[1:] for row, point in zip(order, points, strict=True) if row.status == "winner"}
    labels = place(points, taken, axes.shape.frame, font_px=size, lines=lines)
    return [part for label in labels for part in _name(label, size, is_winner=label.point in winners)]


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
    said = _text(label.text, at, box.bottom - size * 0.32, "name winner" if is_winner else "name", anchor)
    if not label.is_far:
        return [said]
    near = (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
    return [_line(x, y, *near, "leader"), said]


def _whisker_boxes(rows: Sequence[Row], axes: Axes) -> list[Box]:
    found = []
    for row in rows:
        x, y = axes.x(point_of(row)[0]), axes.y(point_of(row)[1])
        if ends := wording.spread(row.lone_s):
            found.append(Box(axes.x(ends[0]), y - 1, axes.x(ends[1]), y + 1))
        if ends := wording.spread(row.rows_per_s):
            found.append(Box(x - 1, axes.y(ends[1]), x + 1, axes.y(ends[0])))
    return found


def _short(name: str, most: int = 28) -> str:
    name = wording.clean(name)
    return name if len(name) <= most else f"{name[: most - 9]}\N{HORIZONTAL ELLIPSIS}{name[-8:]}"


# Cost curves


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: its name, the class that colours it, and its points."""

    name: str
    class_: str
    points: Sequence[CurvePoint]


def costs(series: Sequence[Series], shape: Shape, *, unit: str, is_rate: bool) -> str:
    """Return seconds of a run by its size, or the rate by size, each point with its interval.

    Args:
        series: one curve at least, each with points of a positive size and time only.
        shape: how large.
        unit: what sizes count: `rows` or `tokens`.
        is_rate: draw size divided by seconds.
    """
    data = [(one, [(point.size, _rate(point) if is_rate else point.seconds) for point in one.points]) for one in series]
    axes = _cost_axes([pair for _, pairs in data for pair in pairs], shape, unit, is_rate=is_rate)
    parts = axes.draw()
    for one, pairs in data:
        parts += _curve(one.class_, pairs, axes)
    title = f"{unit.capitalize()} a second by size of a run" if is_rate else "Seconds of a run by its size"
    key = "rate" if is_rate else "cost"
    return _svg(shape, key, title, wording.clean("; ".join(_spoken(one, pairs, axes) for one, pairs in data)), parts)


def _rate(point: CurvePoint) -> Figure:
    seconds = point.seconds
    low, high = (point.size / end if is_positive(end) else 0.0 for end in (seconds.high, seconds.low))
    return Figure(point.size / seconds.median, low, high, seconds.samples)


def _cost_axes(pairs: Sequence[tuple[int, Figure]], shape: Shape, unit: str, *, is_rate: bool) -> Axes:
    frame = shape.frame
    values = [value for _, figure in pairs for value in _reach(figure)]
    sizes = [float(size) for size, _ in pairs]
    x, y = Scale.over(sizes, frame.left, frame.right, pad=0.03), Scale.over(values, frame.bottom, frame.top, from_zero=True)
    shown = wording.Unit("") if is_rate else wording.unit_of(figure.median for _, figure in pairs)
    title = f"{unit} a second" if is_rate else f"{shown.name} a run"
    return Axes(shape, x, y, wording.Unit(""), shown, _size_ticks(sizes, x), f"{unit} in a run", title)


def _size_ticks(sizes: Sequence[float], x: Scale) -> list[float]:
    """The sizes themselves, the largest first, as far as their names have room."""
    found: list[float] = []
    for size in sorted(set(sizes), reverse=True):
        if not found or x(found[-1]) - x(size) >= 26 + text_width(_tick(wording.Unit(""), size), 6):
            found.append(size)
    return found[::-1]


def _curve(class_: str, pairs: Sequence[tuple[int, Figure]], axes: Axes) -> list[str]:
    ends = [(axes.x(size), wording.spread(figure) or (figure.median, figure.median)) for size, figure in pairs]
    band = [(x, axes.y(low)) for x, (low, _) in ends] + [(x, axes.y(high)) for x, (_, high) in reversed(ends)]
    line = [(axes.x(size), axes.y(figure.median)) for size, figure in pairs]
    parts = [polyline(band, class_="band", closed=True), polyline(line, class_="line")]
    parts += [_line(x, axes.y(low), x, axes.y(high), "whisker") for x, (low, high) in ends]
    parts += [element("circle", cx=x, cy=y, r=3, class_="dot") for x, y in line]
    return [element("g", parts, class_=f"curve {class_}")]


def _spoken(one: Series, pairs: Sequence[tuple[int, Figure]], axes: Axes) -> str:
    unit = axes.y_unit
    return f"{one.name}: " + ", ".join(f"{size}: {unit(figure.median)} {unit.name}".strip() for size, figure in pairs)


# Bars


def ratio_bar(figure: Figure | None, largest: float, class_: str) -> str:
    """Return a bar from 0 to a ratio, its interval as a whisker, and a line at 1; empty where there is no ratio.

    Args:
        figure: the ratio.
        largest: the ratio at the right end, 1 or more.
        class_: colours the bar.
    """
    if figure is None or not is_positive(figure.median, largest):
        return ""
    scale = Scale(0.0, largest, 1.0, 129.0)
    parts = [element("rect", x=1, y=4, width=max(scale(figure.median) - 1, 1.0), height=10, class_=f"bar {class_}")]
    if ends := wording.spread(figure):
        parts.append(_line(scale(ends[0]), 9, scale(ends[1]), 9, "whisker"))
        parts += [_line(scale(end), 6, scale(end), 12, "whisker") for end in ends]
    parts.append(_line(scale(1.0), 0, scale(1.0), 18, "one"))
    return element("svg", parts, viewBox="0 0 130 18", class_="ratio", aria_hidden="true")


def share_bar(parts: Sequence[tuple[float, str]]) -> str:
    """Return a bar of 1 that is divided in shares of one, each with its class."""
    at, found = 0.0, []
    for share, class_ in parts:
        found.append(element("rect", x=at * 1000, y=0, width=max(share * 1000 - 2, 1.0), height=14, class_=class_))
        at += share
    return element(
        "svg", found, viewBox="0 0 1000 14", class_="shares", preserveAspectRatio="none", aria_hidden="true"
    )  # fmt: skip
