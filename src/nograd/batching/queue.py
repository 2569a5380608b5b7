"""The queue of waiting requests, ordered by priority and deadline. Pure: no tensors, no clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import inf

__all__ = ["DeadlineQueue", "Waiting"]


class Waiting:
    """The properties of a queued part that policies may use. (A class with slots, not a dataclass: one is created per request.)

    Args:
        rows: number of rows of the part.
        arrived: arrival in seconds on the batcher's clock.
        deadline: seconds on the same clock; the answer is useless after it.
        length: elements per row along its varying dimensions, such as tokens; 1 if no dimension varies.
        shape: sizes of the varying dimensions.
        priority: priority class; 0 is served first.
        nbytes: bytes of the inputs.
    """

    __slots__ = ("arrived", "deadline", "length", "nbytes", "priority", "queued", "rows", "shape")

    def __init__(
        self,
        rows: int,
        arrived: float,
        deadline: float = inf,
        length: int = 1,
        shape: tuple[int, ...] = (),
        priority: int = 0,
        nbytes: int = 0,
    ) -> None:
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.length = length
        self.shape = shape
        self.priority = priority
        self.nbytes = nbytes
        self.queued = False
        """Set by the queue."""

    @property
    def slack(self) -> float:
        """Seconds from arrival to deadline."""
        return self.deadline - self.arrived

    def __repr__(self) -> str:
        due = "" if self.deadline == inf else f", due {self.deadline:g}"
        return f"Waiting({self.rows} rows of {self.length}, since {self.arrived:g}{due}, class {self.priority})"


def _key(waiting: Waiting) -> tuple[int, float]:
    return waiting.priority, waiting.deadline


class DeadlineQueue:
    """Requests ordered by priority, then deadline, then arrival.

    Appending a request with the latest deadline takes constant time; other requests are inserted by bisection.
    """

    __slots__ = ("items", "nbytes", "rows")

    items: list[Waiting]
    """Most urgent first. Read-only for other classes."""

    rows: int
    """Total rows."""

    nbytes: int
    """Total bytes."""

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self.items = []
        self.rows = 0
        self.nbytes = 0
        for each in waiting:
            self.add(each)

    def __len__(self) -> int:
        return len(self.items)

    def position(self, waiting: Waiting) -> int:
        """Return the number of requests before a request that arrives now."""
        items = self.items
        if not items:
            return 0
        last = items[-1]
        if waiting.priority == last.priority and waiting.deadline >= last.deadline:
            return len(items)
        return bisect_right(items, (waiting.priority, waiting.deadline), key=_key)

    def add(self, waiting: Waiting) -> None:
        """Insert a request."""
        items = self.items
        if not items or (waiting.deadline >= items[-1].deadline and waiting.priority == items[-1].priority):
            items.append(waiting)
        else:
            items.insert(self.position(waiting), waiting)
        self.rows += waiting.rows
        self.nbytes += waiting.nbytes
        waiting.queued = True

    def remove(self, waiting: Waiting) -> None:
        """Remove one request."""
        del self.items[self.items.index(waiting, bisect_left(self.items, _key(waiting), key=_key))]
        self.rows -= waiting.rows
        self.nbytes -= waiting.nbytes
        waiting.queued = False

    def take(self, chosen: Sequence[Waiting]) -> None:
        """Remove several requests. This is cheap for the first ones in the queue, which is usual unless lengths differ."""
        if not chosen:
            return
        rows = nbytes = 0
        for waiting in chosen:
            waiting.queued = False
            rows += waiting.rows
            nbytes += waiting.nbytes
        self.rows -= rows
        self.nbytes -= nbytes
        if self.items[: len(chosen)] == chosen:
            del self.items[: len(chosen)]
        else:
            self.items = [item for item in self.items if item.queued]

    def last_below(self, priority: int, rows: int, nbytes: int) -> list[Waiting] | None:
        """Return the last requests of lower priority that hold at least these rows and bytes; None if there are not enough.

        Args:
            priority: only requests with higher numbers are considered.
            rows: rows to free.
            nbytes: bytes to free.
        """
        found: list[Waiting] = []
        for waiting in reversed(self.items):
            if rows <= 0 and nbytes <= 0:
                return found
            if waiting.priority <= priority:
                return None
            found.append(waiting)
            rows -= waiting.rows
            nbytes -= waiting.nbytes
        return found if rows <= 0 and nbytes <= 0 else None
