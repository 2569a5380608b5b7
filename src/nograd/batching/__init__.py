"""Batching: what meets what in one run. `policy` decides, `batcher` executes, `collate` joins and parts arrays."""

from nograd.batching.batcher import BatchRecord, DynamicBatcher, Runner, Statistics
from nograd.batching.policy import BatchPolicy, Decision, DeviceState, Waiting, WindowPolicy

__all__ = [
    "BatchPolicy",
    "BatchRecord",
    "Decision",
    "DeviceState",
    "DynamicBatcher",
    "Runner",
    "Statistics",
    "Waiting",
    "WindowPolicy",
]
