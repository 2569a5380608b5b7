"""Batching: what meets what in one run. Policies decide, `batcher` executes, `collate` joins and parts arrays."""

from nograd.batching.batcher import DynamicBatcher, Runner
from nograd.batching.choice import policy_for
from nograd.batching.lengths import LengthPolicy
from nograd.batching.measure import measure_cost
from nograd.batching.policy import BatchPolicy, DeadlinePolicy, Decision, DeviceState
from nograd.batching.queue import DeadlineQueue, Waiting
from nograd.batching.records import BatchRecord, Execution, RunningBatch, Spent, Statistics

__all__ = [
    "BatchPolicy",
    "BatchRecord",
    "DeadlinePolicy",
    "DeadlineQueue",
    "Decision",
    "DeviceState",
    "DynamicBatcher",
    "Execution",
    "LengthPolicy",
    "Runner",
    "RunningBatch",
    "Spent",
    "Statistics",
    "Waiting",
    "measure_cost",
    "policy_for",
]
