"""What one decision of a policy costs, by how many wait: without deadlines, with easy ones, and in conflict."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from statistics import median
from timeit import repeat

from benchmarks.common import report, spread
from nograd import CostCurve, DeadlinePolicy, LengthPolicy
from nograd.batching import DeadlineQueue, DeviceState, Waiting

GOAL_US = 5.0
CURVE = CostCurve((1, 32), (0.006, 0.037))
TOKENS = CostCurve((1, 1000), (0.0051, 0.096), unit="tokens")
DEADLINES: dict[str, Callable[[int], float]] = {
    "no deadlines": lambda _: inf,
    "easy deadlines": lambda _: 1e3,
    "in conflict": lambda index: 0.02 + index * 1e-4,
}


def times_us(decide: Callable[[], object], count: int) -> list[float]:
    return [seconds / count * 1e6 for seconds in repeat(decide, number=count, repeat=7)]


def main() -> None:
    found: dict[str, list[float]] = {}
    device = DeviceState()
    for waiting in (8, 64, 512):
        for name, deadline in DEADLINES.items():
            policy = DeadlinePolicy(32, cost=CURVE)
            queue = DeadlineQueue(Waiting(1, 0.0, deadline(index)) for index in range(waiting))

            def decide(policy: DeadlinePolicy = policy, queue: DeadlineQueue = queue) -> object:
                policy.arrivals.per_s = 700.0
                return policy.decide(queue, 0.0, device)

            found[f"{waiting} rows, {name}"] = times_us(decide, 5000)
        lengths = LengthPolicy(32, cost=TOKENS)
        mixed = DeadlineQueue(Waiting(1, 0.0, inf, 5 + index * 37 % 120) for index in range(waiting))

        def decide_mixed(policy: LengthPolicy = lengths, queue: DeadlineQueue = mixed) -> object:
            return policy.decide(queue, 0.0, device)

        found[f"{waiting} of mixed lengths"] = times_us(decide_mixed, 100)
    table = [["waiting", "us a decision"], *([name, spread(times)] for name, times in found.items())]
    met = all(median(times) <= GOAL_US for name, times in found.items() if name.startswith("512 rows"))
    report("decision", table, found, goal=f"at most {GOAL_US} us with 512 rows of one length waiting", met=met)


if __name__ == "__main__":
    main()
