"""RemoteTier: access to a synchronous remote cache from an event loop, without blocking it.

One thread makes the calls. Lookups that arrive during a call are combined into the next one: one round trip per batch of
requests. Values are written when no lookup waits, and dropped if too many are pending.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from nograd.caching.store import Cache

__all__ = ["RemoteTier"]

T = TypeVar("T")

_Asked: TypeAlias = list[tuple[Sequence[bytes], asyncio.Future[dict[bytes, bytes]]]]

_log = logging.getLogger("nograd.caching")

MAX_PENDING_BYTES = 32 * 2**20
"""Limit of pending values; values beyond it are dropped."""

PATIENCE_S = 1.0
"""Seconds after which requests stop waiting for a call, even if the call has its own longer timeout, such as a name lookup."""

CLOSE_S = 1.0
"""Seconds for pending writes when the tier is closed."""


class RemoteTier:
    """Calls a cache in a separate thread.

    Args:
        cache: the remote cache.
        patience_s: maximum seconds of a call; lookups during a longer call count as misses.
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
        """Number of values dropped because too many were pending."""

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the cached values by key."""
        if self._hangs:
            return {}
        future: asyncio.Future[dict[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._asked.append((keys, future))
        self._wake()
        return await future

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Write values in the background."""
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
            await asyncio.sleep(0)  # lookups of this loop iteration share the call
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
            _answer(self._asked, {})  # only if this task is cancelled

    async def _in_time(self, call: asyncio.Future[T], asked: _Asked) -> T:
        """Await a call. After `patience_s`, waiting and new lookups return as misses until the call ends."""
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
        except Exception:  # noqa: BLE001  a cache may be user code; requests wait for the result
            _log.exception("the far cache raised; its answers are taken as misses")
            return [None] * len(keys)

    def _put(self, items: Mapping[bytes, bytes]) -> None:
        try:
            self.cache.put_many(items)
        except Exception:  # noqa: BLE001  a cache may be user code
            _log.exception("the remote cache raised; %d values were not stored", len(items))

    async def close(self) -> None:
        """Close the tier; pending writes get one second."""
        if self._worker is not None:
            await asyncio.wait([self._worker], timeout=CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.cache.close()


def _answer(asked: _Asked, found: Mapping[bytes, bytes]) -> None:
    for keys, future in asked:
        if not future.done():
            future.set_result({key: found[key] for key in keys if key in found})
