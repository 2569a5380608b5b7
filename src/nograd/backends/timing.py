"""How long backends take for the same batch, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["in_turn_s"]


def in_turn_s(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    hopeless: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each run; slow drift of the machine meets all, since they take turns.

    Each is run once before, unmeasured. One that took `hopeless` times the best in every round so far, twice at least, is not
    run again: half precision on a processor without it may take seconds where float32 takes milliseconds.

    Args:
        runs: what to measure, by name.
        rounds: measured runs of each, at most.
        hopeless: how many times slower than the best is slow enough to stop.
        clock: seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for round_number in range(rounds):
        best = min((min(values) for values in times.values() if values), default=0.0)
        for name, run in runs.items():
            if round_number >= 2 and min(times[name]) > hopeless * best:
                continue
            begun = clock()
            run()
            times[name].append(clock() - begun)
    return {name: median(values) for name, values in times.items()}
