"""Time of several backends for the same batch, measured alternately."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["fastest", "in_turn_s"]

MARGIN = 0.9
"""A backend replaces the preferred one only if it takes less than this share of its time. The order of closer medians changes
between measurements on a busy machine."""

MOST_ROUNDS = 10
"""Maximum rounds that a budget may add, as a multiple of `rounds`."""


def in_turn_s(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    budget_s: float = 0.0,
    hopeless: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each run. They alternate, so that drift of the machine affects all equally.

    Each runs once before, without measurement. A run that took `hopeless` times as long as the best in every round so far, at
    least two, is not measured again: half precision may take seconds on a processor that does not support it.

    Args:
        runs: functions to measure, by name.
        rounds: measured runs of each function that is not hopeless.
        budget_s: seconds of measured runs up to which rounds are added, at most ten times `rounds`.
        hopeless: factor of slowness, compared with the best, at which measuring stops.
        clock: returns seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for round_number in range(rounds * MOST_ROUNDS):
        if round_number >= rounds and sum(map(sum, times.values())) >= budget_s:
            break
        best = min((min(values) for values in times.values() if values), default=0.0)
        for name, run in runs.items():
            if round_number >= 2 and min(times[name]) > hopeless * best:
                continue
            begun = clock()
            run()
            times[name].append(clock() - begun)
    return {name: median(values) for name, values in times.items()}


def fastest(seconds: Mapping[str, float], preferred: str, *, margin: float = MARGIN) -> str:
    """Return the name with the least seconds; `preferred` unless the gain exceeds the margin.

    Args:
        seconds: measured seconds by name.
        preferred: wins unless another one takes less than `margin` times its seconds.
        margin: from 0 to 1.
    """
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < margin * seconds[preferred] else preferred
