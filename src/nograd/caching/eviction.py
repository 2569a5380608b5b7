"""Eviction by SIEVE or LRU over one linked list, limited in bytes.

SIEVE (Zhang et al., NSDI 2024): entries stay in order of arrival, and a hit marks its entry. A hand moves from the oldest to
the newest entry, clears marks, and evicts the first unmarked entry. LRU: a hit moves its entry to the front, and the last entry
is evicted. SIEVE is better if some inputs are popular, LRU if inputs repeat soon or never. Both share the list, so that the
policy can change while entries stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Literal, TypeAlias

__all__ = ["BoundedEntries", "CacheEntry", "Policy"]

Policy: TypeAlias = Literal["sieve", "lru"]


class CacheEntry:
    """A key and its value, linked to its neighbours in the list."""

    __slots__ = ("expires_at", "key", "nbytes", "newer", "older", "value", "visited")

    def __init__(self, key: bytes, value: bytes, nbytes: int, expires_at: float) -> None:
        self.key = key
        self.value = value
        self.nbytes = nbytes
        self.expires_at = expires_at
        self.visited = False
        self.newer = self.older = self


class BoundedEntries:
    """Entries whose total bytes never exceed a limit. Not thread-safe: the owner must lock.

    Args:
        max_bytes: limit of the sum of all entries' `nbytes`.
        policy: eviction policy.
        max_entries: maximum number of entries; None: no limit.
    """

    def __init__(self, max_bytes: int, policy: Policy, max_entries: int | None = None) -> None:
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.nbytes = 0
        self.evicted = 0
        self.table: dict[bytes, CacheEntry] = {}
        self._ends = CacheEntry(b"", b"", 0, inf)  # its `older` is the newest, its `newer` the oldest
        self._hand = self._ends
        self._policy: Policy = policy

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys, newest first."""
        entry = self._ends.older
        while entry is not self._ends:
            yield entry.key
            entry = entry.older

    @property
    def policy(self) -> Policy:
        """Eviction policy. Setting it keeps all entries in their order."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy
        self._hand = self._ends

    def get(self, key: bytes) -> CacheEntry | None:
        """Return an entry and record the hit."""
        entry = self.table.get(key)
        if entry is None:
            return None
        if self._policy == "sieve":
            entry.visited = True
        elif self._ends.older is not entry:
            entry.newer.older = entry.older
            entry.older.newer = entry.newer
            self._push(entry)
        return entry

    def put(self, entry: CacheEntry) -> None:
        """Insert an entry as the newest and replace one with the same key. Other entries are evicted first to make room.

        The entry must fit: `entry.nbytes <= max_bytes`.
        """
        present = self.table.get(entry.key)
        if present is not None:
            self.remove(present)
        while self.nbytes + entry.nbytes > self.max_bytes or len(self.table) == self.max_entries:
            self.remove(self._victim())
            self.evicted += 1
        self._push(entry)
        self.table[entry.key] = entry
        self.nbytes += entry.nbytes

    def remove(self, entry: CacheEntry) -> None:
        """Remove an entry."""
        if self._hand is entry:
            self._hand = entry.newer
        entry.newer.older = entry.older
        entry.older.newer = entry.newer
        del self.table[entry.key]
        self.nbytes -= entry.nbytes

    def clear(self) -> None:
        """Remove all entries."""
        ends = self._ends
        self.table.clear()
        ends.newer = ends.older = self._hand = ends
        self.nbytes = 0

    def _push(self, entry: CacheEntry) -> None:
        ends = self._ends
        newest = ends.older
        entry.older, entry.newer = newest, ends
        newest.newer = ends.older = entry

    def _victim(self) -> CacheEntry:
        ends = self._ends
        if self._policy == "lru":
            return ends.newer
        hand = self._hand
        while True:
            if hand is ends:
                hand = ends.newer
            if not hand.visited:
                self._hand = hand
                return hand
            hand.visited = False
            hand = hand.newer
