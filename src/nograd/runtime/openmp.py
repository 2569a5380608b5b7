"""How long torch's threads wait for each other awake."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["SPINS", "spin_briefly"]

SPINS = 10_000
"""Looks that a thread of libgomp takes at what it waits for before it sleeps: some 30 us. Its own number is 300,000, a
millisecond: while a thread that something else has pushed aside is waited for, all others burn their processors, and push it
aside for longer. A server of MiniLM on two cores that two other programs kept busy: p50 28 ms and p99 82 instead of 47 and 268.
With 1,000, threads sleep between one operation of a model and the next, and a lone sentence takes 0.3 ms more on a quiet
machine; from 5,000 on it does not (2026-11-26, `python -m benchmarks.busy`, `overhead`)."""


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Set that, for processes that have not loaded torch yet, where the user has set nothing of it.

    Args:
        environment: `os.environ`; libgomp reads it once, when it is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(environment):
        environment["GOMP_SPINCOUNT"] = f"{SPINS}"
