"""Which policy suits the traffic: both are played through on a sample of the keys, without values."""

from __future__ import annotations

from nograd.caching.eviction import Bounded, Entry, Policy

__all__ = ["SAMPLED", "Shadows"]

SAMPLED = 16
"""One key in so many is sampled: keys are digests, so that any bits of them are as good as random."""

WINDOW = 2000
"""Sampled lookups between two decisions. Both policies see the same ones, so that little of their difference is chance."""

MARGIN = 0.02
"""How much more of all lookups the other policy must answer before it takes over."""


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
        self._hits: dict[Policy, int] = {"sieve": 0, "lru": 0}
        self._lookups = 0

    def note_get(self, key: bytes, nbytes: int) -> None:
        """Play one lookup.

        Args:
            key: a sampled one (its first byte is a multiple of `SAMPLED`).
            nbytes: of the entry that the cache itself has under it; 0 where it has none.
        """
        self._lookups += 1
        for policy, cache in self._caches.items():
            if cache.get(key) is not None:
                self._hits[policy] += 1
            elif nbytes:
                self._put(cache, key, nbytes)
        if self._lookups >= WINDOW:
            self._decide()

    def note_put(self, key: bytes, nbytes: int) -> None:
        """Play one put of a sampled key."""
        for cache in self._caches.values():
            if key not in cache.table:
                self._put(cache, key, nbytes)

    def clear(self) -> None:
        """Forget the keys."""
        for cache in self._caches.values():
            cache.clear()

    def _put(self, cache: Bounded, key: bytes, nbytes: int) -> None:
        if nbytes <= cache.max_bytes:
            cache.put(Entry(key, b"", nbytes, 0.0))

    def _decide(self) -> None:
        other: Policy = "lru" if self.policy == "sieve" else "sieve"
        if self._hits[other] - self._hits[self.policy] > MARGIN * self._lookups:
            self.policy = other
        self._lookups = 0
        self._hits = {"sieve": 0, "lru": 0}
