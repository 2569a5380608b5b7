"""Sockets of a load: connections that carry one request at a time, and the pool that assigns requests to them.

A request costs about 20 us of processor time, so that the generator is a small part of the load on a shared machine.
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
"""Maximum seconds to open a connection."""


class LoadConnection(asyncio.Protocol):
    """One connection; `due` and `started` belong to its current request, and are NaN without one."""

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
        """Write a request; the connection must be idle."""
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
        """Handle a complete response; called by the parser."""
        if self.is_busy:
            self._pool.ended(self, self._parser.get_status_code(), is_open=self._parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.is_busy:
            self._pool.ended(self, CLOSED, is_open=False)
        self._pool.lost(self)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class Pool:
    """Send each request at once, on an idle connection or a new one, and record its outcome.

    Args:
        target: the server's address and the requests.
        clock: monotonic, in seconds.
        timeout_s: seconds from a request's due time until it is given up.
        max_connections: maximum number of connections. If all are busy, a request waits for one; the wait is part of its
            latency.
    """

    def __init__(self, target: Target, clock: Callable[[], float], *, timeout_s: float, max_connections: int) -> None:
        self.samples = Samples()
        self.on_end: Callable[[int], None] = lambda _: None
        """Called with the outcome when a request has ended."""

        self._target, self._clock = target, clock
        self._timeout_s, self._max_connections = timeout_s, max_connections
        self._next = 0
        self._waiting: deque[tuple[float, float]] = deque()
        """Due time and start time of each waiting request."""

        self._idle: list[LoadConnection] = []
        self._busy: dict[LoadConnection, None] = {}
        self._open: set[LoadConnection] = set()
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
        await asyncio.sleep(0)  # aborted connections are notified in the loop's next iteration

    def submit(self, due: float) -> None:
        """Send the next request; its due time may have passed."""
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
        """Open a connection, if the limit allows another one."""
        if len(self._open) + len(self._opening) < self._max_connections and not self._closed:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _send(self, connection: LoadConnection, due: float, started: float) -> None:
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
                _, connection = await loop.create_connection(
                    lambda: LoadConnection(self), target.host, target.port, ssl=target.tls
                )
        except OSError:  # includes TimeoutError
            if self._waiting:
                self._note(*self._waiting.popleft(), self._clock(), REFUSED)
            return
        self._open.add(connection)
        self._offer(connection)

    def _offer(self, connection: LoadConnection) -> None:
        """Assign the next waiting request to an idle connection, or add it to the idle connections."""
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def ended(self, connection: LoadConnection, outcome: int, *, is_open: bool) -> None:
        """Handle the end of a connection's request."""
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

    def lost(self, connection: LoadConnection) -> None:
        """Handle a closed connection."""
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
        """Time out requests that are over the limit. They are in the order of their due times, so the first younger one ends
        the search."""
        late = self._clock() - self._timeout_s
        while self._busy and (oldest := next(iter(self._busy))).due < late:
            self.ended(oldest, TIMED_OUT, is_open=False)
        while self._waiting and self._waiting[0][0] < late:
            self._note(*self._waiting.popleft(), self._clock(), TIMED_OUT)
        self._schedule_sweep()
