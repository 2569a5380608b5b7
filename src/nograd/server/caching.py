"""The cache in front of one model: by row, before anything is queued; it steps aside where it does not pay."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nograd.caching import CacheStatistics, Keys, MemoryCache, decode
from nograd.caching.codec import CorruptValueError
from nograd.caching.flight import SingleFlight
from nograd.caching.units import Texts, Units
from nograd.caching.worth import Worth
from nograd.errors import DeadlineError, ItemError, SignatureError
from nograd.predictor import Predictor
from nograd.server.protocol import DEFAULT_PRIORITY
from nograd.server.statistics import Looked
from nograd.tensors import Batch

if TYPE_CHECKING:
    from nograd.batching import Batcher
    from nograd.caching.store import Cache
    from nograd.server.config import ServeConfig
    from nograd.server.timing import Timing
    from nograd.server.user_code import UserCode

__all__ = ["ModelCache", "open_caches"]

MISS_S = 30e-6
"""Seconds of the event loop that a request with anything missing costs beside its keys and lookups: a flight and its task."""

MIN_LEFT_S = 1e-6
"""Seconds that the batcher gets for a request whose time is up: it then answers with its own error."""

REFUSED_TTL_S = 30.0
"""Seconds for which an item that could not be prepared is refused without another try."""

REFUSED_SHARE, REFUSED_BYTES = 100, 64 * 1024
"""What is known of refused items takes the cache's bytes divided by the one, and never less than the other."""

INPUT_ERRORS = (SignatureError, ValueError, TypeError)
"""What `preprocess` raises because of its item; anything else may be due to the moment."""


