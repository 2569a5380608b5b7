"""How long backends take for the same batch, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["fastest", "in_turn_s"]

MARGIN = 0.9
"""A backend replaces the preferred one only if it takes less than this share of its time: closer medians change places between
two measurements on a busy machine."""

MOST_ROUNDS = 10
"""Multiples of `rounds` that a budget may add."""


def in_turn_s(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    budget_s: float = 0.0,
    hopeless: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each run; slow drift of the machine meets all, since they take turns.

    Each is run once before, unmeasured. One that took `hopeless` times the best in every round so far, twice at least, is not
    run again: half precision on a processor without it may take seconds where float32 takes milliseconds.

    Args:
        runs: what to measure, by name.
        rounds: measured runs of each, at least for those that are not hopeless.
        budget_s: seconds of measured runs up to which rounds are added, to ten times `rounds` at most.
        hopeless: how many times slower than the best is slow enough to stop.
        clock: seconds.
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
    """Return the name with the least seconds; `preferred` unless the gain is beyond the margin.

    Args:
        seconds: measured, by name.
        preferred: wins unless another one takes less than `margin` x its seconds.
        margin: from 0 to 1.
    """
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < margin * seconds[preferred] else preferred
