"""Which policy suits the traffic: both are played through on a sample of the keys, without values."""

from __future__ import annotations

from math import sqrt

from nograd.caching.eviction import Bounded, Entry, Policy

__all__ = ["SAMPLED", "Shadows"]

SAMPLED = 16
"""One key in so many is sampled: keys are digests, so that any bits of them are as good as random."""

WINDOW = 2000
"""Sampled lookups after which counting begins anew: traffic changes."""

MARGIN = 0.02
"""How much more of the lookups the other policy must answer before it takes over."""

SIGMAS = 4
"""And how many standard deviations of chance that must be. Lookups that both answer, or neither, say nothing: of n others, each
policy would answer n/2 +- sqrt(n)/2 by chance alone, so that the difference is sqrt(n) (McNemar, 1947)."""


class Shadows:
    """Plays SIEVE and LRU through, each in a cache that holds keys only, and is as much smaller as the sample is.

    Args:
        max_bytes: of the cache that they stand for.
        policy: which one that cache begins with.
    """

    def __init__(self, max_bytes: int, policy: Policy) -> None:
        self.policy: Policy = policy
        """The better one, so far."""

        share = max_bytes // SAMPLED
        self._caches: dict[Policy, Bounded] = {"sieve": Bounded(share, "sieve"), "lru": Bounded(share, "lru")}
        self._lookups = self._apart = self._lead = 0

    def note_get(self, key: bytes, nbytes: int) -> None:
        """Play one lookup.

        Args:
            key: a sampled one (its first byte is a multiple of `SAMPLED`).
            nbytes: of the entry that the cache itself has under it; 0 where it has none.
        """
        found = {policy: self._look(cache, key, nbytes) for policy, cache in self._caches.items()}
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
        """Play one put of a sampled key."""
        for cache in self._caches.values():
            if key not in cache.table:
                self._put(cache, key, nbytes)

    def clear(self) -> None:
        """Forget the keys."""
        for cache in self._caches.values():
            cache.clear()

    def _look(self, cache: Bounded, key: bytes, nbytes: int) -> bool:
        if cache.get(key) is not None:
            return True
        if nbytes:
            self._put(cache, key, nbytes)
        return False

    def _put(self, cache: Bounded, key: bytes, nbytes: int) -> None:
        if nbytes <= cache.max_bytes:
            cache.put(Entry(key, b"", nbytes, 0.0))
