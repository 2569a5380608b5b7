"""Batch policies: pure decisions on what runs next. No tensors, no I/O, no clock.

The batcher reports arrivals and run times to a policy, and requests a decision when a lane is free. The policies are
work-conserving: waiting requests run as soon as possible. A policy decides how many requests run, which run first, and which
can no longer meet their deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, inf, isfinite
from typing import Literal, Protocol

from nograd.batching.admission import Overbooking
from nograd.batching.queue import DeadlineQueue, Waiting
from nograd.batching.tracking import RowCost
from nograd.core.cost import CostCurve
from nograd.errors import ConfigError

__all__ = ["BatchPolicy", "DeadlinePolicy", "Decision", "DeviceState", "Reason", "checked_limits"]

Reason = Literal["full", "device free", "lengths", "deadline", "waited", "draining"]
"""Reason for the release of a batch: it is full, or larger would not be faster; nothing else waits; the other requests have
other lengths; one more would delay the first beyond its deadline; the oldest has waited the maximum time; the batcher
closes.
"""

LOOK_AHEADS = 8
"""Number of queue heads for which a decision checks whether all later requests can wait."""


@dataclass(slots=True)
class DeviceState:
    """The device from the batcher's view. The batcher updates it; policies read it."""

    free_lanes: int = 1
    lanes: int = 1
    free_at: float = -inf
    """Predicted time at which a lane becomes free, in seconds on the batcher's clock; in the past if a lane is free."""

    draining: bool = False
    """No more requests will arrive, so waiting is useless."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The requests to run together now, the requests that are too late, or the time of the next decision."""

    take: Sequence[Waiting] = ()
    late: Sequence[Waiting] = ()
    reason: Reason = "device free"
    wake_at: float | None = None
    predicted_s: float = 0.0


class BatchPolicy(Protocol):
    """Decides which requests are admitted and what runs next."""

    @property
    def chunk_rows(self) -> int:
        """Maximum rows of a part; longer requests are split."""
        ...

    def admit(self, queue: DeadlineQueue, waiting: Waiting, rows: int, now: float, device: DeviceState) -> float | None:
        """Return None to admit a request, or its predicted wait in seconds to reject it.

        Args:
            queue: waiting requests.
            waiting: the request, or its first part.
            rows: rows of all its parts.
            now: time in seconds.
            device: state of the device.
        """
        ...

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        """Return what to run now.

        Args:
            queue: waiting requests; not empty.
            now: time in seconds.
            device: state of the device; at least one lane is free.
        """
        ...

    def finished(self, rows: int, longest: int, seconds: float) -> None:
        """Update the estimates with the run time of a batch.

        Args:
            rows: rows of the batch.
            longest: length of its longest row.
            seconds: time on the device.
        """
        ...

    def limit(self, rows: int, longest: int) -> None:
        """Form no more batches of this size: the batch exceeded memory, but its parts fit.

        Args:
            rows: rows of the batch.
            longest: length of its longest row.
        """
        ...

    def expected_s(self, rows: int, longest: int) -> float:
        """Return the predicted seconds of a batch; 0 if unknown."""
        ...


class ArrivalRate:
    """Moving average of rows per second, over about the time that a request may take. (Arrivals only increment a counter; the
    less frequent decisions compute the rate.)

    Args:
        memory_s: averaging time in seconds, until requests with deadlines arrive.
    """

    __slots__ = ("_last", "_memory", "new_rows", "per_s")

    def __init__(self, memory_s: float) -> None:
        self.per_s = 0.0
        self.new_rows = 0
        """Rows that arrived since the last `update`; callers add to it."""
        self._memory = memory_s
        self._last = -inf

    def update(self, now: float, slack: float, shortest: float) -> None:
        """Update the rate.

        Args:
            now: time in seconds.
            slack: seconds from arrival to deadline of the most urgent request; infinite without a deadline.
            shortest: shortest useful averaging time, in seconds.
        """
        if slack < inf:
            self._memory += 0.2 * (slack - self._memory)
        memory = max(self._memory, shortest)
        if self._last > -inf:
            self.per_s = self.per_s * exp((self._last - now) / memory) + self.new_rows / memory
        self._last = now
        self.new_rows = 0


