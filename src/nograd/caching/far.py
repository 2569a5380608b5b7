"""FarTier: a synchronous cache, asked from an event loop without holding it up.

One thread makes the calls. While it is busy, what comes in is gathered and asked for together: one round trip for a batch of
requests. Values are put when nobody is asking, and dropped where there are too many of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from nograd.caching.store import Cache

__all__ = ["FarTier"]

_log = logging.getLogger("nograd.caching")

MAX_PENDING_BYTES = 32 * 2**20
"""Values that wait to be put; more than these are not put at all."""

CLOSE_S = 1.0
"""Seconds that what waits has at the end."""


class FarTier:
    """Asks a cache in a thread of its own.

    Args:
        cache: never raises, and takes a bounded time.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nograd-cache")
        self._asked: list[tuple[Sequence[bytes], asyncio.Future[dict[bytes, bytes]]]] = []
        self._to_put: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0
        """Values that were not put because too many waited."""

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values that are there, by key."""
        future: asyncio.Future[dict[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._asked.append((keys, future))
        self._wake()
        return await future

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Put values when there is time."""
        size = sum(map(len, items.values()))
        if self._pending_bytes + size > MAX_PENDING_BYTES:
            self.dropped += len(items)
            return
        self._pending_bytes += size
        self._to_put.update(items)
        self._wake()

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(0)  # whoever asks in this turn of the loop shares the call
            while self._asked or self._to_put:
                if self._asked:
                    asked, self._asked = self._asked, []
                    keys = list(dict.fromkeys(key for some, _ in asked for key in some))
                    values = await loop.run_in_executor(self._thread, self._get, keys)
                    found = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
                    for some, future in asked:
                        if not future.done():
                            future.set_result({key: found[key] for key in some if key in found})
                else:
                    items, self._to_put, self._pending_bytes = self._to_put, {}, 0
                    await loop.run_in_executor(self._thread, self.cache.put_many, items)
        finally:
            self._worker = None
            for _, future in self._asked:  # only where this task is cancelled: a cache does not raise
                if not future.done():
                    future.set_result({})

    def _get(self, keys: list[bytes]) -> Sequence[bytes | None]:
        try:
            return self.cache.get_many(keys)
        except Exception:  # noqa: BLE001  a cache may be the user's own; requests wait for what it says
            _log.exception("the far cache raised; its answers are taken as misses")
            return [None] * len(keys)

    async def close(self) -> None:
        """End; what waits to be put has a second."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.cache.close()
