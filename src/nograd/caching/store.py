"""Cache: the interface of all cache tiers, and their statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Cache", "CacheStatistics"]


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters of a cache since it was created."""

    hits: int = 0
    misses: int = 0
    puts: int = 0
    evicted: int = 0
    """Entries evicted to make room."""

    expired: int = 0
    """Lookups of expired entries, which also count as misses."""

    refused: int = 0
    """Values rejected because of their size."""

    corrupt: int = 0
    """Damaged or foreign values, which also count as misses."""

    failures: int = 0
    """Calls that failed or timed out."""

    skipped: int = 0
    """Calls skipped after earlier failures."""

    entries: int = 0
    nbytes: int = 0
    """Current bytes, including keys and bookkeeping."""

    max_bytes: int = 0
    policy: str = ""
    """Current eviction policy."""

    last_error: str = ""

    @property
    def hit_rate(self) -> float:
        """Share of lookups that were hits, from 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class Cache(ABC):
    """A mapping of keys to values, both bytes. Thread-safe and synchronous; never raises for damaged entries or an
    unavailable store.
    """

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key; None for misses."""

    @abstractmethod
    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        """Store values. Each may be evicted at any time.

        Args:
            items: values by key.
            ttl_s: lifetime in seconds; None: the default of the cache.
        """

    @abstractmethod
    def statistics(self) -> CacheStatistics:
        """Return a snapshot of the statistics."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all entries."""

    def close(self) -> None:  # noqa: B027  most caches hold no external resources
        """Release external resources, such as connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
