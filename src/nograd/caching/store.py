"""Cache: what every tier is, and what it counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Cache", "CacheStatistics"]


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a cache did since it was made."""

    hits: int = 0
    misses: int = 0
    puts: int = 0
    evicted: int = 0
    """Entries that made room for others."""

    expired: int = 0
    """Entries that were asked for after their time; each is a miss, too."""

    refused: int = 0
    """Values that were too large to be taken."""

    corrupt: int = 0
    """Values that were not what was put there; each is a miss, too."""

    failures: int = 0
    """Calls that failed or timed out."""

    skipped: int = 0
    """Calls that were not made because calls failed just before."""

    entries: int = 0
    nbytes: int = 0
    """Bytes held now, keys and bookkeeping included."""

    max_bytes: int = 0
    policy: str = ""
    """How it chooses what leaves."""

    last_error: str = ""

    @property
    def hit_rate(self) -> float:
        """Share of lookups that were answered, from 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)


class Cache(ABC):
    """Bytes by key. Thread-safe, synchronous; never raises for what an entry holds or for a store that is away."""

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, None for what is not there."""

    @abstractmethod
    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        """Keep values; each may be dropped at any time.

        Args:
            items: value by key.
            ttl_s: seconds from now after which they are not given out any more; None: the cache's own setting.
        """

    @abstractmethod
    def statistics(self) -> CacheStatistics:
        """Return a snapshot."""

    @abstractmethod
    def clear(self) -> None:
        """Forget every entry."""

    def close(self) -> None:  # noqa: B027  most have nothing to give back
        """Give back what the cache holds outside of this process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
