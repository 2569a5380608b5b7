"""Windows: records that are prepared, batched and written together. Pure.

The rows of a batch affect the last bits of each other's answers. A window's rows are therefore batched only with each
other, and the ends of windows depend only on the input from its start: a resumed run makes the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nograd.datasets.records import Record

__all__ = ["IN_FLIGHT", "Layout", "RowMemory", "cut", "layout_for"]

IN_FLIGHT = 4
"""Maximum windows in memory: one that is read, two that are prepared and run, one that is written."""

WINDOW_BATCHES = 16


class RowMemory(NamedTuple):
    """Bytes of a record in memory, from reading to writing."""

    read: int
    fixed: int
    """Bytes that are equal for every record: answers of one shape."""

    growing: int
    """Bytes that grow with the size of the record."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Size of windows, and batching of their rows; fixed when a run starts."""

    max_rows: int
    """Maximum records of one window."""

    max_bytes: int
    """Maximum estimated bytes of one window; a larger record forms its own window."""

    fixed_bytes: int
    """Bytes of any record, from reading to writing."""

    growth: int
    """Additional bytes for each byte that was read, plus one."""

    overhead: float
    """Cost of starting a batch, in padded elements; see `BatchPredictor`."""

    def bytes_of(self, record: Record) -> int:
        """Return the bytes of a record in memory, from reading to writing."""
        return self.fixed_bytes + self.growth * (record.size_bytes + 1)


def layout_for(memory_bytes: int, max_batch_size: int, overhead: float, seen: Sequence[RowMemory]) -> Layout:
    """Return the layout whose windows fit into memory.

    Args:
        memory_bytes: limit of all windows together, in bytes.
        max_batch_size: maximum rows in one batch.
        overhead: cost of starting a batch, in padded elements.
        seen: measured memory of some records.
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
