"""What waits, in the order in which it is due. Pure: no tensors, no clock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from math import inf

__all__ = ["DeadlineQueue", "Waiting"]


class Waiting:
    """What a policy may know of a queued request, or of a part of one. (Slots, no dataclass: one is made for every request.)

    Args:
        rows: of the part.
        arrived: seconds on the batcher's clock.
        deadline: seconds on the same clock after which nobody needs the answer.
        length: elements of a row along its varying dimensions, such as its tokens; 1 where nothing varies.
        shape: sizes of the varying dimensions.
        priority: its class; 0 goes first.
        nbytes: of its inputs.
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
        """Kept by the queue."""

    @property
    def slack(self) -> float:
        """Seconds from arrival to deadline: the request's own goal."""
        return self.deadline - self.arrived

    def __repr__(self) -> str:
        due = "" if self.deadline == inf else f", due {self.deadline:g}"
        return f"Waiting({self.rows} rows of {self.length}, since {self.arrived:g}{due}, class {self.priority})"


def _key(waiting: Waiting) -> tuple[int, float]:
    return waiting.priority, waiting.deadline


class DeadlineQueue:
    """Requests by class, within a class by deadline, within a deadline by arrival.

    One that is due no earlier than the last is appended, in constant time; any other is put in its place by bisection.
    """

    __slots__ = ("items", "nbytes", "rows")

    items: list[Waiting]
    """Most urgent first. To be read, never changed, by others."""

    rows: int
    """Of all that wait."""

    nbytes: int
    """Of all that wait."""

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self.items = []
        self.rows = 0
        self.nbytes = 0
        for each in waiting:
            self.add(each)

    def __len__(self) -> int:
        return len(self.items)

    def position(self, waiting: Waiting) -> int:
        """Return how many go before a request that would arrive now."""
        items = self.items
        if not items:
            return 0
        last = items[-1]
        if waiting.priority == last.priority and waiting.deadline >= last.deadline:
            return len(items)
        return bisect_right(items, (waiting.priority, waiting.deadline), key=_key)

    def add(self, waiting: Waiting) -> None:
        """Put a request in its place."""
        items = self.items
        if not items or (waiting.deadline >= items[-1].deadline and waiting.priority == items[-1].priority):
            items.append(waiting)
        else:
            items.insert(self.position(waiting), waiting)
        self.rows += waiting.rows
        self.nbytes += waiting.nbytes
        waiting.queued = True

    def remove(self, waiting: Waiting) -> None:
        """Take one request out."""
        del self.items[self.items.index(waiting, bisect_left(self.items, _key(waiting), key=_key))]
        self.rows -= waiting.rows
        self.nbytes -= waiting.nbytes
        waiting.queued = False

    def take(self, chosen: Sequence[Waiting]) -> None:
        """Take several out: at no cost where they are the first, as they are unless lengths differ."""
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
        """Return the last requests of lower classes that hold so many rows and bytes; None where all of them do not.

        Args:
            priority: only higher numbers count.
            rows: to be freed.
            nbytes: to be freed.
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
