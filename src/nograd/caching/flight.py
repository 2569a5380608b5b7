"""Single-flight: look up values or compute them, each once for all concurrent requests.

A flight does not belong to the request that started it: other requests keep it if that request leaves. When all requests have
left, the computation is cancelled. Computed values are stored in the local cache before the flight ends, so that no request can
compute them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TypeAlias

from nograd.caching.memory import MemoryCache
from nograd.caching.remote import RemoteTier
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import DeadlineError, NogradError, OverloadedError
from nograd.runtime.callbacks import Cancel, call_back, run_in_task

__all__ = ["Compute", "SingleFlight"]

Done: TypeAlias = Callable[[list[bytes] | Exception], None]

Compute: TypeAlias = Callable[[Sequence[int], Done], Cancel]
"""Computes the values at some positions of a request, calls back with them or an error, and returns a function that cancels."""

Fits: TypeAlias = Callable[[int, bytes], bool]
"""Returns whether a value of the remote cache can belong to a position of a request. Other values count as misses."""


class _WaitingRequest:
    """A request, until all of its flights have finished."""

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
        """All flights that it waits for, started by it or by others."""
        self.own: _FlightGroup | None = None
        self.left = 0
        self.until: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.joins_any = True

    def landed(self) -> None:
        """Record that one flight has finished; answer after the last one."""
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
    """One key that is being fetched."""

    __slots__ = ("group", "has_landed", "key", "value", "waiters")

    def __init__(self, key: bytes, group: _FlightGroup) -> None:
        self.key = key
        self.group = group
        self.value = b""
        self.has_landed = False
        self.waiters: list[_WaitingRequest] = []


class _FlightGroup:
    """The keys that one request started to fetch, computed together."""

    __slots__ = ("cancel", "flights")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.flights = [_Flight(key, self) for key in keys]
        self.cancel: Cancel | None = None
        """Cancels the computation; None before its start and after its end."""

    def is_within(self, keys: Container[bytes]) -> bool:
        """Return whether all keys of the group are among the given keys."""
        return all(flight.key in keys for flight in self.flights)


class SingleFlight:
    """Looks up the local cache, then the remote one, then computes. For one event loop.

    Args:
        near: cache in this process, called in the event loop's thread.
        far: remote cache, called in a thread, once for all keys that are missing at that time.
    """

    def __init__(self, near: MemoryCache, far: Cache | None = None) -> None:
        self.near = near
        self._far = RemoteTier(far) if far is not None else None
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
            keys: keys to fetch; equal ones are computed once.
            compute: computes the values at the given positions only. It is called again if a joined flight failed because of
                another request's timeout or keys.
            done: called once with the values or the error, possibly before this call returns.
            values: values of the local cache, if the caller has looked them up.
            timeout_s: maximum seconds to wait for the remote cache or for other requests' computations; then the error is a
                DeadlineError. `compute` has its own timeout.
            shared: whether to use the remote cache.
            fits: checks values of the remote cache; default: no check.

        Returns:
            A function that abandons the request; `done` is not called after it.
        """
        request = _WaitingRequest(keys, compute, done, timeout_s, fits, shared=shared)
        self._board(request, self.near.get_many(keys) if values is None else values)
        return partial(self._leave, request)

    def _board(self, request: _WaitingRequest, found: Sequence[bytes | None]) -> None:
        """Join existing flights of missing keys, and start flights for the others."""
        positions: dict[bytes, int] = {}
        for position, value in enumerate(found):
            if value is None:
                positions.setdefault(request.keys[position], position)
        if not positions:
            request.answer([value for value in found if value is not None])
            return
        joined = [flight for key in positions if (flight := self._flights.get(key)) is not None]
        if joined and not request.joins_any:  # join only flights without keys of other requests
            joined = [flight for flight in joined if flight.group.is_within(positions)]
        missing = positions if not joined else _without(positions, joined)
        group = _FlightGroup(list(missing)) if missing else None
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

    def _limit(self, request: _WaitingRequest, timeout_s: float) -> None:
        """Set the timeout of a request."""
        loop = asyncio.get_running_loop()
        if request.until is None:
            request.until = loop.time() + timeout_s
        late = DeadlineError(f"no answer after {timeout_s} s")
        request.timer = loop.call_at(request.until, self._fail, request, late)

    def _set_out(
        self, group: _FlightGroup, positions: dict[bytes, int], request: _WaitingRequest, far: RemoteTier | None
    ) -> None:
        if far is None:
            self._compute(group, positions, request, far)
        else:
            group.cancel = run_in_task(far.get(list(positions)), partial(self._receive, group, positions, request, far))

    def _receive(
        self,
        group: _FlightGroup,
        positions: dict[bytes, int],
        request: _WaitingRequest,
        far: RemoteTier,
        found: dict[bytes, bytes] | Exception,
    ) -> None:
        """Finish the flights of keys found in the remote cache; compute the others."""
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

    def _compute(
        self, group: _FlightGroup, positions: dict[bytes, int], request: _WaitingRequest, far: RemoteTier | None
    ) -> None:
        done = partial(self._finish, group, list(positions), far)
        try:
            group.cancel = request.compute(list(positions.values()), done)
        except Exception as error:  # noqa: BLE001  raised in the waiting requests
            done(error)

    def _finish(
        self, group: _FlightGroup, keys: Sequence[bytes], far: RemoteTier | None, computed: list[bytes] | Exception
    ) -> None:
        """Store computed values, and finish their flights."""
        group.cancel = None
        if isinstance(computed, Exception):
            self._crash(group, computed)
            return
        values = dict(zip(keys, computed, strict=True))
        self.near.put_many(values)
        self._land(group, values)
        if far is not None:
            far.put(values)

    def _land(self, group: _FlightGroup, values: dict[bytes, bytes]) -> None:
        flights = [flight for flight in group.flights if flight.key in values]
        self._forget(flights)
        for flight in flights:
            flight.value, flight.has_landed = values[flight.key], True
            waiters, flight.waiters = flight.waiters, []
            for request in waiters:
                request.landed()

    def _crash(self, group: _FlightGroup, error: Exception) -> None:
        """Fail all requests that wait for a group, in order of arrival."""
        flights = [flight for flight in group.flights if not flight.has_landed]
        self._forget(flights)
        for request in dict.fromkeys(request for flight in flights for request in flight.waiters):
            self._fail(request, error, others=flights)

    def _fail(self, request: _WaitingRequest, error: Exception, others: Sequence[_Flight] = ()) -> None:
        """Answer with an error, or retry once if the error may be due to another request.

        Args:
            request: the failed request.
            error: error of a joined group, or the request's own timeout.
            others: flights of that group; empty for the request's own timeout.
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

    def _leave(self, request: _WaitingRequest) -> None:
        if request.done is not None:
            request.done = None
            self._step_off(request)

    def _step_off(self, request: _WaitingRequest) -> None:
        """Stop waiting for flights, and cancel computations without waiting requests.

        A request that arrives before the cancelled computation ends starts a new one.
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
        """Remove flights, so that no request joins them; newer flights of the same key stay."""
        for flight in flights:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    def statistics(self) -> tuple[CacheStatistics, CacheStatistics | None]:
        """Return the statistics of the local and the remote cache."""
        return self.near.statistics(), self._far.cache.statistics() if self._far is not None else None

    async def close(self) -> None:
        """End the remote cache's thread; pending writes get a moment."""
        if self._far is not None:
            await self._far.close()


def _without(positions: dict[bytes, int], flights: Sequence[_Flight]) -> dict[bytes, int]:
    keys = {flight.key for flight in flights}
    return {key: position for key, position in positions.items() if key not in keys}


def _is_foreign(error: NogradError, request: _WaitingRequest) -> bool:
    """Return whether an error may be due to the timeout or other rows of the request that started the flight."""
    joined = [flight for flight in request.flights if flight.group is not request.own]
    if not joined:
        return False
    return isinstance(error, DeadlineError | OverloadedError) or any(len(flight.group.flights) > 1 for flight in joined)
