"""ASGI's one signature, and the watch over clients that leave before their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias

__all__ = ["ClientLeftError", "ClientWatch", "Receive", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WATCH_AFTER_S = 0.02
"""A request that takes longer is watched for its client's leaving; for a shorter one that is not worth a task."""


class ClientLeftError(Exception):
    """The client closed its connection before the answer."""


class ClientWatch:
    """Cancels work whose client has gone, so that nothing is computed for nobody.

    One timer serves all requests: it runs only while there are any, and gives each that has lasted a task that waits for
    ASGI's `http.disconnect`.
    """

    def __init__(self) -> None:
        self._working: dict[asyncio.Task[Any], Receive] = {}
        self._watching: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._old: set[asyncio.Task[Any]] = set()
        self._left: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def unless_client_leaves(self, work: Coroutine[Any, Any, bytes], receive: Receive) -> bytes:
        """Return what `work` returns; the request's body must have been read.

        Raises:
            ClientLeftError: the client left; the work was cancelled.
        """
        worker = asyncio.current_task()
        assert worker is not None, "an ASGI application runs in a task"  # noqa: S101
        self._working[worker] = receive
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if worker in self._left:
                raise ClientLeftError from None
            raise
        finally:
            del self._working[worker]
            self._old.discard(worker)
            self._left.discard(worker)
            if (watching := self._watching.pop(worker, None)) is not None:
                watching.cancel()

    def _look(self) -> None:
        """Give each request that was there the last time, too, a watching task."""
        self._timer = None
        loop = asyncio.get_running_loop()
        for worker in self._old - self._watching.keys():
            self._watching[worker] = loop.create_task(self._await_leaving(worker, self._working[worker]))
        self._old = set(self._working)
        if self._working:
            self._timer = loop.call_later(WATCH_AFTER_S, self._look)

    async def _await_leaving(self, worker: asyncio.Task[Any], receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":
            self._left.add(worker)
            worker.cancel()
