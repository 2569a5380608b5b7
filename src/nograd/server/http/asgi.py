"""Types of ASGI, and detection of clients that leave before their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["ClientLeftError", "ClientWatch", "Receive", "Scope", "Send"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WATCH_AFTER_S = 0.02
"""Seconds after which a request is watched for a disconnect of its client. Shorter requests are not worth a task."""


class ClientLeftError(Exception):
    """The client closed its connection before the answer."""


class ClientWatch:
    """Cancels work whose client has disconnected.

    One timer serves all requests. It runs only while there are requests, and starts a task that waits for ASGI's
    `http.disconnect` for each request that also existed at the previous tick.
    """

    def __init__(self) -> None:
        self._working: dict[asyncio.Task[Any], Receive] = {}
        self._watching: dict[asyncio.Task[Any], asyncio.Task[None]] = {}
        self._seen: set[asyncio.Task[Any]] = set()
        self._left: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, receive: Receive) -> asyncio.Task[Any]:
        """Watch the running task's work on one request, whose body was read; return the task, for `end`."""
        worker = self._current_task()
        self._working[worker] = receive
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._check_clients)
        return worker

    def end(self, worker: asyncio.Task[Any]) -> None:
        """Stop watching."""
        del self._working[worker]
        self._seen.discard(worker)
        if self._watching and (watching := self._watching.pop(worker, None)) is not None:
            watching.cancel()
            self._left.discard(worker)

    def has_left(self, worker: asyncio.Task[Any]) -> bool:
        """True if the work was cancelled because its client left."""
        return worker in self._left

    def _current_task(self) -> asyncio.Task[Any]:
        """Return the running task. Passing the loop saves Python 3.11 a system call."""
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        if task is None:
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("an ASGI application must run in a task")
        return task

    def _check_clients(self) -> None:
        loop = asyncio.get_running_loop()
        for worker, receive in self._working.items():
            if worker in self._seen and worker not in self._watching:
                self._watching[worker] = loop.create_task(self._await_leaving(worker, receive))
        self._seen = set(self._working)
        self._timer = loop.call_later(WATCH_AFTER_S, self._check_clients) if self._working else None

    async def _await_leaving(self, worker: asyncio.Task[Any], receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":
            self._left.add(worker)
            worker.cancel()
