"""Single-flight: answers by key, from the caches or computed, and each computed once however many requests want it.

A flight does not belong to the request that began it: a request that leaves takes nothing from the others. When all have left,
the computation is cancelled. Computed values are in the near cache before the flight ends, so that there is no moment in which
they would be computed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TypeAlias

from nograd.caching.memory import MemoryCache
from nograd.caching.remote import FarTier
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import DeadlineError, NogradError, OverloadedError
from nograd.runtime.callbacks import Cancel, call_back, run_in_task

__all__ = ["Compute", "SingleFlight"]

Done: TypeAlias = Callable[[list[bytes] | Exception], None]

Compute: TypeAlias = Callable[[Sequence[int], Done], Cancel]
"""Computes the values at some positions of a request, calls back with them or an error, and returns a function that cancels."""

Fits: TypeAlias = Callable[[int, bytes], bool]
"""Returns whether a value of the far cache can be the one at a position of a request; if not, it counts as a miss."""


class _Request:
    """One request, until all of its flights have landed."""

    __slots__ = (
        "compute", "done", "fits", "flights", "found", "joins_any", "keys", "left", "own", "shared", "timeout_s", "timer",
        "until",
    )  # fmt: skip

    def __init__(
        self, keys: Sequence[bytes], compute: Compute, done: Done, timeout_s: float | None, fits: Fits | None, *, shared: bool
    ) -> None:
        self.keys = keys
        self.compute = compute
        self.done: Done | None = done
        self.timeout_s = timeout_s
        self.fits = fits
        self.shared = shared
        self.found: Sequence[bytes | None] = ()
        self.flights: list[_Flight] = []
        """All that it waits for, by itself and by others."""
        self.own: _Group | None = None
        self.left = 0
        self.until: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.joins_any = True

    def landed(self) -> None:
        """Note that one flight has landed; answer with the last one."""
        self.left -= 1
        if not self.left:
            landed = {flight.key: flight.value for flight in self.flights}
            self.answer([landed[key] if value is None else value for key, value in zip(self.keys, self.found, strict=True)])

    def answer(self, result: list[bytes] | Exception) -> None:
        """Call back, once."""
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            call_back(done, result)


class _Flight:
    """One key on its way."""

    __slots__ = ("group", "has_landed", "key", "value", "waiters")

    def __init__(self, key: bytes, group: _Group) -> None:
        self.key = key
        self.group = group
        self.value = b""
        self.has_landed = False
        self.waiters: list[_Request] = []


class _Group:
    """The keys that one request set out for, computed together."""

    __slots__ = ("cancel", "flights")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.flights = [_Flight(key, self) for key in keys]
        self.cancel: Cancel | None = None
        """Cancels the computation; None before it begins and after it ended."""

    def is_within(self, keys: Container[bytes]) -> bool:
        """Return whether all that is computed together is among some keys."""
        return all(flight.key in keys for flight in self.flights)


class SingleFlight:
    """Looks in the near cache, then in the far one, then computes. For one event loop.

    Args:
        near: in this process; called in the event loop's thread.
        far: called in a thread, once for all keys that are missing meanwhile.
    """

    def __init__(self, near: MemoryCache, far: Cache | None = None) -> None:
        self.near = near
        self._far = FarTier(far) if far is not None else None
        self._flights: dict[bytes, _Flight] = {}

    def fetch(
        self,
        keys: Sequence[bytes],
        compute: Compute,
        done: Done,
        *,
        values: Sequence[bytes | None] | None = None,
        timeout_s: float | None = None,
        shared: bool = True,
        fits: Fits | None = None,
    ) -> Cancel:
        """Get the value of each key, and call back with them.

        Args:
            keys: equal ones are computed once.
            compute: gets the positions of keys that have no value, and no others; called again if it failed because of the
                timeout, or of other keys, of a request that this one had joined.
            done: called once with the values, or the error; perhaps before this call returns.
            values: from the near cache, if the caller has looked there.
            timeout_s: seconds after which this request no longer waits for the far cache or for what others compute: the error
                is a DeadlineError. `compute` keeps its own time.
            shared: whether the far cache may have the values.
            fits: checks each value of the far cache; default: none is checked.

        Returns:
            A function that makes this request leave: `done` is not called after it.
        """
        request = _Request(keys, compute, done, timeout_s, fits, shared=shared)
        self._board(request, self.near.get_many(keys) if values is None else values)
        return partial(self._leave, request)

    def _board(self, request: _Request, found: Sequence[bytes | None]) -> None:
        """Join the flights of missing keys, and set out for the keys that have none."""
        positions: dict[bytes, int] = {}
        for position, value in enumerate(found):
            if value is None:
                positions.setdefault(request.keys[position], position)
        if not positions:
            request.answer([value for value in found if value is not None])
            return
        joined = [flight for key in positions if (flight := self._flights.get(key)) is not None]
        if joined and not request.joins_any:  # only flights without keys of other requests
            joined = [flight for flight in joined if flight.group.is_within(positions)]
        missing = positions if not joined else _without(positions, joined)
        group = _Group(list(missing)) if missing else None
        request.found, request.own = found, group
        request.flights = [*joined, *group.flights] if group is not None else joined
        request.left = len(request.flights)
        for flight in request.flights:
            flight.waiters.append(request)
        far = self._far if request.shared else None
        if request.timeout_s is not None and (joined or far is not None):
            self._limit(request, request.timeout_s)
        if group is not None:
            for flight in group.flights:
                self._flights.setdefault(flight.key, flight)
            self._set_out(group, missing, request, far)

    def _limit(self, request: _Request, timeout_s: float) -> None:
        """Let a request wait no longer than it said."""
        loop = asyncio.get_running_loop()
        if request.until is None:
            request.until = loop.time() + timeout_s
        late = DeadlineError(f"no answer after {timeout_s} s")
        request.timer = loop.call_at(request.until, self._fail, request, late)

    def _set_out(self, group: _Group, positions: dict[bytes, int], request: _Request, far: FarTier | None) -> None:
        if far is None:
            self._compute(group, positions, request, far)
        else:
            group.cancel = run_in_task(far.get(list(positions)), partial(self._receive, group, positions, request, far))

    def _receive(
        self,
        group: _Group,
        positions: dict[bytes, int],
        request: _Request,
        far: FarTier,
        found: dict[bytes, bytes] | Exception,
    ) -> None:
        """Land the flights of keys that the far cache has; compute the others."""
        group.cancel = None
        if isinstance(found, Exception):
            self._crash(group, found)
            return
        if request.fits is not None:
            found = {key: value for key, value in found.items() if request.fits(positions[key], value)}
        missing = {key: position for key, position in positions.items() if key not in found}
        self.near.put_many(found)
        self._land(group, found)
        if missing:
            self._compute(group, missing, request, far)

    def _compute(self, group: _Group, positions: dict[bytes, int], request: _Request, far: FarTier | None) -> None:
        done = partial(self._finish, group, list(positions), far)
        try:
            group.cancel = request.compute(list(positions.values()), done)
        except Exception as error:  # noqa: BLE001  the requests that wait for it get it
            done(error)

    def _finish(self, group: _Group, keys: Sequence[bytes], far: FarTier | None, computed: list[bytes] | Exception) -> None:
        """Keep what was computed, and land its flights."""
        group.cancel = None
        if isinstance(computed, Exception):
            self._crash(group, computed)
            return
        values = dict(zip(keys, computed, strict=True))
        self.near.put_many(values)
        self._land(group, values)
        if far is not None:
            far.put(values)

    def _land(self, group: _Group, values: dict[bytes, bytes]) -> None:
        flights = [flight for flight in group.flights if flight.key in values]
        self._forget(flights)
        for flight in flights:
            flight.value, flight.has_landed = values[flight.key], True
            waiters, flight.waiters = flight.waiters, []
            for request in waiters:
                request.landed()

    def _crash(self, group: _Group, error: Exception) -> None:
        """Fail all requests that wait for a group, the first that came first."""
        flights = [flight for flight in group.flights if not flight.has_landed]
        self._forget(flights)
        for request in dict.fromkeys(request for flight in flights for request in flight.waiters):
            self._fail(request, error, others=flights)

    def _fail(self, request: _Request, error: Exception, others: Sequence[_Flight] = ()) -> None:
        """Answer with an error; try once more if it need not be this request's own.

        Args:
            request: that failed.
            error: of a group that it waits for, or its own timeout's.
            others: the flights of that group; none: it is the request's own timeout.
        """
        is_foreign = others and request.joins_any and isinstance(error, NogradError) and _is_foreign(error, request)
        self._step_off(request)
        if not is_foreign:
            request.answer(error)
        elif request.until is not None and asyncio.get_running_loop().time() >= request.until:
            request.answer(DeadlineError(f"no answer after {request.timeout_s} s"))
        else:
            request.joins_any = False
            self._board(request, self.near.get_many(request.keys))

    def _leave(self, request: _Request) -> None:
        if request.done is not None:
            request.done = None
            self._step_off(request)

    def _step_off(self, request: _Request) -> None:
        """Let a request wait for nothing any more; cancel what no request waits for.

        A request that comes then, before the computation has ended, begins another one.
        """
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        for flight in request.flights:
            if request in flight.waiters:
                flight.waiters.remove(request)
        for group in dict.fromkeys(flight.group for flight in request.flights):
            if group.cancel is not None and not any(flight.waiters for flight in group.flights):
                self._forget(group.flights)
                cancel, group.cancel = group.cancel, None
                cancel()

    def _forget(self, flights: Sequence[_Flight]) -> None:
        """Let no request join flights any more; a later one of the same key is not concerned."""
        for flight in flights:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    def statistics(self) -> tuple[CacheStatistics, CacheStatistics | None]:
        """Return what the near and the far cache did."""
        return self.near.statistics(), self._far.cache.statistics() if self._far is not None else None

    async def close(self) -> None:
        """End the thread that calls the far cache; values that wait to be put there get a moment."""
        if self._far is not None:
            await self._far.close()


def _without(positions: dict[bytes, int], flights: Sequence[_Flight]) -> dict[bytes, int]:
    keys = {flight.key for flight in flights}
    return {key: position for key, position in positions.items() if key not in keys}


def _is_foreign(error: NogradError, request: _Request) -> bool:
    """Return whether the error may be due to the timeout, or to other rows, of the request that set out."""
    joined = [flight for flight in request.flights if flight.group is not request.own]
    if not joined:
        return False
    return isinstance(error, DeadlineError | OverloadedError) or any(len(flight.group.flights) > 1 for flight in joined)
