"""Choice of the eviction policy by simulation: both policies run on a sample of the keys, without values."""

from __future__ import annotations

from math import sqrt

from nograd.caching.eviction import BoundedEntries, CacheEntry, Policy

__all__ = ["SAMPLED", "Shadows"]

SAMPLED = 16
"""One in this many keys is sampled; keys are digests, so any of their bits are random."""

WINDOW = 2000
"""Sampled lookups after which the counters restart, because traffic changes."""

MARGIN = 0.02
"""Minimum advantage of the other policy, as a share of lookups, before it takes over."""

SIGMAS = 4
"""Minimum advantage in standard deviations of chance. Lookups on which both policies agree do not count: of n others, each
policy would win n/2 +- sqrt(n)/2 by chance, so the difference is sqrt(n) (McNemar, 1947).
"""


class Shadows:
    """Simulates SIEVE and LRU on caches of keys only, scaled down by the sampling rate.

    Args:
        max_bytes: size of the real cache.
        policy: initial policy of the real cache.
    """

    def __init__(self, max_bytes: int, policy: Policy) -> None:
        self.policy: Policy = policy
        """The better policy so far."""

        share = max_bytes // SAMPLED
        self._caches: dict[Policy, BoundedEntries] = {
            "sieve": BoundedEntries(share, "sieve"),
            "lru": BoundedEntries(share, "lru"),
        }
        self._lookups = self._apart = self._lead = 0

    def note_get(self, key: bytes, nbytes: int) -> None:
        """Simulate one lookup.

        Args:
            key: a sampled key (its first byte is a multiple of `SAMPLED`).
            nbytes: size of the real cache's entry; 0 for a miss.
        """
        found = {policy: self._is_hit(cache, key, nbytes) for policy, cache in self._caches.items()}
        self._lookups += 1
        if found["sieve"] != found["lru"]:
            self._apart += 1
            self._lead += -1 if found[self.policy] else 1
            if self._lead > MARGIN * self._lookups and self._lead > SIGMAS * sqrt(self._apart):
                self.policy = "lru" if self.policy == "sieve" else "sieve"
                self._lookups = WINDOW
        if self._lookups >= WINDOW:
            self._lookups = self._apart = self._lead = 0

    def note_put(self, key: bytes, nbytes: int) -> None:
        """Simulate storing a sampled key."""
        for cache in self._caches.values():
            if key not in cache.table:
                self._put(cache, key, nbytes)

    def clear(self) -> None:
        """Remove all keys."""
        for cache in self._caches.values():
            cache.clear()

    def _is_hit(self, cache: BoundedEntries, key: bytes, nbytes: int) -> bool:
        if cache.get(key) is not None:
            return True
        if nbytes:
            self._put(cache, key, nbytes)
        return False

    def _put(self, cache: BoundedEntries, key: bytes, nbytes: int) -> None:
        if nbytes <= cache.max_bytes:
            cache.put(CacheEntry(key, b"", nbytes, 0.0))
