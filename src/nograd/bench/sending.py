"""The sockets of a load: connections that carry one request at a time, and the pool that hands requests to them.

About 20 us of processor time a request, so that the generator is a small part of what a shared machine does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import nan
from typing import TYPE_CHECKING, Self, cast

import httptools

from nograd.bench.samples import CLOSED, MALFORMED, REFUSED, TIMED_OUT, Samples

if TYPE_CHECKING:
    from nograd.bench.target import Target

__all__ = ["Pool"]

CONNECT_S = 5.0
"""Seconds after which a connection that does not open never will."""


class Connection(asyncio.Protocol):
    """One connection; `due` and `started` are of the request on it, NaN while there is none."""

    __slots__ = ("_parser", "_pool", "_transport", "due", "is_busy", "started")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.is_busy = False
        self.due = self.started = nan

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float, started: float) -> None:
        """Write a request; the connection has none."""
        self.is_busy, self.due, self.started = True, due, started
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._pool.samples.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.is_busy:
                self._pool.ended(self, MALFORMED, is_open=False)
            else:
                self.abort()

    def on_message_complete(self) -> None:
        """Hear from the parser that an answer is whole."""
        if self.is_busy:
            self._pool.ended(self, self._parser.get_status_code(), is_open=self._parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.is_busy:
            self._pool.ended(self, CLOSED, is_open=False)
        self._pool.lost(self)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """Sends each request at once on a connection that is free, or on a new one; notes what became of it.

    Args:
        target: where to, and what.
        clock: monotonic, in seconds.
        timeout_s: seconds from when a request was due until it is given up.
        max_connections: more are not opened; a request waits for one then, and the wait is part of its latency.
    """

    def __init__(self, target: Target, clock: Callable[[], float], *, timeout_s: float, max_connections: int) -> None:
        self.samples = Samples()
        self.on_end: Callable[[int], None] = lambda _: None
        """Called with its outcome when a request has ended."""

        self._target, self._clock = target, clock
        self._timeout_s, self._max_connections = timeout_s, max_connections
        self._next = 0
        self._waiting: deque[tuple[float, float]] = deque()
        """When each was due, and when the generator came to it."""

        self._idle: list[Connection] = []
        self._busy: dict[Connection, None] = {}
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._schedule_sweep()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in tuple(self._open):
            connection.abort()
        await asyncio.sleep(0)  # aborted connections hear of it in the loop's next turn

    def submit(self, due: float) -> None:
        """Send the next request, which is due at a time that may have passed."""
        self._quiet.clear()
        now = self._clock()
        if self._idle:
            self._send(self._idle.pop(), due, now)
            return
        self._waiting.append((due, now))
        self._grow()

    async def wait_quiet(self) -> None:
        """Wait until every request has ended."""
        while self._busy or self._waiting:
            await self._quiet.wait()

    def _grow(self) -> None:
        """Open a connection, if there may be another."""
        if len(self._open) + len(self._opening) < self._max_connections and not self._closed:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _send(self, connection: Connection, due: float, started: float) -> None:
        request = self._target.requests[self._next]
        self._next = (self._next + 1) % len(self._target.requests)
        self._busy[connection] = None
        self.samples.sent_bytes += len(request)
        connection.send(request, due, started)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await loop.create_connection(lambda: Connection(self), target.host, target.port, ssl=target.tls)
        except OSError:  # TimeoutError is one
            if self._waiting:
                self._note(*self._waiting.popleft(), self._clock(), REFUSED)
            return
        self._open.add(connection)
        self._offer(connection)

    def _offer(self, connection: Connection) -> None:
        """Give a free connection its next request, if one waits."""
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def ended(self, connection: Connection, outcome: int, *, is_open: bool) -> None:
        """Hear that a connection's request has ended."""
        now = self._clock()
        connection.is_busy = False
        del self._busy[connection]
        due, started = connection.due, connection.started
        if is_open:
            self._offer(connection)
        else:
            self._open.discard(connection)
            connection.abort()
            if self._waiting:
                self._grow()
        self._note(due, started, now, outcome)

    def lost(self, connection: Connection) -> None:
        """Hear that a connection is closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _note(self, due: float, started: float, done: float, outcome: int) -> None:
        self.samples.add(due, started, done, outcome)
        self.on_end(outcome)
        if not self._busy and not self._waiting:
            self._quiet.set()

    def _schedule_sweep(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(min(self._timeout_s / 20, 0.25), self._give_up)

    def _give_up(self) -> None:
        """End what has waited too long: the oldest come first, so that the first that has not ends the search."""
        late = self._clock() - self._timeout_s
        while self._busy and (oldest := next(iter(self._busy))).due < late:
            self.ended(oldest, TIMED_OUT, is_open=False)
        while self._waiting and self._waiting[0][0] < late:
            self._note(*self._waiting.popleft(), self._clock(), TIMED_OUT)
        self._schedule_sweep()
