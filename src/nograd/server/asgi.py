"""ASGI's one signature, and the watch over clients that leave before their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, TypeAlias

__all__ = ["ClientLeftError", "ClientWatch", "Receive", "Scope", "Send", "Watched"]

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
        self._working: dict[asyncio.Task[Any], Watched] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def current_task(self) -> asyncio.Task[Any]:
        """Return the running task. Python 3.11 asks the kernel for the process' id each time that it looks for the running
        loop, 5 us of 70 for a request here; told the loop, it need not look."""
        task = asyncio.current_task(self._loop) if self._loop is not None else None
        if task is None:
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("an ASGI application runs in a task")
        return task

    def over(self, receive: Receive) -> Watched:
        """Return a context for the current task's work on one request, whose body was read."""
        return Watched(self, receive)

    def begin(self, watched: Watched) -> None:
        """Watch from now on."""
        self._working[watched.worker] = watched
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)

    def end(self, watched: Watched) -> None:
        """Watch no more."""
        del self._working[watched.worker]

    def _look(self) -> None:
        """Give each request that was there the last time, too, a watching task."""
        self._timer = None
        for watched in self._working.values():
            watched.look()
        if self._working:
            self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)


class Watched:
    """One request's work. (A class rather than a generator: this is on the path of every request.)

    Raises:
        ClientLeftError: on leaving the context, where the client left first; the work was cancelled.
    """

    __slots__ = ("_left", "_looks", "_receive", "_task", "_watch", "worker")

    worker: asyncio.Task[Any]

    def __init__(self, watch: ClientWatch, receive: Receive) -> None:
        self._watch = watch
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._looks = 0
        self._left = False

    def __enter__(self) -> None:
        self.worker = self._watch.current_task()
        self._watch.begin(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._watch.end(self)
        if self._task is not None:
            self._task.cancel()
        if self._left and kind is asyncio.CancelledError:
            raise ClientLeftError from None

    def look(self) -> None:
        """Begin to wait for the client's leaving, the second time that the work is seen going on."""
        self._looks += 1
        if self._looks == 2:
            self._task = asyncio.get_running_loop().create_task(self._await_leaving())

    async def _await_leaving(self) -> None:
        if (await self._receive())["type"] == "http.disconnect":
            self._left = True
            self.worker.cancel()
