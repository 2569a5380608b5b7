"""Closed and open loops, which decide when to send. `sending` has the sockets, `summary` evaluates the times."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, isfinite, nan

from nograd.bench.arrivals import Arrivals, arrivals
from nograd.bench.samples import REFUSED
from nograd.bench.sending import Pool
from nograd.bench.summary import Summary, summarise
from nograd.bench.target import Target
from nograd.bench.timer import Timer
from nograd.errors import ConfigError

__all__ = ["Clients", "ClosedLoop", "Load", "OpenLoop", "Plan", "measure"]

RETRY_S = 0.05
"""Seconds until a client of a closed loop retries after a failed connection. The delay prevents a busy loop."""


@dataclass(frozen=True, slots=True)
class Clients:
    """A closed loop: each of `count` clients sends its next request when the response to its last one has arrived."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"clients is {self.count}; it must be at least 1")

    def __str__(self) -> str:
        return f"{self.count} client{'' if self.count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Load:
    """An open loop: requests arrive independently of responses."""

    rate: float
    """Requests per second."""

    kind: Arrivals = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        arrivals(self.kind, self.rate)

    def __str__(self) -> str:
        return f"{self.rate:g}/s {self.kind}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Duration and limits of a load."""

    duration_s: float = 10.0
    """Measured seconds."""

    warmup_s: float = 1.0
    """Unmeasured seconds before that, under the same load."""

    requests: int | None = None
    """Number of measured requests, instead of a duration."""

    timeout_s: float = 30.0
    """Seconds until a request times out, counted from its due time."""

    max_connections: int = 1024
    """Maximum connections of an open loop. In a closed loop, each client has one connection."""

    def __post_init__(self) -> None:
        for name, value in (("duration", self.duration_s), ("timeout", self.timeout_s)):
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value} s; it must be above 0, finite")
        if not (isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise ConfigError(f"warmup is {self.warmup_s} s; it must be 0 or more, finite")
        if self.requests is not None and self.requests < 1:
            raise ConfigError(f"requests is {self.requests}; it must be at least 1")
        if self.max_connections < 1:
            raise ConfigError(f"max_connections is {self.max_connections}; it must be at least 1")

    @property
    def last(self) -> tuple[float, float]:
        """Limits of the load in seconds after the warm-up and in requests. The one that is reached first ends the load."""
        return (self.duration_s, inf) if self.requests is None else (inf, self.requests)


class ClosedLoop:
    """Send the next request of a client whenever a request has ended, until the load ends.

    Args:
        submit: sends a request with the given due time.
        later: calls a function after a delay in seconds.
        clock: returns the time in seconds.
        begun: end of the warm-up.
        plan: duration and limits.
    """

    def __init__(
        self, submit: Callable[[float], None], later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float], begun: float, plan: Plan,
    ) -> None:  # fmt: skip
        self._submit, self._later, self._clock, self._begun = submit, later, clock, begun
        self._seconds, self._left = plan.last
        self.ended = nan
        """Time at which the load ended; NaN before that."""

        self.stopped = asyncio.Event()

    def start(self, clients: int) -> None:
        """Send the first request of every client."""
        for _ in range(clients):
            self._again()

    def on_end(self, outcome: int) -> None:
        """Send a client's next request; after a failed connection, wait for `RETRY_S` first."""
        if outcome == REFUSED:
            self._later(RETRY_S, self._again)
        else:
            self._again()

    def _again(self) -> None:
        now = self._clock()
        if now >= self._begun:
            if self._left <= 0 or now - self._begun >= self._seconds:
                if not self.stopped.is_set():
                    self.ended = now
                    self.stopped.set()
                return
            self._left -= 1
        self._submit(now)


class OpenLoop:
    """Send requests when they are due. Overdue ones are sent all at once.

    Args:
        submit: sends a request with the given due time.
        times: arrival times in seconds from `origin`, ascending.
        clock: returns the time in seconds.
        origin: start of the load, which begins with the warm-up.
        plan: duration and limits.
    """

    def __init__(
        self, submit: Callable[[float], None], times: Iterator[float], clock: Callable[[], float], origin: float, plan: Plan
    ) -> None:
        self._submit, self._times, self._clock, self._origin = submit, times, clock, origin
        self._begun = origin + plan.warmup_s
        self._seconds, self._left = plan.last
        self._due = origin + next(times)
        self.ended = nan
        self.stopped = asyncio.Event()

    def pump(self) -> float | None:
        """Send the requests that are due; return the seconds until the next one, or None at the end."""
        while True:
            if self._due >= self._begun and (self._left <= 0 or self._due - self._begun >= self._seconds):
                self.ended = self._begun + self._seconds if self._seconds < inf else self._due
                self.stopped.set()
                return None
            now = self._clock()
            if self._due > now:
                return self._due - now
            self._left -= self._due >= self._begun
            self._submit(self._due)
            self._due = self._origin + next(self._times)


async def measure(target: Target, load: Clients | Load, plan: Plan, clock: Callable[[], float] = time.perf_counter) -> Summary:
    """Run a load against a target and return the measurements.

    If the task is cancelled (Ctrl-C) after the warm-up, the measurements so far are returned as partial ones. Requests that
    are still in flight are left out.

    Args:
        target: the server's address and the requests.
        load: a closed or an open loop.
        plan: duration and limits.
        clock: monotonic, in seconds.

    Raises:
        asyncio.CancelledError: the task is cancelled before anything was measured.
    """
    connections = load.count if isinstance(load, Clients) else plan.max_connections
    offered = load.rate if isinstance(load, Load) else None
    async with Pool(target, clock, timeout_s=plan.timeout_s, max_connections=connections) as pool:
        origin = clock()
        begun, is_partial = origin + plan.warmup_s, False
        try:
            ended = await (
                _closed(pool, load, plan, clock, begun) if isinstance(load, Clients) else _open(pool, load, plan, clock, origin)
            )
        except asyncio.CancelledError:
            ended, is_partial = clock(), True
            if not any(due >= begun for due in pool.samples.due):
                raise
        # Before the pool aborts the requests in flight, which would be errors
        return summarise(pool.samples, begun, ended, label=str(load), offered_per_s=offered, is_partial=is_partial)


async def _closed(pool: Pool, load: Clients, plan: Plan, clock: Callable[[], float], begun: float) -> float:
    closed = ClosedLoop(pool.submit, asyncio.get_running_loop().call_later, clock, begun, plan)
    pool.on_end = closed.on_end
    closed.start(load.count)
    await closed.stopped.wait()
    await pool.wait_quiet()
    return closed.ended


async def _open(pool: Pool, load: Load, plan: Plan, clock: Callable[[], float], origin: float) -> float:
    times = arrivals(load.kind, load.rate, load.seed)
    source = OpenLoop(pool.submit, times, clock, origin, plan)
    timer: Timer

    def pump() -> None:
        delay = source.pump()
        if delay is not None:
            timer.set(delay)

    timer = Timer(pump)
    try:
        pump()
        await source.stopped.wait()
        await pool.wait_quiet()
    finally:
        timer.close()
    return source.ended
