"""Format figures: numbers in few digits, times and bytes in their most readable unit, intervals. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import floor, isfinite, log10

__all__ = [
    "BYTES", "NONE", "SECONDS", "Figure", "Unit", "cosine", "count", "interval", "number", "ratio", "seconds", "share",
    "size", "spread", "times", "unit_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its spread: the median of several samples, and the range that holds the true median with 95 %."""

    median: float
    low: float
    high: float
    samples: int = 1


NONE = "\N{EN DASH}"
"""Placeholder for a missing measurement."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, without exponent between a thousandth and a billion."""
    if value is None or not isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e9:
        return f"{value:.{digits - 1}e}"
    decimals = digits - 1 - floor(log10(abs(value)))
    decimals = digits - 1 - floor(log10(abs(round(value, decimals))))  # 9.999 becomes 10.0
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


@dataclass(frozen=True, slots=True)
class Unit:
    """A display unit: a value in the base unit times `scale` is the figure in this unit."""

    name: str
    scale: float = 1.0

    def __call__(self, value: float | None) -> str:
        """Return the figure without the unit's name."""
        return number(None if value is None else value * self.scale)


SECONDS = (Unit("ns", 1e9), Unit("µs", 1e6), Unit("ms", 1e3), Unit("s"))
BYTES = (Unit("B"), Unit("kB", 1e-3), Unit("MB", 1e-6), Unit("GB", 1e-9))


def unit_of(values: Iterable[float | None], units: tuple[Unit, ...] = SECONDS) -> Unit:
    """Return the most readable common unit for the values of a column or an axis.

    This is the largest unit in which the largest value is at least 1 and the smallest at least 0.1. If the largest value is
    100,000 or more in this unit, a larger unit is returned.
    """
    known = [abs(value) for value in values if value is not None and isfinite(value) and value]
    if not known:
        return units[2]
    low, high = min(known), max(known)
    fits = [unit for unit in units if high * unit.scale >= 0.9995 and low * unit.scale >= 0.1] or [units[0]]
    readable = [unit for unit in units if high * unit.scale < 1e5] or [units[-1]]
    return max(fits[-1], readable[0], key=units.index)


def amount(value: float | None, units: tuple[Unit, ...] = SECONDS) -> str:
    """Return one value in its own best unit without trailing zeros, such as `6.1 ms`."""
    if value is None or not isfinite(value):
        return NONE
    unit = unit_of([value], units)
    text = unit(value)
    return f"{text.rstrip('0').rstrip('.') if '.' in text and 'e' not in text else text} {unit.name}"


def seconds(value: float | None) -> str:
    """Return a time in its own best unit; minutes from ten minutes on."""
    if value is not None and isfinite(value) and value >= 600:
        return amount(value / 60, (Unit("min"),) * 3)
    return "0 s" if value == 0 else amount(value)


def size(value: float | None) -> str:
    """Return bytes in B, kB, MB (a million bytes) or GB."""
    return "0 B" if value == 0 else amount(value, BYTES)


def share(value: float | None) -> str:
    """Return a share in percent, such as `99.5 %`; `100 %` only for exactly 1."""
    if value is None or not isfinite(value):
        return NONE
    text = f"{value * 100:.4g}"
    return f"{'> 99.99' if text == '100' and value < 1 else text} %"


def count(value: int, thing: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{value:,} {thing}{'' if value == 1 else 's'}"


def ratio(value: float | None) -> str:
    """Return a ratio with two decimals, or with three digits if two decimals show less."""
    if value is None or not isfinite(value):
        return NONE
    return f"{value:.2f}" if 0.095 <= abs(value) < 9.995 else number(value)


def times(figure: Figure | None) -> str:
    """Return a ratio's median, such as `2.32x`."""
    return NONE if figure is None or not isfinite(figure.median) else f"{ratio(figure.median)}x"


def cosine(value: float, digits: int = 7) -> str:
    """Return a cosine, truncated instead of rounded, so that only 1 is shown as 1."""
    if not isfinite(value):
        return NONE
    return f"{floor(min(max(value, -1.0), 1.0) * 10**digits) / 10**digits:.{digits}f}"


def spread(figure: Figure | None, scale: float = 1.0) -> tuple[float, float] | None:
    """Return both ends of the interval, scaled; None without an interval."""
    if figure is None or not (isfinite(figure.low) and isfinite(figure.high)) or figure.low >= figure.high:
        return None
    return figure.low * scale, figure.high * scale


def interval(figure: Figure | None, scale: float = 1.0, say: Callable[[float], str] = number) -> str:
    """Return `[2.21 .. 2.41]`; empty without an interval."""
    ends = spread(figure, scale)
    return f"[{say(ends[0])} .. {say(ends[1])}]" if ends else ""
