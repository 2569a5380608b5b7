"""Times that a busy machine does not falsify: the least of several, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["least_s"]

TOGETHER = 3
"""Runs that each gets in a row: threads of one runtime that still spin slow the next one down."""


def least_s(runs: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the least seconds of each run, over some rounds of three each, in turn.

    A median tells of the neighbours on a busy machine (MiniLM: 373 ms beside other work, 20 ms alone), the least of the model.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for _ in range(TOGETHER):
                begun = clock()
                run()
                times[name].append(clock() - begun)
    return {name: min(found) for name, found in times.items()}
