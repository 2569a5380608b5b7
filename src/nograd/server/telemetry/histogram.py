"""Histograms. `add` only appends; numbers are sorted into buckets in bulk when they are read.

Times have logarithmic buckets of 4 %, which use little memory; a percentile is at most 4 % too high (the idea of
DDSketch: Masson, Rim and Lee, VLDB 2019, section 2). Prometheus has buckets with fixed bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["BucketCounts", "Histogram", "by_bound", "by_size", "by_size_and_time", "by_time"]

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

Scale: TypeAlias = Callable[[Numbers], Integers]
"""Returns the bucket of each number."""

Value = TypeVar("Value", float, tuple[int, float])

STEP = log(1.04)
SMALLEST_S = 1e-6
LARGEST_S = 1e6

BUCKETS = 2048
"""Upper bound of the number of time buckets."""

EXACT_SIZES = 64
"""Sizes of runs up to this have their own buckets; larger sizes have eight buckets per power of two."""


@dataclass(frozen=True, slots=True)
class BucketCounts:
    """Counts by bucket; `keys` are sorted and unique."""

    keys: Integers
    counts: Integers

    @classmethod
    def of(cls, keys: Integers) -> Self:
        """Count `keys`, given in any order."""
        return cls(*np.unique(keys, return_counts=True))

    @classmethod
    def merged(cls, tallies: Sequence[BucketCounts]) -> Self:
        """Return the sum of one or more counts."""
        keys, where = np.unique(np.concatenate([each.keys for each in tallies]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([each.counts for each in tallies]), len(keys))
        return cls(keys, counts.astype(np.int64))


EMPTY = BucketCounts(np.empty(0, np.int64), np.empty(0, np.int64))


class Histogram(Generic[Value]):
    """Numbers counted by bucket, with their sum and maximum; for pairs, those of the second numbers.

    Args:
        scale: returns the bucket of each number.
    """

    __slots__ = ("_maximum", "_new", "_scale", "_sum", "_tally", "add", "extend")

    def __init__(self, scale: Scale) -> None:
        self._scale = scale
        self._new: list[Value] = []
        self.add: Callable[[Value], None] = self._new.append
        """Count one number."""
        self.extend: Callable[[Iterable[Value]], None] = self._new.extend
        """Count several numbers."""
        self._tally = EMPTY
        self._sum = self._maximum = 0.0

    @classmethod
    def merged(cls, scale: Scale, histograms: Iterable[Histogram[Value]]) -> Histogram[Value]:
        """Return the histogram of all numbers of several histograms with this scale."""
        found: Histogram[Value] = cls(scale)
        listed = list(histograms)
        if listed:
            found._tally = BucketCounts.merged([each.tally for each in listed])
            found._maximum = max(each.maximum for each in listed)
            found._sum = sum(each.sum for each in listed)
        return found

    @property
    def tally(self) -> BucketCounts:
        """Counts by bucket."""
        if self._new:
            numbers = np.asarray(self._new, dtype=np.float64)
            self._new.clear()
            new = BucketCounts.of(self._scale(numbers))
            self._tally = BucketCounts.merged([self._tally, new]) if len(self._tally.keys) else new
            last = numbers if numbers.ndim == 1 else numbers[:, -1]
            self._maximum = max(self._maximum, float(last.max()))
            self._sum += float(last.sum())
        return self._tally

    @property
    def pending(self) -> int:
        """Number of appended numbers that are not sorted into buckets yet."""
        return len(self._new)

    @property
    def total(self) -> int:
        """Count of numbers."""
        return int(self.tally.counts.sum())

    @property
    def maximum(self) -> float:
        """The largest number; 0 if there is none."""
        _ = self.tally
        return self._maximum

    @property
    def sum(self) -> float:
        """Sum of all numbers."""
        _ = self.tally
        return self._sum

    def percentile_ms(self, percent: float) -> float | None:
        """Return the smallest bound that `percent` of the times do not exceed, in milliseconds; None if empty.

        The histogram's scale is `by_time`.
        """
        tally = self.tally
        if not len(tally.keys):
            return None
        return min(_percentile_s(tally.keys, tally.counts, percent), self.maximum) * 1000

    def cumulative(self, num_bounds: int) -> list[int]:
        """Return the number of values up to each bound, and the total count; the scale is `by_bound` of these bounds."""
        counts = np.zeros(num_bounds + 1, dtype=np.int64)
        counts[self.tally.keys] = self.tally.counts
        return [int(count) for count in counts.cumsum()]


def by_time(seconds: Numbers) -> Integers:
    """Return logarithmic buckets; bucket b contains times up to `SMALLEST_S * 1.04**b` seconds."""
    clipped = np.clip(seconds, SMALLEST_S, LARGEST_S)
    return np.ceil(np.log(clipped / SMALLEST_S) / STEP).astype(np.int64)


def by_bound(bounds: Sequence[float]) -> Scale:
    """Return a scale of upper bounds; a number on a bound belongs below it."""
    return partial(_below, np.array(bounds))


def by_size_and_time(runs: Numbers) -> Integers:
    """Return buckets of runs, `[runs, (size, seconds)]`: `group * BUCKETS + bucket of time`."""
    return _groups(runs[:, 0].astype(np.int64)) * BUCKETS + by_time(runs[:, 1])


def by_size(tally: BucketCounts) -> list[dict[str, Any]]:
    """Return for each size, in order, the number of runs and the 10th, 50th and 90th percentile of their times.

    Args:
        tally: counts of runs, `by_size_and_time`.
    """
    if not len(tally.keys):
        return []
    sizes, begins = np.unique(tally.keys // BUCKETS, return_index=True)
    times_of = np.split(tally.keys % BUCKETS, begins[1:])
    counts_of = np.split(tally.counts, begins[1:])
    found = []
    for size, times, counts in zip(sizes.tolist(), times_of, counts_of, strict=True):
        percentiles = {f"p{percent}_ms": _percentile_s(times, counts, percent) * 1000 for percent in (10, 50, 90)}
        found.append({"size": size, "count": int(counts.sum()), **percentiles})
    return found


def _below(bounds: Numbers, numbers: Numbers) -> Integers:
    return np.searchsorted(bounds, numbers).astype(np.int64)


def _percentile_s(buckets: Integers, counts: Integers, percent: float) -> float:
    cumulated = counts.cumsum()
    at = int(cumulated.searchsorted(cumulated[-1] * percent / 100))
    return float(SMALLEST_S * 1.04 ** int(buckets[at]))


def _groups(sizes: Integers) -> Integers:
    """Return the representative size of each bucket: the size itself, or the middle of its group."""
    step = np.left_shift(1, np.maximum(np.log2(np.maximum(sizes, 1)).astype(np.int64) - 3, 0))
    return np.where(sizes <= EXACT_SIZES, sizes, sizes // step * step + step // 2)
