"""Event simulation of requests, a device and a policy. The policy is the production object; only time is simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from nograd.batching.policy import BatchPolicy, Decision, DeviceState
from nograd.batching.queue import DeadlineQueue, Waiting

__all__ = ["SimulationOutcome", "Step", "simulate"]


@dataclass(frozen=True, slots=True)
class Step:
    """One decision and its inputs."""

    now: float
    queue: tuple[Waiting, ...]
    decision: Decision
    ends: float | None
    """Time at which the batch finished."""


@dataclass(slots=True)
class SimulationOutcome:
    """Results per request; times in seconds."""

    done: dict[Waiting, float] = field(default_factory=dict)
    late: dict[Waiting, float] = field(default_factory=dict)
    refused: dict[Waiting, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    left: list[Waiting] = field(default_factory=list)
    """Requests that still waited at the end: the policy never runs them."""

    def goodput(self, requests: Sequence[Waiting], warm_up: float = 0.05) -> float:
        """Return the share of requests answered by their deadline, without the warm-up share at the start."""
        counted = requests[int(len(requests) * warm_up) :]
        return sum(self.done.get(request, inf) <= request.deadline for request in counted) / len(counted)


def simulate(
    policy: BatchPolicy,
    requests: Sequence[Waiting],
    seconds: Callable[[int, int], float],
    *,
    lanes: int = 1,
    keep_steps: bool = False,
) -> SimulationOutcome:
    """Simulate the requests with the policy.

    Args:
        policy: policy to simulate.
        requests: requests, sorted by arrival.
        seconds: run time of a batch by its rows and its longest row.
        lanes: number of concurrent batches.
        keep_steps: record every decision.
    """
    outcome, queue, device = SimulationOutcome(), DeadlineQueue(), DeviceState(lanes, lanes)
    running: list[tuple[float, int, Sequence[Waiting], float, float]] = []
    arriving = 0
    wake_at = inf
    while arriving < len(requests) or running or (queue.items and wake_at < inf):
        next_arrival = requests[arriving].arrived if arriving < len(requests) else inf
        now = min(next_arrival, running[0][0] if running else inf, wake_at)
        wake_at = inf
        while running and running[0][0] <= now:
            done_at, _, batch, took, _ = heappop(running)
            outcome.done.update(dict.fromkeys(batch, done_at))
            device.free_lanes += 1
            policy.finished(sum(item.rows for item in batch), max(item.length for item in batch), took)
        while arriving < len(requests) and requests[arriving].arrived <= now:
            request = requests[arriving]
            arriving += 1
            device.free_at = -inf if device.free_lanes else min(predicted for *_, predicted in running)
            if policy.admit(queue, request, request.rows, now, device) is None:
                queue.add(request)
            else:
                outcome.refused[request] = now
        while queue.items and device.free_lanes:
            before = tuple(queue.items) if keep_steps else ()
            decision = policy.decide(queue, now, device)
            queue.take(decision.late)
            queue.take(decision.take)
            outcome.late.update(dict.fromkeys(decision.late, now))
            ends: float | None = None
            if decision.take:
                took = seconds(sum(item.rows for item in decision.take), max(item.length for item in decision.take))
                ends = now + took
                heappush(running, (now + took, arriving, decision.take, took, now + decision.predicted_s))
                device.free_lanes -= 1
            if keep_steps:
                outcome.steps.append(Step(now, before, decision, ends))
            if not decision.take:
                wake_at = decision.wake_at if decision.wake_at is not None else inf
                if not decision.late or wake_at < inf:
                    break
    outcome.left = list(queue.items)
    return outcome