def open_caches(config: ServeConfig) -> SingleFlight | None:
    """Return what a server's settings ask for; None where it is no cache.

    Raises:
        MissingExtraError: Redis is wanted, and redis-py is not installed.
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
class _Counts:
    rows: int = 0
    hits: int = 0
    near_hits: int = 0
    computed: int = 0
    skipped: int = 0
    refused: int = 0
    saved_s: float = 0.0
    hit_requests: int = 0
    hit_s: float = 0.0
    miss_requests: int = 0
    miss_s: float = 0.0


class _RefusedError(ItemError):
    """An item that could not be prepared; requests that wait for it together have it at different places."""

    def __init__(self, told: str, index: int, key: bytes) -> None:
        super().__init__(told, index)
        self._key = key

    def as_of(self, keys: Sequence[bytes]) -> ItemError:
        """Return the error for a request with these keys."""
        index = keys.index(self._key) if self._key in keys else self.index
        return ItemError(f"item {index}: {self}", index)


class ModelCache:
    """Answers rows that are known, and has the batcher run the others, each once however many requests want it.

    Text whose tokenizer says what it does (`fingerprint()`) is known as it came, and needs no tokenizing; anything else is
    known by what `preprocess` made of it, because nobody can tell what a function reads beside its argument.

    Args:
        predictor: the model.
        flights: the server's caches.
        batcher: runs what is missing.
        code: prepares texts in threads; None for a model without `preprocess`.
        clock: gives seconds; what the cache costs is measured with it.
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
        self._flights = flights
        self._batcher = batcher
        self._code = code
        self._clock = clock
        self._by_text = callable(getattr(predictor.preprocess, "fingerprint", None))
        found = predictor.fingerprint() if self._by_text else predictor.backend.fingerprint()
        self._keys = Keys(found.text)
        self._shared = not found.private_because
        self._writes = predictor.has_postprocess  # the user's code; else outputs are only encoded
        self._worth = Worth()
        self._counts = _Counts()
        near_bytes = flights.near.statistics().max_bytes
        self._refused = MemoryCache(max(REFUSED_BYTES, near_bytes // REFUSED_SHARE), policy="lru", ttl_s=REFUSED_TTL_S)

    @property
    def is_on(self) -> bool:
        """Whether requests are looked up now; see `takes`."""
        return self._worth.is_on

    def takes(self, rows: int) -> bool:
        """Whether a request should be looked up: not while the cache costs more than it saves."""
        if self._worth.is_on:
            return True
        self._worth.skip(rows)
        self._counts.skipped += rows
        return False

    def knows(self, items: Sequence[Any]) -> bool:
        """Whether items are looked up as they came, without `preprocess`: texts, if its fingerprint is known."""
        return self._by_text and all(isinstance(item, str) for item in items)

    async def run(
        self,
        items: Sequence[Any] | None,
        parts: Callable[[], list[Batch]],
        timeout_s: float,
        priority: int = DEFAULT_PRIORITY - 1,
        timing: Timing | None = None,
    ) -> list[Batch]:
        """Return the outputs of a request: of each item, or of each part.

        Args:
            items: texts that `knows` accepts; None: the request has parts.
            parts: returns the request's parts; not called for texts.
            timeout_s: seconds that it has.
            priority: its class, for what has to be run.
            timing: is told where the time went.

        Raises:
            As the batcher; and ItemError for an item that was refused a moment ago.
        """
        begun = self._clock()
        units = self._units(items, parts)
        values = self._flights.near.get_many(units.keys)
        missing = values.count(None)
        near_hits = len(values) - missing
        if not missing:
            outputs = units.joined([decode(value) for value in values if value is not None], writable=self._writes)
            self._note(len(values), near_hits, near_hits, self._clock() - begun)
            self._note_request(begun, None, timing, len(values), len(values))
            return outputs
        if isinstance(units, Texts):
            self._refuse(units)
        looked_s = self._clock() - begun
        spent_s = looked_s + MISS_S
        deadline = begun + timeout_s
        ran = saved = 0

        async def compute(positions: Sequence[int]) -> list[bytes]:
            nonlocal ran
            left_s = deadline - self._clock()
            if left_s <= 0:
                raise DeadlineError(f"no answer after {timeout_s:g} s")
            ran += len(positions)
            self._counts.computed += len(positions)
            spent = timing.spent if timing is not None else None
            taken = await self._taken(units, positions, left_s, timing)
            left_s = max(MIN_LEFT_S, deadline - self._clock())
            return units.values(await self._batcher.run(taken, timeout_s=left_s, priority=priority, spent=spent))

        try:
            fetched = await self._flights.fetch(
                units.keys, compute, values=values, timeout_s=timeout_s, shared=self._shared, fits=partial(_fits, units)
            )
            saved = max(0, missing - ran)  # by the far cache, or somebody's flight
        except _RefusedError as error:
            raise error.as_of(units.keys) from error.__cause__
        finally:
            self._note(len(values), near_hits, near_hits + saved, spent_s)
        outputs = units.joined(list(map(decode, fetched)), writable=self._writes)
        self._note_request(begun, looked_s if ran else None, timing, len(values), near_hits + saved)
        return outputs

    def _units(self, items: Sequence[Any] | None, parts: Callable[[], list[Batch]]) -> Units | Texts:
        if items is not None:
            return Texts(items, self._keys, self._predictor.prepare_item, self._predictor.signature)
        return Units(parts(), self._keys, self._predictor.signature)

    def _refuse(self, texts: Texts) -> None:
        """Raise for an item that could not be prepared a moment ago."""
        for index, told in enumerate(self._refused.get_many(texts.keys)):
            if told is not None:
                self._counts.refused += 1
                raise ItemError(f"item {index}: {told.decode()}", index)

    async def _taken(
        self, units: Units | Texts, positions: Sequence[int], timeout_s: float, timing: Timing | None
    ) -> list[Batch]:
        if self._code is None or isinstance(units, Units):
            return units.take(positions)
        try:
            taken = await self._code.prepare_by(lambda position: units.take([position]), positions, timeout_s, timing)
            return [part for parts in taken for part in parts]
        except ItemError as error:
            told = str(error).removeprefix(f"item {error.index}: ")
            key = units.keys[error.index]
            if isinstance(error.__cause__, INPUT_ERRORS):
                self._refused.put(key, told.encode("utf-8", "replace"))
            raise _RefusedError(told, error.index, key) from error.__cause__

    def _note(self, rows: int, near_hits: int, hits: int, spent_s: float) -> None:
        row_s = self._batcher.seconds_per_row
        counts = self._counts
        counts.rows += rows
        counts.near_hits += near_hits
        counts.hits += hits
        counts.saved_s += hits * row_s
        self._worth.note(rows, hits, spent_s, row_s)

    def _note_request(self, begun: float, looked_s: float | None, timing: Timing | None, rows: int, hits: int) -> None:
        """Count a request that was answered: all from what is kept, or else the seconds of looking for it."""
        counts = self._counts
        if looked_s is None:
            counts.hit_requests += 1
            counts.hit_s += self._clock() - begun
        else:
            counts.miss_requests += 1
            counts.miss_s += looked_s
        if timing is not None:
            timing.rows, timing.hits = rows, hits

    def looked(self) -> Looked:
        """Return how many requests were answered from what is kept, and how many not."""
        counts = self._counts
        return Looked(counts.hit_requests, counts.hit_s, counts.miss_requests, counts.miss_s)

    def snapshot(self) -> dict[str, Any]:
        """Return what the live page and the metrics show: of rows looked up, those that the model did not have to run."""
        counts = self._counts
        near, far = self._flights.statistics()
        return {
            "is_on": self._worth.is_on,
            "rows": counts.rows,
            "hits": counts.hits,
            "misses": counts.computed,
            "memory_hits": counts.near_hits,
            "skipped": counts.skipped,
            "refused": counts.refused,
            "saved_ms": counts.saved_s * 1000,
            "entries": near.entries,
            "bytes": near.nbytes,
            "max_bytes": near.max_bytes,
            "evicted": near.evicted,
            "policy": near.policy,
            "redis": None if far is None else _far_snapshot(far),
        }


def _fits(units: Units | Texts, position: int, value: bytes) -> bool:
    """Return whether a value of the far cache holds outputs that the model can give; other programs write there, too."""
    try:
        return units.fits(position, decode(value))
    except CorruptValueError:
        return False


def _far_snapshot(far: CacheStatistics) -> dict[str, Any]:
    names = ("hits", "misses", "puts", "corrupt", "failures", "skipped", "last_error")
    return {name: getattr(far, name) for name in names}
