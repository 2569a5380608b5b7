"""MemoryCache: a cache in this process, limited in bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from threading import Lock
from typing import Literal

from nograd.caching.eviction import BoundedEntries, CacheEntry
from nograd.caching.shadow import SAMPLED, Shadows
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import ConfigError

__all__ = ["ENTRY_BYTES", "MemoryCache", "check_ttl", "jittered"]

ENTRY_BYTES = 320
"""Overhead of an entry besides key and value: two bytes objects, an Entry, its numbers and its slot in a dict (measured
with tracemalloc; tests/test_cache_memory.py).
"""

LARGEST_SHARE = 32
"""Values larger than the cache size divided by this are rejected, because they would evict more than they can save."""

JITTER = 0.1
"""Relative variation of lifetimes, so that entries created together do not expire together."""


class MemoryCache(Cache):
    """Stores values in this process; thread-safe.

    Args:
        max_bytes: limit of all entries together, including keys and bookkeeping.
        policy: eviction policy: `sieve`, `lru`, or `auto`, which simulates both on a sixteenth of the keys and switches to the
            one with more hits.
        ttl_s: lifetime of a value in seconds, +-10 %; None: until evicted. None suits model outputs, because they do not age.
        max_entries: maximum number of entries; None: no limit. `auto` supports only a limit in bytes.
        clock: returns monotonic time in seconds.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __init__(
        self,
        max_bytes: int = 256 * 2**20,
        *,
        max_entries: int | None = None,
        policy: Literal["auto", "sieve", "lru"] = "auto",
        ttl_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes is {max_bytes}; it must be at least 1")
        if policy not in ("auto", "sieve", "lru"):
            raise ConfigError(f"policy is {policy!r}; it must be 'auto', 'sieve' or 'lru'")
        check_ttl(ttl_s)
        if max_entries is not None and max_entries < 1:
            raise ConfigError(f"max_entries is {max_entries}; it must be at least 1")
        if max_entries is not None and policy == "auto":
            raise ConfigError(
                "max_entries is given with the policy 'auto', which compares policies in bytes; choose 'lru' or 'sieve'"
            )
        self._entries = BoundedEntries(max_bytes, "sieve" if policy == "auto" else policy, max_entries)
        self._shadows = Shadows(max_bytes, "sieve") if policy == "auto" else None
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = Lock()
        self._random = random.Random()  # noqa: S311  spreads expiries, guards nothing
        self._hits = self._misses = self._puts = self._expired = self._refused = 0

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key; None for a miss."""
        with self._lock:
            return self._get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock:
            return [self._get(key) for key in keys]

    def peek_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the same as `get_many` without counting the lookups."""
        with self._lock:
            now, table = self._clock(), self._entries.table
            entries = [table.get(key) for key in keys]
            return [None if entry is None or entry.expires_at <= now else entry.value for entry in entries]

    def _get(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        if self._shadows is not None and key and not key[0] % SAMPLED:
            self._play(self._shadows, key, entry)
        if entry is None:
            self._misses += 1
            return None
        if entry.expires_at != inf and entry.expires_at <= self._clock():
            self._entries.remove(entry)
            self._expired += 1
            self._misses += 1
            return None
        self._hits += 1
        return entry.value

    def put(self, key: bytes, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value; see `put_many`."""
        if ttl_s is not None:
            check_ttl(ttl_s)
        with self._lock:
            self._put(key, value, ttl_s)

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        check_ttl(ttl_s)
        with self._lock:
            for key, value in items.items():
                self._put(key, value, ttl_s)

    def _put(self, key: bytes, value: bytes, ttl_s: float | None) -> None:
        lifetime_s = self._ttl_s if ttl_s is None else ttl_s
        expires_at = inf if lifetime_s is None else self._clock() + jittered(lifetime_s, self._random.random())
        entries = self._entries
        entry = CacheEntry(bytes(key), bytes(value), len(key) + len(value) + ENTRY_BYTES, expires_at)
        if entry.nbytes * LARGEST_SHARE > entries.max_bytes:
            self._refused += 1
            present = entries.table.get(entry.key)
            if present is not None:
                entries.remove(present)
            return
        self._puts += 1
        entries.put(entry)
        if self._shadows is not None and key and not key[0] % SAMPLED:
            self._shadows.note_put(entry.key, entry.nbytes)

    def _play(self, shadows: Shadows, key: bytes, entry: CacheEntry | None) -> None:
        shadows.note_get(key, entry.nbytes if entry is not None else 0)
        if shadows.policy != self._entries.policy:
            self._entries.policy = shadows.policy

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(
                hits=self._hits,
                misses=self._misses,
                puts=self._puts,
                evicted=self._entries.evicted,
                expired=self._expired,
                refused=self._refused,
                entries=len(self._entries),
                nbytes=self._entries.nbytes,
                max_bytes=self._entries.max_bytes,
                policy=self._entries.policy,
            )

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            if self._shadows is not None:
                self._shadows.clear()


def check_ttl(ttl_s: float | None) -> None:
    """Raise ConfigError unless a lifetime is positive and finite, or None."""
    if ttl_s is not None and not (isfinite(ttl_s) and ttl_s > 0):
        raise ConfigError(f"ttl_s is {ttl_s}; it must be above 0, finite, or None for values that do not age")


def jittered(ttl_s: float, drawn: float) -> float:
    """Return a lifetime varied by +-10 %.

    Args:
        ttl_s: lifetime in seconds.
        drawn: random number from 0 to 1.
    """
    return ttl_s * (1 - JITTER + 2 * JITTER * drawn)
