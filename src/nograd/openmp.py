"""How long torch's threads wait for each other awake."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["SPINS", "spin_briefly"]

SPINS = 1000
"""Looks that a thread of libgomp takes at what it waits for before it sleeps. Its own number is 300,000, a millisecond: while a
thread that something else has pushed aside is waited for, all others burn their processors, and push it aside for longer.
A server of MiniLM on two cores that two other programs kept busy: p50 28 ms [27.8 .. 29.3] and p99 82 instead of 47 [41 .. 48]
and 268, for a third of the processor's time; on a quiet machine 10.6 ms instead of 9.9; with 300 a sixth slower there
(2026-11-26, `python -m benchmarks.busy`)."""


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Set that, for processes that have not loaded torch yet, where the user has set nothing of it.

    Args:
        environment: `os.environ`; libgomp reads it once, when it is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment):
        environment["GOMP_SPINCOUNT"] = f"{SPINS}"
