"""Recalibration of a cost curve from another machine: two sizes are timed here, and the curve is scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

from nograd.core.cost import CostCurve

__all__ = ["FAR_OFF", "measure_slowdown", "scale_curve", "sizes_to_try"]

BUDGET_S = 0.3

REPEATS = 5

FAR_OFF = 2.0
"""Above this factor, another backend or layout may be faster."""


def sizes_to_try(curve: CostCurve, own: int) -> list[int]:
    """Return the row counts to time: one row, and the curve's knee.

    Args:
        curve: seconds by rows, or by padded tokens.
        own: tokens per row; 1 if the curve counts rows.
    """
    return sorted({1, max(1, curve.knee() // own)})


def measure_slowdown(
    run: Callable[[int], object], curve: CostCurve, own: int, *, clock: Callable[[], float], budget_s: float = BUDGET_S
) -> float:
    """Return the ratio of measured to expected run time: 2.0 means that runs take twice as long as the curve predicts.

    Timing takes at most `budget_s` after the first run.

    Args:
        run: runs a batch of the given number of rows.
        curve: measured on another machine.
        own: tokens per row; 1 if the curve counts rows.
        clock: returns the time in seconds.
        budget_s: time limit in seconds.
    """
    begun = clock()
    factor = _time_run(run, 1, clock) / curve.extended(own)  # the first run may be slow: it allocates memory and starts threads
    ratios = []
    for rows in sizes_to_try(curve, own):
        expected = curve.extended(rows * own)
        times: list[float] = []
        while len(times) < REPEATS and clock() - begun + max([factor * expected, *times]) <= budget_s:
            times.append(_time_run(run, rows, clock))
        if times:
            ratios.append(min(times) / expected)
            factor = ratios[-1]
    if not ratios:
        return factor
    return sqrt(ratios[0] * ratios[-1])


def scale_curve(curve: CostCurve, factor: float) -> CostCurve:
    """Return the curve with all seconds multiplied by a factor."""
    return replace(curve, seconds=tuple(seconds * factor for seconds in curve.seconds))


def _time_run(run: Callable[[int], object], rows: int, clock: Callable[[], float]) -> float:
    begun = clock()
    run(rows)
    return clock() - begun
