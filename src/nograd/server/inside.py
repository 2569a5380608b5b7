"""How many requests are inside a model: accepted, and not answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

__all__ = ["Inside"]


class Inside:
    """A context for each request; `wait_empty` is for who wants to close the model behind the last.

    A batcher knows of requests that were handed to it; one that waits for a cache, and comes to the batcher only then, it does
    not know.
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
        """Return when nobody is inside, or after so many seconds. Nobody may enter any more."""
        if self._count and timeout_s > 0:
            self._emptied = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
