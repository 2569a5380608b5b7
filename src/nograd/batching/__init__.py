"""Batching: which requests share a run. Policies decide, `batcher` executes, `collate` joins and splits arrays."""

from nograd.batching.batcher import Batcher, Runner
from nograd.batching.choice import policy_for
from nograd.batching.lengths import LengthPolicy
from nograd.batching.measure import measure_cost
from nograd.batching.policy import BatchPolicy, DeadlinePolicy, Decision, DeviceState
from nograd.batching.queue import DeadlineQueue, Waiting
from nograd.batching.records import BatchRecord, Execution, RequestTimes, RunningBatch, Statistics

__all__ = [
    "BatchPolicy",
    "BatchRecord",
    "Batcher",
    "DeadlinePolicy",
    "DeadlineQueue",
    "Decision",
    "DeviceState",
    "Execution",
    "LengthPolicy",
    "RequestTimes",
    "Runner",
    "RunningBatch",
    "Statistics",
    "Waiting",
    "measure_cost",
    "policy_for",
]
