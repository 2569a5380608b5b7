"""Times in logarithmic buckets of 4 %: many are counted in little memory, and a percentile is at most 4 % too high.

(DDSketch's idea: Masson, Rim and Lee, VLDB 2019, section 2.) `add` only remembers; times are sorted into buckets many at
once, when somebody asks, so that a request does not pay for being watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["LogHistogram", "RunTimes", "Tally"]

Integers = npt.NDArray[np.int64]

STEP = log(1.04)
SMALLEST_S = 1e-6
LARGEST_S = 1e6

BUCKETS = 2048
"""More than there are buckets of time."""

EXACT_SIZES = 64
"""Sizes of runs up to this are told apart; larger ones in eight groups from one power of two to the next."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How often there was what: `keys` in order, each once."""

    keys: Integers
    counts: Integers

    @classmethod
    def of(cls, keys: Integers) -> Self:
        """Return the tally of all `keys`, in any order."""
        return cls(*np.unique(keys, return_counts=True))

    @classmethod
    def merged(cls, tallies: Sequence[Tally]) -> Self:
        """Return the tally of all that one or more others counted."""
        keys, where = np.unique(np.concatenate([each.keys for each in tallies]), return_inverse=True)
        counts = np.bincount(where, np.concatenate([each.counts for each in tallies]), len(keys))
        return cls(keys, counts.astype(np.int64))


EMPTY = Tally(np.empty(0, np.int64), np.empty(0, np.int64))


class LogHistogram:
    """Times by bucket; bucket b holds those up to `SMALLEST_S * 1.04**b` seconds."""

    __slots__ = ("_new", "_tally", "add", "extend", "maximum")

    def __init__(self) -> None:
        self._new: list[float] = []
        self.add = self._new.append
        """Count one time, in seconds."""
        self.extend = self._new.extend
        """Count several times, in seconds."""
        self._tally = EMPTY
        self.maximum = 0.0
        """The largest time that is sorted in."""

    @classmethod
    def merged(cls, histograms: Iterable[LogHistogram]) -> Self:
        """Return the histogram of all times of several."""
        found = cls()
        listed = list(histograms)
        if listed:
            found._tally = Tally.merged([each.folded() for each in listed])
            found.maximum = max(each.maximum for each in listed)
        return found

    def folded(self) -> Tally:
        """Sort in what is new; return times by bucket."""
        if self._new:
            new = Tally.of(_buckets(self._new))
            self._tally = Tally.merged([self._tally, new]) if len(self._tally.keys) else new
            self.maximum = max(self.maximum, *self._new)
            self._new.clear()
        return self._tally

    @property
    def total(self) -> int:
        """How many times were counted."""
        return int(self.folded().counts.sum())

    def percentile_ms(self, percent: float) -> float | None:
        """Return the smallest bucket bound that `percent` of the times do not exceed, in milliseconds; None while empty."""
        tally = self.folded()
        if not len(tally.keys):
            return None
        return min(_percentile_s(tally.keys, tally.counts, percent), self.maximum) * 1000


class RunTimes:
    """Times of runs by the size of their batch."""

    __slots__ = ("_sizes", "_tally", "_times")

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._times: list[float] = []
        self._tally = EMPTY

    def add(self, size: int, seconds: float) -> None:
        """Count one run."""
        self._sizes.append(size)
        self._times.append(seconds)

    @classmethod
    def merged(cls, several: Iterable[RunTimes]) -> Self:
        """Return all runs of several."""
        found = cls()
        listed = [each.folded() for each in several]
        if listed:
            found._tally = Tally.merged(listed)
        return found

    def folded(self) -> Tally:
        """Sort in what is new; return runs by `group * BUCKETS + bucket of time`."""
        if self._times:
            new = Tally.of(_groups(self._sizes) * BUCKETS + _buckets(self._times))
            self._tally = Tally.merged([self._tally, new]) if len(self._tally.keys) else new
            self._sizes.clear()
            self._times.clear()
        return self._tally

    def by_size(self) -> list[dict[str, Any]]:
        """Return for each size, in order, how many runs there were and what 10, 50 and 90 % of them did not exceed."""
        tally = self.folded()
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


def _percentile_s(buckets: Integers, counts: Integers, percent: float) -> float:
    cumulated = counts.cumsum()
    at = int(cumulated.searchsorted(cumulated[-1] * percent / 100))
    return float(SMALLEST_S * 1.04 ** int(buckets[at]))


def _buckets(times: list[float]) -> Integers:
    clipped = np.clip(times, SMALLEST_S, LARGEST_S)
    return np.ceil(np.log(clipped / SMALLEST_S) / STEP).astype(np.int64)


def _groups(sizes: list[int]) -> Integers:
    """Return the size that stands for each: itself, or the middle of its group."""
    exact = np.array(sizes, dtype=np.int64)
    step = np.left_shift(1, np.maximum(np.log2(np.maximum(exact, 1)).astype(np.int64) - 3, 0))
    return np.where(exact <= EXACT_SIZES, exact, exact // step * step + step // 2)
