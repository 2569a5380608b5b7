"""The policy for models whose rows differ in length: group by length, most urgent group first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from nograd.batching.admission import Overbooking
from nograd.batching.grouping import cheapest_groups
from nograd.batching.policy import ArrivalRate, Decision, DeviceState, Reason, checked_limits
from nograd.batching.queue import DeadlineQueue, Waiting
from nograd.batching.tracking import TokenCost
from nograd.core.cost import CostCurve
from nograd.errors import ConfigError

__all__ = ["LengthPolicy"]

WINDOW = 64
"""Number of most urgent requests to consider for one batch."""


@dataclass(slots=True)
class _LengthGroup:
    """Requests that would run together."""

    take: list[Waiting]
    members: list[Waiting]
    """Most urgent first, including requests that the first one's deadline does not allow in the batch."""

    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return sum(item.rows for item in self.take) / self.seconds if self.seconds else inf


class LengthPolicy:
    """Partitions the most urgent requests by length at the lowest cost, and runs the group with the earliest deadline.

    If that group is too slow for the load and the others would be late, the group with the most rows per second runs instead.
    Requests that become late by this are rejected immediately.

    Args:
        max_batch_size: maximum rows per run.
        max_wait_ms: maximum time to wait for a batch to fill, in milliseconds; 0 is best on one device.
        cost: measured seconds by padded elements.
        max_batch_tokens: maximum padded elements (rows x longest row) per run; a longer row runs alone.
        equal: only rows of equal shape may share a run.

    Raises:
        ConfigError: a limit is out of its range.
    """

    def __init__(
        self,
        max_batch_size: int = 32,
        max_wait_ms: float = 0.0,
        *,
        cost: CostCurve | None = None,
        max_batch_tokens: int | None = None,
        equal: bool = False,
    ) -> None:
        self._max_wait_s = checked_limits(max_batch_size, max_wait_ms)
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens is {max_batch_tokens}; it must be at least 1, or None")
        self._max_batch_size = max_batch_size
        self._max_tokens = inf if max_batch_tokens is None else max_batch_tokens
        self._equal = equal
        self.cost = TokenCost(cost)
        self.arrivals = ArrivalRate(0.05)
        self.booking = Overbooking()
        self._mean_length = 1.0

    @property
    def chunk_rows(self) -> int:
        """The maximum batch size."""
        return self._max_batch_size

    def admit(self, queue: DeadlineQueue, waiting: Waiting, rows: int, now: float, device: DeviceState) -> float | None:
        """Reject a request that would miss its deadline (see `Overbooking`)."""
        alone = self.cost.seconds(waiting.length * min(rows, self._max_batch_size))
        self.arrivals.new_rows += rows
        self._mean_length += 0.05 * (waiting.length - self._mean_length)
        if waiting.deadline == inf or not self.cost.known:
            return None
        ahead = queue.position(waiting)
        full = (ahead + rows - 1) // self._max_batch_size
        block = self.cost.seconds(int(self._mean_length * self._max_batch_size))
        ahead_s, own_s = self.booking.wait_s(full, block / device.lanes, alone, now)
        wait = max(0.0, device.free_at - now) + ahead_s
        return wait if now + wait + own_s > waiting.deadline else None

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        """Return the group to run, or the end of its waiting time."""
        items = queue.items
        self.arrivals.update(now, items[0].slack, 4 * self._seconds(items[:1]))
        late = [item for item in items if item.deadline < now + self._seconds((item,))] if items[0].deadline < inf else []
        if late:
            hopeless = set(map(id, late))
            items = [item for item in items if id(item) not in hopeless]
            if not items:
                self.booking.given_up(late, now)
                return Decision(late=late)
        groups = self._groups(items[:WINDOW], now, device)
        urgent = next(group for group in groups if items[0] in group.members)
        chosen = urgent
        if urgent.rate < self.arrivals.per_s and not self._others_can_wait(urgent, groups, items, now):
            first = items[0].priority
            chosen = max((group for group in groups if group.members[0].priority == first), key=lambda group: group.rate)
            end = now + chosen.seconds
            kept = set(map(id, chosen.take))
            late += [item for item in items if id(item) not in kept and item.deadline < end + self._seconds((item,))]
        self.booking.given_up(late, now)
        everything = len(chosen.take) == len(items)
        return self._released(chosen, late, now, device, everything=everything)

    def finished(self, rows: int, longest: int, seconds: float) -> None:
        """Update the device's speed."""
        self.cost.observe(rows * longest, seconds)

    def limit(self, rows: int, longest: int) -> None:
        """Halve the padded elements of the largest batch."""
        self._max_tokens = max(1.0, min(self._max_tokens, rows * longest // 2))

    def expected_s(self, rows: int, longest: int) -> float:
        """Return the predicted seconds of a batch."""
        return self.cost.expected(rows * longest)

    def _released(
        self, chosen: _LengthGroup, late: Sequence[Waiting], now: float, device: DeviceState, *, everything: bool
    ) -> Decision:
        rows = sum(item.rows for item in chosen.take)
        reason: Reason = "device free"
        if rows >= self._max_batch_size:
            reason = "full"
        elif len(chosen.take) < len(chosen.members):
            reason = "deadline"
        elif device.draining:
            reason = "draining"
        elif self._max_wait_s:
            wake_at = min(item.arrived for item in chosen.take) + self._max_wait_s
            if now < wake_at:
                return Decision(late=late, wake_at=wake_at)
            reason = "waited"
        elif not everything:
            reason = "lengths"
        return Decision(chosen.take, late, reason, predicted_s=chosen.seconds)

    def _seconds(self, items: Sequence[Waiting]) -> float:
        return self.cost.seconds(sum(item.rows for item in items) * max(item.length for item in items))

    def _groups(self, items: Sequence[Waiting], now: float, device: DeviceState) -> list[_LengthGroup]:
        """Partition by length; each group is limited by its own earliest deadline."""
        most = self._max_batch_size
        if device.free_lanes > 1:
            most = max(1, min(most, -(-sum(item.rows for item in items) // device.free_lanes)))
        if self._equal:
            return [self._shrunk(part, now) for part in _by_shape(items, most, self._max_tokens)]
        order = sorted(range(len(items)), key=lambda index: items[index].length)
        cuts = cheapest_groups(
            [items[index].length for index in order],
            [items[index].rows for index in order],
            overhead=self.cost.overhead,
            max_rows=most,
            max_tokens=self._max_tokens,
        )
        return [self._shrunk([items[index] for index in sorted(order[start:end])], now) for start, end in cuts]

    def _shrunk(self, members: list[Waiting], now: float) -> _LengthGroup:
        """Keep the request with the earliest deadline, and as many others as its deadline allows."""
        first = members[0]
        budget = first.deadline - now
        seconds = self._seconds(members)
        if seconds <= budget:
            return _LengthGroup(members, members, seconds)
        take, rows, longest = [first], first.rows, first.length
        for item in members[1:]:
            if self.cost.seconds((rows + item.rows) * max(longest, item.length)) <= budget:
                take.append(item)
                rows += item.rows
                longest = max(longest, item.length)
        return _LengthGroup(take, members, self.cost.seconds(rows * longest))

    def _others_can_wait(
        self, urgent: _LengthGroup, groups: Sequence[_LengthGroup], items: Sequence[Waiting], now: float
    ) -> bool:
        """Return whether all other requests stay on time if the urgent group runs first."""
        at = now + urgent.seconds
        running = set(map(id, urgent.take))
        total = urgent.seconds
        for group in sorted(groups, key=lambda group: min(item.deadline for item in group.members)):
            left = [item for item in group.members if id(item) not in running]
            if not left:
                continue
            seconds = self._seconds(left)
            at += seconds
            total += seconds
            if at > min(item.deadline for item in left):
                return False
        beyond = len(items) - min(len(items), WINDOW)
        return not beyond or at + beyond * total / WINDOW <= items[-1].deadline


def _by_shape(items: Sequence[Waiting], max_rows: int, max_tokens: float) -> list[list[Waiting]]:
    """Return groups of equal shape, in the order of the queue."""
    groups: list[list[Waiting]] = []
    open_groups: dict[tuple[int, ...], tuple[list[Waiting], int]] = {}
    for item in items:
        group, rows = open_groups.get(item.shape, ([], 0))
        if not group or (rows + item.rows) > max_rows or (rows + item.rows) * item.length > max_tokens:
            group, rows = [], 0
            groups.append(group)
        group.append(item)
        open_groups[item.shape] = (group, rows + item.rows)
    return groups
