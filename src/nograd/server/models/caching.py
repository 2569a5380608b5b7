"""The cache of one model: rows are looked up before they are queued. Lookups pause while the cache costs more than it saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nograd.caching import CacheStatistics, Keys, MemoryCache, decode
from nograd.caching.flight import SingleFlight
from nograd.caching.governor import CacheGovernor
from nograd.caching.key_units import Texts, Units
from nograd.core.tensors import Batch
from nograd.predictors.predictor import Predictor
from nograd.runtime.callbacks import Cancel, wait_for
from nograd.server.models.lookup import Lookup, Outputs
from nograd.server.models.refused_items import RefusedItems
from nograd.server.protocol.request import DEFAULT_PRIORITY
from nograd.server.telemetry.statistics import LookupCounts

if TYPE_CHECKING:
    from nograd.batching import Batcher
    from nograd.caching.store import Cache
    from nograd.server.models.user_code import UserCode
    from nograd.server.settings.definition import ServeConfig
    from nograd.server.telemetry.server_timing import Timing

__all__ = ["MOST_KEYS", "MOST_ROWS", "ModelCache", "open_caches"]

MOST_ROWS = 2**17
"""Rows of a request that is looked up, at most: the event loop needs about a microsecond for each."""

MOST_KEYS = 2**13
"""Different rows of such a request, at most: a row that is missing takes six microseconds."""


def open_caches(config: ServeConfig) -> SingleFlight | None:
    """Return the caches of a server; None if its settings disable them.

    Raises:
        MissingExtraError: Redis is configured, but redis-py is not installed.
        ConfigError: the URL cannot be read.
    """
    if not config.cache_mb:
        return None
    far: Cache | None = None
    if config.cache_url:
        from nograd.caching.redis import WEEK_S, RedisCache

        far = RedisCache(config.cache_url, ttl_s=config.cache_ttl_s or WEEK_S)
    return SingleFlight(MemoryCache(max(1, int(config.cache_mb * 1e6)), ttl_s=config.cache_ttl_s), far)


@dataclass(slots=True)
class _CacheCounts:
    rows: int = 0
    hits: int = 0
    near_hits: int = 0
    computed: int = 0
    skipped: int = 0
    saved_s: float = 0.0
    hit_requests: int = 0
    hit_s: float = 0.0
    miss_requests: int = 0
    miss_s: float = 0.0


class ModelCache:
    """Answers cached rows, and lets the batcher run the others, each once for all requests that need it.

    The key of a text is the text itself, without tokenizing, if its tokenizer has a fingerprint (`fingerprint()`). The key of
    any other item is the result of `preprocess`, because a function may read more than its argument.

    Args:
        predictor: the model.
        flights: the server's caches.
        batcher: runs the missing rows.
        code: prepares texts in threads; None for a model without `preprocess`.
        clock: returns seconds, for measuring the cost of the cache.
    """

    def __init__(
        self,
        predictor: Predictor,
        flights: SingleFlight,
        batcher: Batcher,
        code: UserCode | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._predictor = predictor
        self.flights = flights
        self.batcher = batcher
        self.code = code
        self.clock = clock
        self.refused = RefusedItems(flights.near.statistics().max_bytes)
        self.counts = _CacheCounts()
        self._by_text = callable(getattr(predictor.preprocess, "fingerprint", None))
        found = predictor.fingerprint() if self._by_text else predictor.backend.fingerprint()
        self._keys = Keys(found.text)
        self.is_shared = not found.private_because
        """Whether other processes may share the values."""

        self.is_written = predictor.has_postprocess
        """Whether outputs must be writable, because the user's code receives them; otherwise they are only encoded."""

        self._worth = CacheGovernor()

    def takes(self, rows: int) -> bool:
        """Return whether a request should be looked up: not while the cache costs more than it saves, and not if it is long."""
        if self._worth.is_on and rows <= MOST_ROWS:
            return True
        self._worth.skip(rows)
        self.counts.skipped += rows
        return False

    def knows(self, items: Sequence[Any]) -> bool:
        """Return whether items are looked up without `preprocess`: texts, if the fingerprint of `preprocess` is known."""
        return self._by_text and all(isinstance(item, str) for item in items)

    def units(self, items: Sequence[str] | None, parts: list[Batch]) -> Units | Texts:
        """Return the units of a request with their keys; a thread may call it. Arguments as `submit`."""
        if items is None:
            return Units(parts, self._keys, self._predictor.signature)
        return Texts(items, self._keys, self._predictor.prepare_item, self._predictor.signature)

    async def run(
        self,
        items: Sequence[str] | None,
        parts: list[Batch],
        timeout_s: float,
        priority: int = DEFAULT_PRIORITY - 1,
        timing: Timing | None = None,
    ) -> list[Batch]:
        """Return the outputs of a request's items or parts; arguments and errors as for `submit`."""
        return await wait_for(partial(self.submit, items, parts, timeout_s, priority, timing))

    def submit(
        self,
        items: Sequence[str] | None,
        parts: list[Batch],
        timeout_s: float,
        priority: int,
        timing: Timing | None,
        done: Outputs,
        units: Units | Texts | None = None,
    ) -> Cancel:
        """Get the outputs of a request's items or parts, and call back with them.

        Args:
            items: texts for which `knows` is true; None: the request has parts.
            parts: parts of the request; not used if there are items.
            timeout_s: remaining seconds of the request.
            priority: priority of rows that must run.
            timing: receives the times of the request.
            done: called once with the outputs or the batcher's error, possibly before this call returns.
            units: as `units` returns them, if the caller has them already.

        Returns:
            A function that cancels the request, after which `done` is not called.

        Raises:
            ItemError: an item was rejected recently.
        """
        begun = self.clock()
        if units is None:
            units = self.units(items, parts)
        values = self.flights.near.get_many(units.keys)
        known = [decode(value) for value in values if value is not None]
        rows = len(values)
        if len(known) < rows:
            if items is not None:
                self.refused.check(units.keys)
            return Lookup(self, units, begun, timeout_s, priority, timing, done).start(values)
        outputs = units.joined(known, writable=self.is_written)
        self.note(rows, rows, rows, self.clock() - begun)
        self.note_request(begun, None, timing, rows, rows)
        done(outputs)
        return _nothing

    def note(self, rows: int, near_hits: int, hits: int, spent_s: float) -> None:
        """Count looked-up rows, and compare the event loop's seconds for them with the saved seconds."""
        row_s = self.batcher.seconds_per_row
        counts = self.counts
        counts.rows += rows
        counts.near_hits += near_hits
        counts.hits += hits
        counts.saved_s += hits * row_s
        self._worth.note(rows, hits, spent_s, row_s)

    def note_request(self, begun: float, looked_s: float | None, timing: Timing | None, rows: int, hits: int) -> None:
        """Count an answered request: `looked_s` is None if all rows were cached, otherwise the seconds of the lookup."""
        counts = self.counts
        if looked_s is None:
            counts.hit_requests += 1
            counts.hit_s += self.clock() - begun
        else:
            counts.miss_requests += 1
            counts.miss_s += looked_s
        if timing is not None:
            timing.rows, timing.hits = rows, hits

    def looked(self) -> LookupCounts:
        """Return the numbers of requests with and without a row that had to run."""
        counts = self.counts
        return LookupCounts(counts.hit_requests, counts.hit_s, counts.miss_requests, counts.miss_s)

    def snapshot(self) -> dict[str, Any]:
        """Return the cache's data for the live page and the metrics."""
        counts = self.counts
        near, far = self.flights.statistics()
        return {
            "is_on": self._worth.is_on,
            "rows": counts.rows,
            "hits": counts.hits,
            "misses": counts.computed,
            "memory_hits": counts.near_hits,
            "skipped": counts.skipped,
            "refused": self.refused.count,
            "saved_ms": counts.saved_s * 1000,
            "entries": near.entries,
            "bytes": near.nbytes,
            "max_bytes": near.max_bytes,
            "evicted": near.evicted,
            "policy": near.policy,
            "redis": None if far is None else _far_snapshot(far),
        }


def _far_snapshot(far: CacheStatistics) -> dict[str, Any]:
    names = ("hits", "misses", "puts", "corrupt", "failures", "skipped", "last_error")
    return {name: getattr(far, name) for name in names}


def _nothing() -> None:
    """Do nothing: the request was answered immediately."""
