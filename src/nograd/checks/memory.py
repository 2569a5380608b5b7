"""Memory: check that a full batch fits, and that calls do not leak."""

from __future__ import annotations

import gc
from itertools import pairwise

from nograd.checks.arrays import tiled
from nograd.checks.resources import format_bytes, give_back_freed, peak_bytes, reset_peak, resident_bytes
from nograd.checks.subject import ModelSubject
from nograd.errors import ModelError
from nograd.report.verdict import Check, Verdict, error, passed, skipped, warning
from nograd.runtime.device_errors import is_out_of_memory

__all__ = ["CHECKS", "is_growth"]

MAX_CALLS, BUDGET_S = 1000, 3.0

QUARTERS = 4

GROWTH_BYTES = 1_000_000
"""Smaller growth may come from the allocator, whose arenas fill in steps."""

TIGHT = 0.8
"""Share of the free memory that one full batch may take. Bodies and answers of other requests need memory too."""


def check_headroom(subject: ModelSubject) -> Verdict:
    """Run a full batch twice, and compare its peak memory with the free memory."""
    if subject.predictor.backend.device != "cpu":
        return skipped(f"the model runs on {subject.predictor.backend.device}; this check measures only host memory")
    before = _bytes_after_collection()
    if subject.memory_left is None or not reset_peak():
        return skipped("this system does not report free or used memory")
    full = tiled(subject.rows, subject.max_batch_size)
    try:
        for _ in range(2):
            subject.run(full)
    except ModelError as failure:
        if not is_out_of_memory(failure):
            return skipped(f"the model cannot run a full batch: see batching.sizes ({' '.join(str(failure).split())[:160]})")
        return error(f"memory ran out in a batch of {subject.max_batch_size} rows", rows=float(subject.max_batch_size))
    needs = max(0, peak_bytes() - before) * subject.predictor.lanes
    return _fits(needs, subject.memory_left, subject.max_batch_size, subject.predictor.lanes)


def _fits(needs: int, left: int, rows: int, lanes: int) -> Verdict:
    """Decide whether a full batch on every lane fits into the free memory."""
    figures = {"needs_bytes": float(needs), "left_bytes": float(left), "rows": float(rows), "lanes": float(lanes)}
    said = f"a batch of {rows} rows takes {format_bytes(needs)} on {lanes} lanes; {format_bytes(left)} are free"
    if needs > left or not left:
        return error(said, **figures)
    if needs > TIGHT * left:
        return warning(f"{said}: {needs / left:.0%}", **figures)
    return passed(said, **figures)


def check_growth(subject: ModelSubject) -> Verdict:
    """Call the model up to 1,000 times, for at most 3 s. If memory seems to grow, repeat once."""
    if not resident_bytes():
        return skipped("this system does not report the memory of a process")
    for _ in range(2):
        calls, sizes = _sizes_over_calls(subject)
        if calls < QUARTERS:
            return skipped(f"{calls} calls took {BUDGET_S:g} s, too few to measure growth")
        grown = sizes[-1] - sizes[0]
        figures = {"calls": float(calls), "grown_bytes": float(grown)}
        if not is_growth(sizes):
            return passed(f"{calls} calls: {format_bytes(grown)} more", **figures)
    return error(
        f"memory grew steadily by {format_bytes(grown)} over {calls} calls, and again in a second run: "
        f"{format_bytes(grown / calls)} per call",
        **figures,
    )


def is_growth(sizes: list[int]) -> bool:
    """Return True if memory grew in each part of a run, and by more than an allocator's steps.

    Args:
        sizes: bytes at the start and after each part.
    """
    steps = [after - before for before, after in pairwise(sizes)]
    grown = sizes[-1] - sizes[0]
    return grown > GROWTH_BYTES and min(steps) > grown / len(steps) / 4


def _sizes_over_calls(subject: ModelSubject) -> tuple[int, list[int]]:
    """Return the number of calls, and the resident bytes at the start and after each quarter of them."""
    one = subject.one
    begun = subject.clock()
    warm = 0
    while warm < MAX_CALLS // 10 and subject.clock() - begun < BUDGET_S / 10:
        subject.run(one)
        warm += 1
    each_s = (subject.clock() - begun) / max(1, warm)
    quarter = max(1, int(min(MAX_CALLS, (BUDGET_S - BUDGET_S / 10) / max(each_s, 1e-9)) // QUARTERS))
    if warm < 1 or each_s > BUDGET_S / QUARTERS:
        return 0, []
    sizes = [_bytes_after_collection()]
    for _ in range(QUARTERS):
        for _ in range(quarter):
            subject.run(one)
        sizes.append(_bytes_after_collection())
    return quarter * QUARTERS, sizes


def _bytes_after_collection() -> int:
    gc.collect()
    give_back_freed()
    return resident_bytes()


CHECKS: tuple[Check[ModelSubject], ...] = (
    Check(
        "memory.headroom", "A full batch fits into memory",
        "ran a full batch, and compared its peak memory with the free memory",
        check_headroom, "nograd serve MODEL --max-batch-size 8", "error",
    ),
    Check(
        "memory.growth", "Calls do not leak memory", "called the model up to 1,000 times, and measured memory",
        check_growth, "store no answers, inputs or losses on self; .detach() tensors that must be stored", "error",
    ),
)  # fmt: skip
