"""A curve that was measured elsewhere: looked at, at two sizes, and scaled to this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

from nograd.core.cost import CostCurve

__all__ = ["FAR_OFF", "scaled", "sizes_to_try", "spot_check"]

BUDGET_S = 0.3

REPEATS = 5

FAR_OFF = 2.0
"""Beyond this factor the choice of backend and layout may be another one."""


def sizes_to_try(curve: CostCurve, own: int) -> list[int]:
    """Return the numbers of rows to run: one, and those of the knee.

    Args:
        curve: seconds by rows, or by padded tokens.
        own: tokens of the row that is run; 1 where the curve counts rows.
    """
    return sorted({1, max(1, curve.knee() // own)})


def spot_check(
    run: Callable[[int], object], curve: CostCurve, own: int, *, clock: Callable[[], float], budget_s: float = BUDGET_S
) -> float:
    """Return how many times as long as the curve says a run takes here; at most `budget_s` is spent, beyond the first run.

    Args:
        run: runs so many rows.
        curve: of another machine.
        own: tokens of each row; 1 where the curve counts rows.
        clock: seconds.
        budget_s: seconds that this may take.
    """
    begun = clock()
    factor = _timed(run, 1, clock) / curve.extended(own)  # it may be slow: memory and threads come with it
    ratios = []
    for rows in sizes_to_try(curve, own):
        expected = curve.extended(rows * own)
        times: list[float] = []
        while len(times) < REPEATS and clock() - begun + max([factor * expected, *times]) <= budget_s:
            times.append(_timed(run, rows, clock))
        if times:
            ratios.append(min(times) / expected)
            factor = ratios[-1]
    if not ratios:
        return factor
    return sqrt(ratios[0] * ratios[-1])


def scaled(curve: CostCurve, factor: float) -> CostCurve:
    """Return the curve with all seconds multiplied."""
    return replace(curve, seconds=tuple(seconds * factor for seconds in curve.seconds))


def _timed(run: Callable[[int], object], rows: int, clock: Callable[[], float]) -> float:
    begun = clock()
    run(rows)
    return clock() - begun
