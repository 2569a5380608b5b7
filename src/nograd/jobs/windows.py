"""Windows: records that are prepared, batched and written together. Pure.

Which rows share a batch changes the last bits of their answers, so a window's rows are batched among themselves, and where a
window ends depends on the input from its beginning alone: a run that is taken up behind a window makes the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nograd.jobs.records import Record

__all__ = ["IN_FLIGHT", "Held", "Layout", "cut", "layout_for"]

IN_FLIGHT = 4
"""Windows in memory at most: one that is read, two that are prepared and run, one that is written."""

WINDOW_BATCHES = 16


class Held(NamedTuple):
    """Bytes that a record came to hold in memory, from when it was read until it was written."""

    read: int
    fixed: int
    """Of what is as large for every record: answers of one shape."""

    growing: int
    """Of what is larger for a record of which more was read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where windows end, and how their rows are batched: fixed when a run begins."""

    max_rows: int
    """Records of one window, at most."""

    max_bytes: int
    """What one window holds in memory, at most, as far as that is known before; a larger record is a window of its own."""

    fixed_bytes: int
    """What any record holds, from when it is read until it is written."""

    growth: int
    """What it holds beside that, for each byte that was read, and once more."""

    overhead: float
    """What starting a run costs, in padded elements; see `BatchPredictor`."""

    def bytes_of(self, record: Record) -> int:
        """Return what a record holds in memory, from when it is read until it is written."""
        return self.fixed_bytes + self.growth * (record.size_bytes + 1)


def layout_for(memory_bytes: int, max_batch_size: int, overhead: float, seen: Sequence[Held]) -> Layout:
    """Return the layout whose windows fit into memory.

    Args:
        memory_bytes: for all windows together.
        max_batch_size: rows in one run, at most.
        overhead: what starting a run costs, in padded elements.
        seen: what some records came to hold.
    """
    fixed = max((each.fixed for each in seen), default=0)
    growth = max((math.ceil(each.growing / (each.read + 1)) for each in seen), default=1)
    return Layout(max_batch_size * WINDOW_BATCHES, max(1, memory_bytes // IN_FLIGHT), fixed, growth, overhead)


def cut(records: Iterable[Record], layout: Layout) -> Iterator[list[Record]]:
    """Yield the records in windows, each as large as the layout allows."""
    window: list[Record] = []
    held = 0
    for record in records:
        size = layout.bytes_of(record)
        if window and (len(window) == layout.max_rows or held + size > layout.max_bytes):
            yield window
            window, held = [], 0
        window.append(record)
        held += size
    if window:
        yield window