def checked_limits(max_batch_size: int, max_wait_ms: float) -> float:
    """Check the limits and return the window in seconds.

    Raises:
        ConfigError: a limit is out of its range.
    """
    if max_batch_size < 1:
        raise ConfigError(f"max_batch_size is {max_batch_size}; it must be at least 1")
    if not (isfinite(max_wait_ms) and max_wait_ms >= 0):
        raise ConfigError(f"max_wait_ms is {max_wait_ms}; it must be 0 or more, finite")
    return max_wait_ms / 1000


@dataclass(slots=True)
class _Chosen:
    """The start of a batch in the queue, and its size."""

    start: int
    count: int
    rows: int
    reason: Reason = field(default="device free")


class DeadlinePolicy:
    """Earliest deadline first. The first request's deadline limits the batch size; if that is too small for the load, the first
    request is dropped.

    Without deadlines the policy takes all waiting requests, up to the knee of the cost curve. With deadlines, a batch is as
    large as its first request's deadline allows. If that is too small to carry the load, serving every late request would make
    all batches small and all requests late. In this case the first request is dropped, unless all others can wait for it. If
    the device works in tiles (9 rows take as long as 16), a batch that cannot carry the load is cut to the size with the most
    rows per second.

    Requests of lower priority run if no request of higher priority waits, or fill the free room of its batch.

    Args:
        max_batch_size: maximum rows per run.
        max_wait_ms: maximum time to wait for a batch to fill, in milliseconds. On one device waiting costs latency without any
            gain: 0 is best.
        cost: measured seconds by rows. Without it, runs are predicted to take no time, and only expired requests are late.
        alone: requests never share a run.

    Raises:
        ConfigError: a limit is out of its range.
    """

    def __init__(
        self, max_batch_size: int = 32, max_wait_ms: float = 0.0, *, cost: CostCurve | None = None, alone: bool = False
    ) -> None:
        self._max_wait_s = checked_limits(max_batch_size, max_wait_ms)
        self._max_batch_size = max_batch_size
        self._alone = alone
        self.cost = RowCost(cost, max_batch_size)
        self.arrivals = ArrivalRate(4 * self.cost.seconds(1) or 0.05)
        self.booking = Overbooking()

    @property
    def chunk_rows(self) -> int:
        """The knee: larger runs are not faster, and delay other requests."""
        return self._max_batch_size if self._alone else self.cost.knee

    def admit(self, queue: DeadlineQueue, waiting: Waiting, rows: int, now: float, device: DeviceState) -> float | None:
        """Reject a request that would miss its deadline (see `Overbooking`)."""
        cost = self.cost
        if not cost.known:
            return None
        self.arrivals.new_rows += rows
        knee = cost.knee
        block_s = cost.knee_curve_s * cost.scale.factor
        if waiting.deadline - now > (2 + (queue.rows + rows) // knee) * block_s and device.free_at - now < block_s:
            return None  # its deadline allows all waiting requests to run first
        ahead = queue.position(waiting)
        if queue.rows != len(queue.items):
            ahead = ahead * queue.rows // len(queue.items)
        full = (ahead + rows - 1) // knee
        ahead_s, own_s = self.booking.wait_s(full, block_s / device.lanes, cost.seconds(min(rows, knee)), now)
        wait = max(0.0, device.free_at - now) + ahead_s
        return wait if now + wait + own_s > waiting.deadline else None

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        """Return the batch with the earliest deadlines, or the end of its waiting time."""
        items = queue.items
        if self.cost.known:
            self.arrivals.update(now, items[0].slack, 4 * self.cost.seconds(1))
        chosen = self._select(queue, now, device)
        self.booking.given_up(items[: chosen.start], now)
        if not chosen.count:
            return Decision(late=items[: chosen.start])
        take = items[chosen.start : chosen.start + chosen.count]
        rows, reason = chosen.rows, chosen.reason
        if items[-1].priority != take[-1].priority and reason == "device free":
            rows = self._fill_up(take, rows, items[chosen.start + chosen.count :], now)
        if rows >= self.cost.knee or self._alone:
            reason = "full"
        elif device.draining:
            reason = "draining"
        elif self._max_wait_s and reason == "device free":
            wake_at = min(item.arrived for item in take) + self._max_wait_s
            if now < wake_at:
                return Decision(late=items[: chosen.start], wake_at=wake_at)
            reason = "waited"
        return Decision(take, items[: chosen.start], reason, predicted_s=self.cost.seconds(rows))

    def finished(self, rows: int, longest: int, seconds: float) -> None:  # noqa: ARG002  all rows have equal length
        """Update the device's speed."""
        self.cost.observe(rows, seconds)

    def limit(self, rows: int, longest: int) -> None:  # noqa: ARG002
        """Halve the maximum batch size."""
        self._max_batch_size = max(1, min(self._max_batch_size, rows // 2))
        self.cost.limit(self._max_batch_size)

    def expected_s(self, rows: int, longest: int) -> float:  # noqa: ARG002
        """Return the predicted seconds of a batch."""
        return self.cost.expected(rows) if rows <= self._max_batch_size else 0.0

    def _select(self, queue: DeadlineQueue, now: float, device: DeviceState) -> _Chosen:
        """Select the batch. Requests before it in the queue can no longer meet their deadline, or are dropped."""
        cost, items = self.cost, queue.items
        end = self._end_of_class(items)
        start = self._first_possible(items, end, now)
        single = queue.rows == len(items)
        most = 1 if self._alone else cost.knee
        if device.free_lanes > 1:
            most = min(most, -(-queue.rows // device.free_lanes))
        carrying, looks = 0, 0
        while start < end:
            count, rows = _fitting(items, start, end, most, single=single)
            budget = items[start].deadline - now
            if budget == inf or not cost.known:
                return _Chosen(start, count, rows)
            fits = cost.largest(budget, min(rows, self._max_batch_size))
            if fits >= rows:
                break
            if fits >= items[start].rows:
                carrying = carrying or cost.carrying(self.arrivals.per_s)
                looks += 1
                if fits >= min(carrying, rows):
                    break
                if looks <= LOOK_AHEADS and self._rest_can_wait(items, start, end, fits, now, single=single):
                    break
            start += 1
        else:
            return _Chosen(end, 0, 0)
        reason: Reason = "device free" if fits >= rows else "deadline"
        fastest = cost.fastest(min(fits, rows, self._max_batch_size))
        if fastest < min(fits, rows) and fastest >= items[start].rows and cost.rate(min(fits, rows)) < self.arrivals.per_s:
            fits, reason = fastest, "full"
        if fits < rows:
            count, rows = _fitting(items, start, end, fits, single=single)
        return _Chosen(start, count, rows, reason)

    def _first_possible(self, items: Sequence[Waiting], end: int, now: float) -> int:
        """Return the position of the first request that can meet its deadline alone."""
        start = 0
        while start < end and items[start].deadline < now + self._seconds(items[start].rows):
            start += 1
        return start

    def _seconds(self, rows: int) -> float:
        return self.cost.seconds(min(rows, self._max_batch_size))

    @staticmethod
    def _end_of_class(items: Sequence[Waiting]) -> int:
        """Return the end of the first priority class: only requests of the same class may displace each other."""
        first = items[0].priority
        if items[-1].priority == first:
            return len(items)
        return next(index for index, item in enumerate(items) if item.priority != first)

    def _rest_can_wait(self, items: Sequence[Waiting], start: int, end: int, fits: int, now: float, *, single: bool) -> bool:
        """Return whether the others of the class have looser deadlines and still meet them after a small batch for the
        first.
        """
        if items[end - 1].slack <= 1.01 * items[start].slack:
            return False
        count, rows = _fitting(items, start, end, fits, single=single)
        at = now + self._seconds(rows)
        start += count
        while start < end:
            count, rows = _fitting(items, start, end, self.cost.knee, single=single)
            at += self._seconds(rows)
            if at > items[start].deadline:
                return False
            start += count
        return True

    def _fill_up(self, take: list[Waiting], rows: int, others: Sequence[Waiting], now: float) -> int:
        """Add requests of lower priority while all requests of the batch stay on time; return its rows."""
        room = self.cost.knee
        if self.cost.known and take[0].deadline < inf:
            room = self.cost.largest(take[0].deadline - now, room)
        done_at = now + self.cost.seconds(max(room, 1))
        for other in others:
            if rows >= room:
                break
            if rows + other.rows <= room and other.deadline >= done_at:
                take.append(other)
                rows += other.rows
        return rows


def _fitting(items: Sequence[Waiting], start: int, end: int, most: int, *, single: bool) -> tuple[int, int]:
    """Return the number of requests from `start` on that have at most `most` rows in total, and their rows; at least one."""
    if single:
        count = min(end - start, most)
        return count, count
    rows = items[start].rows
    index = start + 1
    while index < end and rows + items[index].rows <= most:
        rows += items[index].rows
        index += 1
    return index - start, rows
