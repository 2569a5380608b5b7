"""Single-flight: answers by key, from the caches or computed, and each computed once however many ask for it.

A flight belongs to nobody: a task of its own computes it, whoever asked first, so that one who leaves takes nothing from the
others; only when all have left is it given up. What was computed is in the near cache before the flight ends, so that there is
no moment in which it would be computed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import TypeAlias

from nograd.caching.far import FarTier
from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import DeadlineError, NogradError, OverloadedError

__all__ = ["Compute", "SingleFlight"]

Compute: TypeAlias = Callable[[Sequence[int]], Awaitable[Sequence[bytes]]]
"""Returns the value at each of some positions of a request."""

Fits: TypeAlias = Callable[[int, bytes], bool]
"""Returns whether a value of the far cache can be the one at a position of a request; if not, it counts as a miss."""


class _Waiter:
    """One request, until all of its flights have landed."""

    __slots__ = ("future", "left")

    def __init__(self, future: asyncio.Future[None], left: int) -> None:
        self.future = future
        self.left = left

    def landed(self) -> None:
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)

    def failed(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Flight:
    """One key on its way."""

    __slots__ = ("group", "key", "value", "waiters")

    def __init__(self, key: bytes, group: _Group) -> None:
        self.key = key
        self.group = group
        self.value = b""
        self.waiters: list[_Waiter] = []


class _Group:
    """The keys that one request set out for, computed together."""

    __slots__ = ("flights", "task")

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.flights = [_Flight(key, self) for key in keys]
        self.task: asyncio.Task[None] | None = None

    def is_within(self, keys: Container[bytes]) -> bool:
        """True where all that is computed together is among some keys."""
        return all(flight.key in keys for flight in self.flights)


class SingleFlight:
    """Looks near, then far, then computes. For one event loop.

    Args:
        near: in this process; is asked in the loop's thread.
        far: is asked in a thread, once for all that is missing meanwhile.
    """

    def __init__(self, near: MemoryCache, far: Cache | None = None) -> None:
        self.near = near
        self._far = FarTier(far) if far is not None else None
        self._flights: dict[bytes, _Flight] = {}

    async def fetch(
        self,
        keys: Sequence[bytes],
        compute: Compute,
        *,
        values: Sequence[bytes | None] | None = None,
        timeout_s: float | None = None,
        shared: bool = True,
        fits: Fits | None = None,
    ) -> list[bytes]:
        """Return the value of each key.

        Args:
            keys: equal ones are computed once.
            compute: is called with the positions of keys that have no value, and with no others.
            values: what the near cache has of them, where the caller has looked already.
            timeout_s: seconds after which this caller no longer waits for the far cache or for what others compute; `compute`
                keeps its own time.
            shared: whether the far cache may have them.
            fits: checks each value of the far cache; default: none is checked.

        Raises:
            DeadlineError: `timeout_s` passed.
            Whatever `compute` raised. Where it failed for somebody else's company or time-out, this caller's own is called.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            return await self._fetch(keys, compute, values, timeout_s, shared=shared, joins_any=True, fits=fits)
        except _ForeignFailure:
            pass
        left_s = None if timeout_s is None else timeout_s - (loop.time() - begun)
        if left_s is not None and left_s <= 0:
            raise DeadlineError(f"no answer after {timeout_s} s")
        try:
            return await self._fetch(keys, compute, None, left_s, shared=shared, joins_any=False, fits=fits)
        except _ForeignFailure as failure:
            raise failure.error from failure.error.__cause__

    async def _fetch(
        self,
        keys: Sequence[bytes],
        compute: Compute,
        values: Sequence[bytes | None] | None,
        timeout_s: float | None,
        *,
        shared: bool,
        joins_any: bool,
        fits: Fits | None,
    ) -> list[bytes]:
        """As `fetch`; where not `joins_any`, only flights are joined in which there are no rows but this caller's."""
        found = values if values is not None else self.near.get_many(keys)
        positions: dict[bytes, int] = {}
        for position, value in enumerate(found):
            if value is None:
                positions.setdefault(keys[position], position)
        if not positions:
            return [value for value in found if value is not None]
        flights = {key: self._flights[key] for key in positions if key in self._flights}
        joined = {key: flight for key, flight in flights.items() if joins_any or flight.group.is_within(positions)}
        missing = {key: position for key, position in positions.items() if key not in joined}
        far = self._far if shared else None
        own = self._set_out(missing, compute, far, fits)
        await self._wait([*joined.values(), *own], own, timeout_s if joined or far is not None else None)
        landed = {flight.key: flight.value for flight in (*joined.values(), *own)}
        return [landed[key] if value is None else value for key, value in zip(keys, found, strict=True)]

    def _set_out(self, positions: dict[bytes, int], compute: Compute, far: FarTier | None, fits: Fits | None) -> list[_Flight]:
        if not positions:
            return []
        group = _Group(list(positions))
        for flight in group.flights:
            self._flights.setdefault(flight.key, flight)
        group.task = asyncio.get_running_loop().create_task(self._lead(group, positions, compute, far, fits))
        return group.flights

    async def _wait(self, flights: Sequence[_Flight], own: Sequence[_Flight], timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), len(flights))
        for flight in flights:
            flight.waiters.append(waiter)
        late = DeadlineError(f"no answer after {timeout_s} s")
        timer = loop.call_later(timeout_s, waiter.failed, late) if timeout_s is not None else None
        try:
            await waiter.future
        except BaseException as error:
            for group in {flight.group for flight in flights}:
                self._leave(group, waiter)
            if error is not late and isinstance(error, NogradError) and _is_foreign(error, flights, own):
                raise _ForeignFailure(error) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _leave(self, group: _Group, waiter: _Waiter) -> None:
        """Forget one who waited; with the last one, give up. Whoever comes then, before the task has ended, sets out anew."""
        for flight in group.flights:
            if waiter in flight.waiters:
                flight.waiters.remove(waiter)
        if group.task is not None and not any(flight.waiters for flight in group.flights):
            self._forget(group.flights)
            group.task.cancel()

    def _forget(self, flights: Sequence[_Flight]) -> None:
        """Let nobody join flights any more; a later one of the same key is not concerned."""
        for flight in flights:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    async def _lead(
        self, group: _Group, positions: dict[bytes, int], compute: Compute, far: FarTier | None, fits: Fits | None
    ) -> None:
        """Bring all flights of a group home; runs as a task of its own."""
        missing = positions
        try:
            if far is not None:
                found = await far.get(list(positions))
                if fits is not None:
                    found = {key: value for key, value in found.items() if fits(positions[key], value)}
                self.near.put_many(found)
                self._land([flight for flight in group.flights if flight.key in found], found)
                missing = {key: position for key, position in positions.items() if key not in found}
            if missing:
                computed = dict(zip(missing, await compute(list(missing.values())), strict=True))
                self.near.put_many(computed)
                self._land([flight for flight in group.flights if flight.key in computed], computed)
                if far is not None:
                    far.put(computed)
        except BaseException as error:
            flights = [flight for flight in group.flights if flight.key in missing and not flight.value]
            self._forget(flights)
            for waiter in dict.fromkeys(waiter for flight in flights for waiter in flight.waiters):  # who came first is first
                waiter.failed(error)
            if not isinstance(error, Exception):
                raise

    def _land(self, flights: Sequence[_Flight], values: dict[bytes, bytes]) -> None:
        self._forget(flights)
        for flight in flights:
            flight.value = values[flight.key]
            for waiter in flight.waiters:
                waiter.landed()

    def statistics(self) -> tuple[CacheStatistics, CacheStatistics | None]:
        """Return what the near and the far cache did."""
        return self.near.statistics(), self._far.cache.statistics() if self._far is not None else None

    async def close(self) -> None:
        """End the thread that asks the far cache; what is still to be put there gets a moment."""
        if self._far is not None:
            await self._far.close()


class _ForeignFailure(Exception):  # noqa: N818  never leaves this file
    """Somebody else's flight failed, for a reason that need not be this caller's."""

    def __init__(self, error: NogradError) -> None:
        super().__init__(str(error))
        self.error = error


def _is_foreign(error: NogradError, flights: Sequence[_Flight], own: Sequence[_Flight]) -> bool:
    """True where the error may be due to the time-out, or to other rows, of the request that set out."""
    joined = [flight for flight in flights if flight not in own]
    if not joined:
        return False
    return isinstance(error, DeadlineError | OverloadedError) or any(len(flight.group.flights) > 1 for flight in joined)
