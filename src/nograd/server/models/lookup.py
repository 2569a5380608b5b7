"""One request with rows that are not in the memory cache, from the lookup to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from nograd.batching.jobs import BatchReply
from nograd.caching import decode
from nograd.caching.codec import CorruptValueError
from nograd.caching.key_units import Texts, Units
from nograd.core.tensors import Batch
from nograd.errors import DeadlineError
from nograd.runtime.callbacks import Cancel, run_in_task
from nograd.server.models.refused_items import RefusedItemError

if TYPE_CHECKING:
    from nograd.server.models.caching import ModelCache
    from nograd.server.models.user_code import UserCode
    from nograd.server.telemetry.server_timing import Timing

__all__ = ["Lookup", "Outputs"]

Outputs: TypeAlias = Callable[[list[Batch] | Exception], None]
"""Called once with a request's outputs, or the error."""

MIN_LEFT_S = 1e-6
"""Additional seconds for the batcher after a request's timeout, so that the batcher reports the error."""


class Lookup:
    """Gets missing rows from the remote cache, from another request that computes them, or from the batcher.

    Args:
        cache: cache of the model.
        units: units of the request.
        begun: start of the lookup, on the cache's clock.
        timeout_s: remaining seconds of the request at that time.
        priority: priority of the request.
        timing: receives the times of the request.
        done: called with the outputs.
    """

    __slots__ = ("_begun", "_cache", "_done", "_leave", "_looked_s", "_missing", "_outputs", "_priority", "_ran", "_timeout_s",
                 "_timing", "_units")  # fmt: skip

    def __init__(
        self,
        cache: ModelCache,
        units: Units | Texts,
        begun: float,
        timeout_s: float,
        priority: int,
        timing: Timing | None,
        done: Outputs,
    ) -> None:
        self._cache = cache
        self._units = units
        self._begun = begun
        self._timeout_s = timeout_s
        self._priority = priority
        self._timing = timing
        self._done = done
        self._missing = self._ran = 0
        self._looked_s = 0.0
        self._outputs: list[Batch] | None = None
        """Outputs of the whole request, if the batcher ran all of it; they need no decoding."""

    def start(self, values: Sequence[bytes | None]) -> Cancel:
        """Get the values that the memory cache lacks; return a function that cancels the lookup."""
        cache, units = self._cache, self._units
        self._missing = values.count(None)
        self._looked_s = cache.clock() - self._begun
        self._leave = cache.flights.fetch(
            units.keys,
            self._compute,
            self._finish,
            values=values,
            timeout_s=self._timeout_s,
            shared=cache.is_shared,
            fits=partial(_fits, units),
        )
        return self._cancel

    def _compute(self, positions: Sequence[int], computed: Callable[[list[bytes] | Exception], None]) -> Cancel:
        """Let the batcher run some units."""
        left_s = self._left_s()
        if left_s <= 0:
            raise DeadlineError(f"no answer after {self._timeout_s:g} s")
        self._ran += len(positions)
        self._cache.counts.computed += len(positions)
        code, units = self._cache.code, self._units
        keep = partial(self._keep, len(positions), computed)
        if code is None or isinstance(units, Units):
            return self._run(units.take(positions), left_s, keep)
        return run_in_task(self._prepare_and_run(code, units, positions, left_s), keep)

    def _run(self, parts: list[Batch], timeout_s: float, keep: Outputs) -> Cancel:
        spent = None if self._timing is None else self._timing.spent
        batcher = self._cache.batcher
        return batcher.submit(parts, BatchReply(keep), timeout_s=timeout_s, priority=self._priority, spent=spent)

    async def _prepare_and_run(self, code: UserCode, texts: Texts, positions: Sequence[int], timeout_s: float) -> list[Batch]:
        parts = await self._cache.refused.prepare(code, texts, positions, timeout_s, self._timing)
        spent = None if self._timing is None else self._timing.spent
        left_s = max(MIN_LEFT_S, self._left_s())
        return await self._cache.batcher.run(parts, timeout_s=left_s, priority=self._priority, spent=spent)

    def _keep(self, count: int, computed: Callable[[list[bytes] | Exception], None], outputs: list[Batch] | Exception) -> None:
        """Pass the outputs of the units to the cache."""
        if isinstance(outputs, Exception):
            computed(outputs)
            return
        if count == len(self._units.keys):
            self._outputs = outputs
        try:
            values = self._units.values(outputs)
        except Exception as error:  # noqa: BLE001  the requests that wait get it
            computed(error)
        else:
            computed(values)

    def _finish(self, values: list[bytes] | Exception) -> None:
        """Call back with the outputs, or the error."""
        cache, rows, failed = self._cache, len(self._units.keys), isinstance(values, Exception)
        saved = 0 if failed else max(0, self._missing - self._ran)  # from the remote cache, or from another request's flight
        self._note(saved)
        if isinstance(values, RefusedItemError):
            self._done(values.as_of(self._units.keys))
        elif isinstance(values, Exception):
            self._done(values)
        else:
            outputs = self._outputs
            if outputs is None:
                outputs = self._units.joined(list(map(decode, values)), writable=cache.is_written)
            hits = rows - self._missing + saved
            cache.note_request(self._begun, self._looked_s if self._ran else None, self._timing, rows, hits)
            self._done(outputs)

    def _cancel(self) -> None:
        self._leave()
        self._note(0)

    def _note(self, saved: int) -> None:
        rows = len(self._units.keys)
        near_hits = rows - self._missing
        self._cache.note(rows, near_hits, near_hits + saved, self._looked_s + MISS_S)

    def _left_s(self) -> float:
        return self._timeout_s - (self._cache.clock() - self._begun)


MISS_S = 30e-6
"""Seconds of the event loop for a request with missing rows, in addition to keys and lookups."""


def _fits(units: Units | Texts, position: int, value: bytes) -> bool:
    """Return whether a value of the remote cache can be the model's outputs; other programs may write to it."""
    try:
        return units.fits(position, decode(value))
    except CorruptValueError:
        return False
