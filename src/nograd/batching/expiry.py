"""One timer for the earliest of many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

__all__ = ["TIMER_RESOLUTION_S", "ExpiryTimer"]

TIMER_RESOLUTION_S = 0.002
"""A timer may fire this much early: uvloop counts in milliseconds."""


class ExpiryTimer:
    """Calls `expire` when the earliest deadline has come.

    Args:
        expire: answers what is due, and returns the next deadline; infinite for none.
        clock: seconds.
    """

    def __init__(self, expire: Callable[[float], float], clock: Callable[[], float]) -> None:
        self._expire = expire
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.earliest = inf
        """The deadline that is watched."""

    def watch(self, deadline: float, now: float) -> None:
        """Watch this deadline, too."""
        if deadline < self.earliest:
            self.stop()
            self.earliest = deadline
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - now), self._fire)

    def stop(self) -> None:
        """Watch nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.earliest = None, inf

    def _fire(self) -> None:
        self._timer, self.earliest = None, inf
        now = self._clock()
        self.watch(self._expire(now + TIMER_RESOLUTION_S), now)
