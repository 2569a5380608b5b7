"""TieredCache: a local cache in front of a remote one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nograd.caching.memory import MemoryCache
from nograd.caching.store import Cache, CacheStatistics

__all__ = ["TieredCache"]


class TieredCache(Cache):
    """Looks up keys in the local cache, then all missing ones together in the remote cache. Remote hits are stored locally.

    Args:
        near: cache in this process.
        far: cache shared with other processes; its failures count as misses.
    """

    def __init__(self, near: MemoryCache, far: Cache) -> None:
        self.near = near
        self.far = far

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = self.near.get_many(keys)
        missing = list(dict.fromkeys(key for key, value in zip(keys, values, strict=True) if value is None))
        if not missing:
            return values
        found = self.fetch(missing)
        return [found.get(key) if value is None else value for key, value in zip(keys, values, strict=True)]

    def fetch(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Look up keys in the remote cache and store its values in the local one."""
        values = zip(keys, self.far.get_many(keys), strict=True)
        found = {key: value for key, value in values if value is not None}
        self.near.put_many(found)
        return found

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        self.near.put_many(items, ttl_s)
        self.far.put_many(items, ttl_s)

    def statistics(self) -> CacheStatistics:
        """Return combined statistics: hits of either cache, misses of both; entries and bytes of the local one."""
        near, far = self.near.statistics(), self.far.statistics()
        return replace(
            near,
            hits=near.hits + far.hits,
            misses=near.misses - far.hits,
            corrupt=far.corrupt,
            failures=far.failures,
            skipped=far.skipped,
            last_error=far.last_error,
        )

    def clear(self) -> None:
        self.near.clear()
        self.far.clear()

    def close(self) -> None:
        self.near.close()
        self.far.close()
