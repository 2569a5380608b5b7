"""Measure times on a busy machine: the minimum of several interleaved runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["least_s"]

TOGETHER = 3
"""Consecutive runs of each candidate. Threads of one runtime that still spin slow the next one down."""


def least_s(runs: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the minimum seconds of each run, over `rounds` rounds of three runs each, interleaved.

    On a busy machine, a median measures the other load (MiniLM: 373 ms next to other work, 20 ms without); the minimum
    measures the model.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(TOGETHER):
                begun = clock()
                run()
                times[name].append(clock() - begun)
    return {name: min(found) for name, found in times.items()}
