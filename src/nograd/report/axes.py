"""The frame of a plot as inline SVG: its size, scales, ticks and titles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from nograd.report import figures
from nograd.report.figures import Figure
from nograd.report.markup import element
from nograd.report.svg import AxisScale, Box

__all__ = ["Axes", "Shape", "drawing", "line", "reach", "text_at", "tick", "ticks_of"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a plot in CSS pixels. A page contains each plot in several shapes, and shows one."""

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
        """The area for the data."""
        return Box(self.left, self.top, self.width - self.right, self.height - self.bottom)


def drawing(shape: Shape, key: str, title: str, desc: str, parts: Iterable[str]) -> str:
    """Return an SVG with its title and description for screen readers; `key` is unique in the page."""
    ids = (f"{key}-{shape.name}-title", f"{key}-{shape.name}-desc")
    head = [element("title", escape(title), id=ids[0]), element("desc", escape(desc), id=ids[1])]
    return element(
        "svg", [*head, *parts], viewBox=f"0 0 {shape.width:g} {shape.height:g}", class_=f"plot {shape.name}", role="img",
        aria_labelledby=" ".join(ids),
    )  # fmt: skip


def text_at(text: str, x: float, y: float, class_: str, anchor: str = "start") -> str:
    """Return a text whose baseline starts at a point, or has its `middle` or `end` there."""
    return element("text", escape(text), x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


@dataclass(frozen=True, slots=True)
class Axes:
    """A frame with two scales, and the labels of their ticks."""

    shape: Shape
    x: AxisScale
    y: AxisScale
    x_unit: figures.Unit
    y_unit: figures.Unit
    x_ticks: Sequence[float]
    x_title: str
    y_title: str

    def draw(self) -> list[str]:
        """Return grid, ticks and titles."""
        frame, shape = self.shape.frame, self.shape
        parts = [line(frame.left, self.y(tick), frame.right, self.y(tick), "grid") for tick in self.y_ticks]
        parts += [line(self.x(tick), frame.top, self.x(tick), frame.bottom, "grid") for tick in self.x_ticks]
        parts += [line(frame.left, frame.bottom, frame.right, frame.bottom, "base")]
        parts += [text_at(_short_tick(self.y_unit, t), frame.left - 7, self.y(t) + 4, "tick", "end") for t in self.y_ticks]
        parts += [text_at(tick(self.x_unit, t), self.x(t), frame.bottom + 18, "tick", "middle") for t in self.x_ticks]
        parts.append(text_at(self.y_title + _log(self.y), 2, shape.font_px + 2, "axis"))
        parts.append(text_at(self.x_title + _log(self.x), frame.right, shape.height - 7, "axis", "end"))
        return parts

    @property
    def y_ticks(self) -> list[float]:
        """Ticks of the y axis, about one per 45 pixels."""
        frame = self.shape.frame
        return self.y.ticks(max(3, int((frame.bottom - frame.top) / 45)))


def _log(scale: AxisScale) -> str:
    return ", logarithmic" if scale.is_log else ""


def tick(unit: figures.Unit, value: float) -> str:
    """Return the label of a tick: all its digits, or three if all are too many."""
    text = f"{value * unit.scale:,.10g}"
    return text if len(text) <= 7 else f"{value * unit.scale:.3g}"


def _short_tick(unit: figures.Unit, value: float) -> str:
    """Return the label in thousands or millions from 10,000 on, because it must fit next to the frame."""
    shown = value * unit.scale
    power, letter = (0, "") if not 1e4 <= shown < 1e10 else (6, "M") if shown >= 1e7 else (3, "k")
    return f"{tick(unit, value / 10**power)}{letter}"


def ticks_of(scale: AxisScale, shape: Shape) -> list[float]:
    """Return the ticks of an axis from left to right, about one per 110 pixels."""
    return scale.ticks(max(3, int((shape.frame.right - shape.frame.left) / 110)))


def reach(figure: Figure) -> tuple[float, ...]:
    """Return the values of a figure that an axis covers: its median and its interval, cut at a factor of 3."""
    middle = figure.median
    return middle, *(min(max(end, middle / 3), middle * 3) for end in figures.spread(figure) or ())
