"""What runs next: a pure decision over what waits. No tensor, no I/O, no clock of its own.

`BatchPolicy.decide` is the seam: the batcher asks it whenever a device is free and something waits, and does what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from typing import Literal, NamedTuple, Protocol

from nograd.errors import ConfigError
from nograd.tensors import Batching

__all__ = ["BatchPolicy", "Decision", "DeviceState", "Reason", "Waiting", "WindowPolicy"]

Reason = Literal["full", "device free", "waited", "draining"]
"""Why a batch was released: no room for more; nothing else to wait for; its oldest waited the window; the batcher closes."""

RUN_OVERHEAD = 48
"""What starting a run costs, in padded elements of length. Measured for MiniLM, eager, 2 threads on 2 AVX2 cores, 2026-11-23:
T = 8 ms + 0.16 ms x tokens. A wrong value costs little: 16 to 64 lie within 5 % of each other."""

LOOK_AHEAD = 64
"""How many of the oldest requests are considered for one batch."""


class Waiting(NamedTuple):
    """What a policy may know of a queued request. (A tuple: one is made for every request, in a third of a dataclass' time.)"""

    rows: int
    arrived: float
    """Seconds on the batcher's clock."""

    deadline: float = float("inf")
    """Seconds on the same clock; the request fails by itself when it passes."""

    length: int = 1
    """Elements of a row along its varying dimensions, such as its tokens; 1 where nothing varies."""

    shape: tuple[int, ...] = ()
    """Sizes of the varying dimensions."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The device as the batcher sees it."""

    free_lanes: int = 1
    draining: bool = False
    """No more requests will come: there is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Positions in the queue to run together now, or the time at which to ask again."""

    take: tuple[int, ...] = ()
    reason: Reason = "device free"
    wake_at: float | None = None


class BatchPolicy(Protocol):
    """Decides what runs next."""

    def decide(self, queue: Sequence[Waiting], now: float, device: DeviceState) -> Decision:
        """Return what to run now.

        Args:
            queue: what waits, oldest first; never empty.
            now: seconds, monotonic.
            device: at least one lane is free.
        """
        ...


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Run what waits as soon as the device is free; the oldest request is always in the batch.

    Around the oldest, the batch takes requests of similar length while that raises the share of useful work. With
    `max_wait_ms` above 0 a batch that is not full waits until its oldest request has waited that long; on one device
    this costs latency and gains nothing, so the default is 0.
    """

    max_batch_size: int = 32
    """Rows in one run, at most."""

    max_wait_ms: float = 0.0
    """Longest wait of the oldest request for company, in milliseconds; 0 runs at once."""

    batching: Batching = "pad"
    """How rows of different requests may meet: see `Signature.batching`."""

    max_wait_s: float = field(init=False, repr=False, default=0.0)

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ConfigError(f"max_batch_size is {self.max_batch_size}; it must be at least 1")
        if not (isfinite(self.max_wait_ms) and self.max_wait_ms >= 0):
            raise ConfigError(f"max_wait_ms is {self.max_wait_ms}; it must be 0 or more, finite")
        object.__setattr__(self, "max_wait_s", self.max_wait_ms / 1000)

    def decide(self, queue: Sequence[Waiting], now: float, device: DeviceState) -> Decision:
        """Return the batch around the oldest request, or when its waiting ends."""
        take = self._company(queue[:LOOK_AHEAD])
        rows = sum(queue[position].rows for position in take)
        if rows >= self.max_batch_size or self.batching == "alone":
            return Decision(take, "full")
        if self.max_wait_s and not device.draining:
            wake_at = queue[0].arrived + self.max_wait_s
            return Decision(take, "waited") if now >= wake_at else Decision(wake_at=wake_at)
        return Decision(take, "draining" if device.draining else "device free")

    def _company(self, queue: Sequence[Waiting]) -> tuple[int, ...]:
        """Return positions of the oldest and those that run with it."""
        if self.batching == "alone":
            return (0,)
        oldest = queue[0]
        equal = [position for position, waiting in enumerate(queue) if waiting.shape == oldest.shape]
        if self.batching == "equal_lengths" or len(equal) == len(queue):
            return self._first_that_fit(queue, equal)
        return self._most_useful(queue)

    def _first_that_fit(self, queue: Sequence[Waiting], positions: Sequence[int]) -> tuple[int, ...]:
        totals = accumulate(queue[position].rows for position in positions)
        return tuple(
            position for position, total in zip(positions, totals, strict=True) if total <= self.max_batch_size or position == 0
        )

    def _most_useful(self, queue: Sequence[Waiting]) -> tuple[int, ...]:
        """Of the runs of neighbours in length that hold the oldest, the one with the largest share of useful work.

        Useful work is the rows' own length; the cost is the padded length plus a fixed price for each run.
        """
        order = sorted(range(len(queue)), key=lambda position: queue[position].length)
        rows = [0, *accumulate(queue[position].rows for position in order)]
        work = [0, *accumulate(queue[position].rows * queue[position].length for position in order)]
        oldest = order.index(0)
        best, chosen = -1.0, (oldest, oldest + 1)
        for start in range(oldest + 1):
            for end in range(oldest + 1, len(order) + 1):
                taken = rows[end] - rows[start]
                if taken > self.max_batch_size and end - start > 1:
                    break
                share = (work[end] - work[start]) / (RUN_OVERHEAD + taken * queue[order[end - 1]].length)
                if share > best:
                    best, chosen = share, (start, end)
        return tuple(sorted(order[slice(*chosen)]))
