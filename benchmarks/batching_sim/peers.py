"""Other servers' rules, after their sources or papers (batching.md, section 1), on one device without variable lengths."""

from __future__ import annotations

# ruff: noqa: ARG002  a rule need not look at everything
from benchmarks.batching_sim.traffic import Curve
from nograd.batching import DeadlineQueue, Decision, DeviceState, Waiting

__all__ = ["PEERS", "Rule"]


class Rule:
    """A rule that lets everybody in. Subclasses decide."""

    name = "rule"

    def __init__(self, curve: Curve, goal_s: float) -> None:
        self.curve = curve
        self.goal_s = goal_s
        self.chunk_rows = curve.max_rows

    def admit(self, queue: DeadlineQueue, waiting: Waiting, rows: int, now: float, device: DeviceState) -> float | None:
        return None

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        raise NotImplementedError

    def finished(self, rows: int, longest: int, seconds: float) -> None:
        pass

    def limit(self, rows: int, longest: int) -> None:
        pass

    def expected_s(self, rows: int, longest: int) -> float:
        return self.curve.seconds(rows)

    def oldest(self, queue: DeadlineQueue) -> list[Waiting]:
        return sorted(queue.items, key=lambda item: item.arrived)


class Greedy(Rule):
    """Take what waits, oldest first."""

    name = "greedy"

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        return Decision(self.oldest(queue)[: self.curve.max_rows])


class GreedyBounded(Greedy):
    """The same with a queue of two batches."""

    name = "greedy, bounded"

    def admit(self, queue: DeadlineQueue, waiting: Waiting, rows: int, now: float, device: DeviceState) -> float | None:
        return None if len(queue) < 2 * self.curve.max_rows else 1.0


class Timer(Rule):
    """Wait until the batch is full, or its oldest request has waited 10 ms."""

    name = "timer 10 ms"

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        items = self.oldest(queue)
        wake_at = items[0].arrived + 0.01
        if len(items) >= self.curve.max_rows or now >= wake_at - 1e-12:
            return Decision(items[: self.curve.max_rows])
        return Decision(wake_at=wake_at)


class Lazy(Rule):
    """Earliest deadline first; drop what is late even alone; as many as the first one's deadline allows."""

    name = "edf, lazy"

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        items = queue.items
        start = next((i for i, item in enumerate(items) if item.deadline >= now + self.curve.seconds(1)), len(items))
        if start == len(items):
            return Decision(late=list(items))
        budget = items[start].deadline - now
        size = max(k for k in range(1, min(self.curve.max_rows, len(items) - start) + 1) if k == 1 or self.size_fits(k, budget))
        return Decision(items[start : start + size], items[:start])

    def size_fits(self, rows: int, budget: float) -> bool:
        return self.curve.seconds(rows) <= budget


class Clockwork(Lazy):
    """The same with powers of two as sizes."""

    name = "clockwork"

    def size_fits(self, rows: int, budget: float) -> bool:
        return rows & (rows - 1) == 0 and super().size_fits(rows, budget)


class MostPerSecond(Rule):
    """The batch with the most rows per second; whom it makes late is dropped."""

    name = "max rate"

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        items = queue.items
        best, chosen, start = -1.0, (0, 0), 0
        for size in range(1, min(len(items), self.curve.max_rows) + 1):
            ends = now + self.curve.seconds(size)
            while start < len(items) and items[start].deadline < ends:
                start += 1
            if len(items) - start < size:
                break
            rate = size / self.curve.seconds(size)
            if rate > best + 1e-12:
                best, chosen = rate, (start, size)
        if best < 0:
            return Decision(late=[item for item in items if item.deadline < now + self.curve.seconds(1)] or list(items))
        start, size = chosen
        return Decision(items[start : start + size], items[:start])


class Nexus(Rule):
    """A target size from the profile (twice its time within the goal); a sliding window drops early."""

    name = "nexus"

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        items = queue.items
        sizes = range(1, self.curve.max_rows + 1)
        target = max((k for k in sizes if 2 * self.curve.seconds(k) <= self.goal_s), default=1)
        expected, position = min(target, len(items)), 0
        take: list[Waiting] = []
        late: list[Waiting] = []
        while len(take) < expected and position < len(items):
            item = items[position]
            position += 1
            (late if item.deadline < now + self.curve.seconds(expected) else take).append(item)
            left = len(take) + len(items) - position
            expected = min(expected, left) or expected
        return Decision(take, late)


class Cork(Rule):
    """BentoML's dispatcher: fit a line to 50 batches; drop the oldest while the whole queue would be late; else cork."""

    name = "bentoml"

    def __init__(self, curve: Curve, goal_s: float) -> None:
        super().__init__(curve, goal_s)
        self.fixed, self.each, self.wait = min(2.0, goal_s * 2 / 30), min(1.0, goal_s / 30), 0.0
        self.samples: list[tuple[int, float, float]] = []
        self.count, self.waited = 0, 0.0

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        items = self.oldest(queue)
        drop = 0
        while len(items) - drop > 1 and now - items[drop].arrived + self.fixed * (len(items) - drop) + self.each >= self.goal_s:
            drop += 1
        late, items = items[:drop], items[drop:]
        newest = now - items[-1].arrived
        if len(items) < self.curve.max_rows and len(items) * (newest + 0.001 + self.fixed) <= self.wait * 0.95:
            return Decision(late=late, wake_at=now + 0.001)
        self.waited = now - items[0].arrived
        return Decision(items[: self.curve.max_rows], late)

    def finished(self, rows: int, longest: int, seconds: float) -> None:
        self.count += 1
        if self.count <= 2:
            return
        self.samples = [*self.samples[-49:], (rows, seconds, self.waited)]
        if self.count % 50 and self.count not in (9, 11, 13, 15):
            return
        sizes, times = [s[0] for s in self.samples], [s[1] for s in self.samples]
        mean_size, mean_time = sum(sizes) / len(sizes), sum(times) / len(times)
        spread = sum((size - mean_size) ** 2 for size in sizes)
        if spread > 1e-9:
            slope = sum((x - mean_size) * (y - mean_time) for x, y in zip(sizes, times, strict=True)) / spread
            self.fixed, self.each = max(1e-6, slope), max(0.0, mean_time - slope * mean_size)
        else:
            self.fixed = mean_time * mean_size / (mean_size**2 + 1)
            self.each = mean_time / (mean_size**2 + 1)
        self.wait = max(0.0, sum(s[2] for s in self.samples) / len(self.samples))


PEERS: tuple[type[Rule], ...] = (Greedy, GreedyBounded, Timer, Lazy, Clockwork, MostPerSecond, Nexus, Cork)
