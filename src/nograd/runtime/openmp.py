"""Spin limit of torch's threads (libgomp)."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["SPINS", "spin_briefly"]

SPINS = 10_000
"""Number of checks before a waiting libgomp thread sleeps, about 30 us. The default is 300,000, a millisecond: while one
thread is preempted, all others spin, use up their processors, and delay it further. For a server of MiniLM on two cores
with two other busy programs, this limit gives p50 28 ms and p99 82 ms instead of 47 and 268 ms. With 1,000, threads sleep
between two operations of a model, and a single sentence takes 0.3 ms longer on a quiet machine; with 5,000 or more it does
not (2026-11-26, `python -m benchmarks.busy`, `overhead`).
"""


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Set the spin limit for processes that have not loaded torch yet, unless the user has set it.

    Args:
        environment: `os.environ`; libgomp reads it once, when it is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment):
        environment["GOMP_SPINCOUNT"] = f"{SPINS}"
