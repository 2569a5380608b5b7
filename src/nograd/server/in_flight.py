"""Count of the requests that a model has accepted and not yet answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

__all__ = ["InFlight"]


class InFlight:
    """A context manager for each request; `wait_empty` lets a caller wait until the last request has left.

    A batcher counts the requests that it was given. A request that waits for the cache first is counted only here.
    """

    __slots__ = ("_count", "_emptied")

    def __init__(self) -> None:
        self._count = 0
        self._emptied: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._count -= 1
        if not self._count and self._emptied is not None:
            self._emptied.set()

    async def wait_empty(self, timeout_s: float) -> None:
        """Return when no request is in flight, or after the timeout. The caller has closed the entrance before."""
        if self._count and timeout_s > 0:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
