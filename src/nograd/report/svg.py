"""Parts of an SVG plot: lines, scales with ticks, and labels that do not overlap. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, floor, log10
from typing import NamedTuple

from nograd.report.markup import element

__all__ = ["AxisScale", "Box", "Label", "is_positive", "place", "polyline", "text_width"]

LOG_FROM = 4.0
"""An axis is logarithmic if its largest value is at least this many times its smallest."""

CHAR_WIDTH = 0.6
"""Mean width of a character, in font sizes: DejaVu Sans, the widest of the common ones; others are near 0.53."""


def polyline(points: Iterable[tuple[float, float]], *, class_: str, closed: bool = False) -> str:
    """Return a line through points, or the area within them."""
    said = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polygon" if closed else "polyline", points=said, class_=class_)


def text_width(text: str, font_px: float) -> float:
    """Return the approximate width of a text in pixels, rather too wide than too narrow."""
    return len(text) * CHAR_WIDTH * font_px


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Map values to pixels along one axis."""

    low: float
    high: float
    start: float
    """Pixel of `low`; may be above `end`, as on an axis that goes up."""

    end: float
    is_log: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, from_zero: bool = False, pad: float = 0.08
    ) -> AxisScale:
        """Return a scale over all values; logarithmic if they are far apart.

        Args:
            values: finite, above 0, at least one.
            start: pixel of the low end.
            end: pixel of the high end.
            from_zero: start at 0 if the scale is not logarithmic.
            pad: room beyond the values, as a share of their range.
        """
        known = list(values)
        low, high = min(known), max(known)
        if high / low >= LOG_FROM:
            room = (high / low) ** pad
            return cls(low / room, high * room, start, end, is_log=True)
        room = (high - low) * pad or high * 0.3
        return cls(0.0 if from_zero else max(low - room, 0.0), high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the pixel of a value, clamped to the axis. On a logarithmic axis, values of 0 and below are at the low end."""
        if self.is_log:
            part = (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low)) if value > 0 else 0.0
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the scale: at least two and at most `most`."""
        return self._log_ticks(most) if self.is_log else self._linear_ticks(most)

    def _linear_ticks(self, most: int) -> list[float]:
        power = 10.0 ** floor(log10((self.high - self.low) / most))
        steps = [power * step for step in (1, 2, 2.5, 5, 10, 20, 50)]
        return next(found for step in steps if len(found := _multiples(self.low, self.high, step)) <= most)

    def _log_ticks(self, most: int) -> list[float]:
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for digits in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [
                value for power, digit in product(decades, digits) if self.low <= (value := digit * 10.0**power) <= self.high
            ]
            if len(found) <= most:
                return found
        return found[:: ceil(len(found) / most)]


def _multiples(low: float, high: float, step: float) -> list[float]:
    return [place * step for place in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


class Box(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return True if both share a point."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        """Return True if the box is inside the other."""
        return (
            self.left >= other.left and self.right <= other.right and self.top >= other.top and self.bottom <= other.bottom
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Label:
    """A text with its position."""

    text: str
    box: Box
    point: tuple[float, float]
    is_far: bool
    """True if the label is away from its point and needs a line to it."""


def place(
    wanted: Sequence[tuple[str, float, float]], taken: Sequence[Box], frame: Box, *, font_px: float, lines: Sequence[Box] = ()
) -> list[Label]:
    """Return labels with positions next to their points, in order of importance; a label without room is omitted.

    Args:
        wanted: text and point of each label, the most important first.
        taken: boxes that no label may cover.
        frame: box that no label may leave.
        font_px: font size in pixels.
        lines: boxes that a label covers only if it would otherwise be away from its point.
    """
    found: list[Label] = []
    for text, x, y in wanted:
        places = list(_places(x, y, text_width(text, font_px), font_px * 1.25, font_px * 0.75))
        free = [
            (far, box) for far, box in places
            if box.within(frame) and not any(box.meets(other) for other in (*taken, *(label.box for label in found)))
        ]  # fmt: skip
        clear = [(far, box) for far, box in free if not far and not any(box.meets(line) for line in lines)]
        if free:
            far, box = (clear or free)[0]
            found.append(Label(text, box, (x, y), far))
    return found


def _places(x: float, y: float, width: float, height: float, gap: float) -> Iterable[tuple[bool, Box]]:
    """Yield boxes to the right, left, above, below and at the corners, then the same further away."""
    sides = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
    for reach, (right, down) in product((1.0, 1.6, 2.4, 3.6, 5.2), sides):
        away = gap * reach
        left = x + away if right > 0 else x - away - width if right < 0 else x - width / 2
        middle = y + down * (away + height / 2) * (1 if right == 0 else 0.75)
        if right and down and reach < 2:
            left -= right * gap * 0.4
        yield reach > 2, Box(left, middle - height / 2, left + width, middle + height / 2)


def is_positive(*values: float) -> bool:
    """Return True if all values are above 0 and of a size that an axis can show: a trillionth to a quadrillion."""
    return all(1e-12 <= value <= 1e15 for value in values)
