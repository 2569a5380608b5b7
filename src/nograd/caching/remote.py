"""FarTier: a synchronous cache, asked from an event loop without holding it up.

One thread makes the calls. While it is busy, what comes in is gathered and asked for together: one round trip for a batch of
requests. Values are put when nobody is asking, and dropped where there are too many of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from nograd.caching.store import Cache

__all__ = ["FarTier"]

T = TypeVar("T")

_Asked: TypeAlias = list[tuple[Sequence[bytes], asyncio.Future[dict[bytes, bytes]]]]

_log = logging.getLogger("nograd.caching")

MAX_PENDING_BYTES = 32 * 2**20
"""Values that wait to be put; more than these are not put at all."""

PATIENCE_S = 1.0
"""Seconds after which nobody waits for a call any more, whatever it hangs in: a name server, for example, has its own time."""

CLOSE_S = 1.0
"""Seconds that what waits has at the end."""


class FarTier:
    """Asks a cache in a thread of its own.

    Args:
        cache: what is asked.
        patience_s: seconds that a call may take; who asks during a longer one is told that nothing is there.
    """

    def __init__(self, cache: Cache, *, patience_s: float = PATIENCE_S) -> None:
        self.cache = cache
        self._patience_s = patience_s
        self._hangs = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nograd-cache")
        self._asked: _Asked = []
        self._to_put: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0
        """Values that were not put because too many waited."""

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the values that are there, by key."""
        if self._hangs:
            return {}
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
                    values = await self._in_time(loop.run_in_executor(self._thread, self._get, keys), asked)
                    found = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
                    _answer(asked, found)
                else:
                    items, self._to_put, self._pending_bytes = self._to_put, {}, 0
                    await self._in_time(loop.run_in_executor(self._thread, self._put, items), [])
        finally:
            self._worker = None
            _answer(self._asked, {})  # there are some only where this task is cancelled

    async def _in_time(self, call: asyncio.Future[T], asked: _Asked) -> T:
        """Wait for a call to the end; let go those who wait for it, and all who come, when it has had its time."""
        done, _ = await asyncio.wait([call], timeout=self._patience_s)
        if not done:
            self._hangs = True
            _log.warning("a call to the far cache hangs; it is left out until that ends")
            _answer([*asked, *self._asked], {})
            self._asked = []
        try:
            return await call
        finally:
            self._hangs = False

    def _get(self, keys: list[bytes]) -> Sequence[bytes | None]:
        try:
            return self.cache.get_many(keys)
        except Exception:  # noqa: BLE001  a cache may be the user's own; requests wait for what it says
            _log.exception("the far cache raised; its answers are taken as misses")
            return [None] * len(keys)

    def _put(self, items: Mapping[bytes, bytes]) -> None:
        try:
            self.cache.put_many(items)
        except Exception:  # noqa: BLE001  as above
            _log.exception("the far cache raised; %d values are not put", len(items))

    async def close(self) -> None:
        """End; what waits to be put has a second."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.cache.close()


def _answer(asked: _Asked, found: Mapping[bytes, bytes]) -> None:
    for keys, future in asked:
        if not future.done():
            future.set_result({key: found[key] for key in keys if key in found})
