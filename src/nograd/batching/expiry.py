"""One timer for the earliest of many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

__all__ = ["TIMER_RESOLUTION_S", "ExpiryTimer"]

TIMER_RESOLUTION_S = 0.002
"""Timers may fire early by this time: uvloop's resolution is one millisecond."""


class ExpiryTimer:
    """Calls `expire` at the earliest deadline.

    Args:
        expire: answers expired requests and returns the next deadline; infinite for none.
        clock: returns the time in seconds.
    """

    def __init__(self, expire: Callable[[float], float], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.earliest = inf
        """The earliest watched deadline."""

    def watch(self, deadline: float, now: float) -> None:
        """Add a deadline."""
        if deadline < self.earliest:
            self.stop()
            self.earliest = deadline
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._fire)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.earliest = None, inf

    def _fire(self) -> None:
        self._timer, self.earliest = None, inf
        now = self._clock()
        self.watch(self._expire(now + TIMER_RESOLUTION_S), now)
