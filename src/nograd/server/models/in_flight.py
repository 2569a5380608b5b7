"""Number of requests that a model has accepted and not yet answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["InFlight"]


class InFlight:
    """Lets a caller wait until the last request has left.

    The batcher counts its own requests. Requests that wait for the cache or for the user's code are counted here.
    """

    __slots__ = ("_count", "_emptied")

    def __init__(self) -> None:
        self._count = 0
        self._emptied: asyncio.Event | None = None

    def enter(self) -> None:
        """Count one request."""
        self._count += 1

    def leave(self) -> None:
        """Remove one request, which was answered or whose client has left."""
        self._count -= 1
        if not self._count and self._emptied is not None:
            self._emptied.set()

    async def wait_empty(self, timeout_s: float) -> None:
        """Return when no request is in flight, or after the timeout. The caller has stopped accepting requests."""
        if self._count and timeout_s > 0:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
