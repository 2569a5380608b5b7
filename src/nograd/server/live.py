"""What happened in the last minute, second by second, for the live page. No clock of its own: time comes in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np

from nograd.batching import BatchRecord

__all__ = ["Live", "LogHistogram"]

SECONDS = 60

LAST_ERRORS = 8


class LogHistogram:
    """Times in logarithmic buckets of 4 %: a percentile read from it is at most 4 % too high.

    (DDSketch's idea: Masson, Rim and Lee, VLDB 2019, section 2.) `add` only remembers; times are sorted into buckets
    many at once, when somebody asks, so that a request does not pay for being watched.
    """

    __slots__ = ("_counts", "_new", "add", "extend", "maximum", "total")

    STEP = log(1.04)
    SMALLEST_S = 1e-6
    LARGEST_S = 1e6

    def __init__(self) -> None:
        self._new: list[float] = []
        self.add = self._new.append
        """Count one time, in seconds."""
        self.extend = self._new.extend
        """Count several times, in seconds."""
        self._counts: Counter[int] = Counter()
        self.total = 0
        self.maximum = 0.0

    @property
    def counts(self) -> Counter[int]:
        """Times by bucket; bucket b holds those up to `SMALLEST_S * 1.04**b` seconds."""
        if self._new:
            times = np.clip(self._new, self.SMALLEST_S, self.LARGEST_S)
            buckets, counts = np.unique(np.ceil(np.log(times / self.SMALLEST_S) / self.STEP).astype(int), return_counts=True)
            self._counts.update(dict(zip(buckets.tolist(), counts.tolist(), strict=True)))
            self.total += len(self._new)
            self.maximum = max(self.maximum, *self._new)
            self._new.clear()
        return self._counts

    def merge(self, other: LogHistogram) -> None:
        """Count all of the other's times."""
        self._counts.update(other.counts)
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def percentile_ms(self, percent: float) -> float | None:
        """Return the smallest bucket bound that `percent` of the times do not exceed, in milliseconds; None while empty."""
        counts = self.counts
        needed = self.total * percent / 100
        seen = 0
        for bucket in sorted(counts):
            seen += counts[bucket]
            if seen >= needed:
                return min(self.SMALLEST_S * 1.04**bucket, self.maximum) * 1000
        return None


@dataclass(slots=True)
class _Second:
    """One second of one model's life."""

    second: int
    requests: int = 0
    errors: int = 0
    latency: LogHistogram = field(default_factory=LogHistogram)
    wait: LogHistogram = field(default_factory=LogHistogram)
    run: LogHistogram = field(default_factory=LogHistogram)
    batch_rows: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    padding: float = 0.0
    queue_rows: int = 0


class Live:
    """The last minute of one model."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=SECONDS + 1)
        self._errors: deque[tuple[float, int, str]] = deque(maxlen=LAST_ERRORS)

    def note_request(self, now: float, latency_s: float) -> None:
        """Count one answered request."""
        second = self._at(now)
        second.requests += 1
        second.latency.add(latency_s)

    def note_error(self, now: float, status: int, error: str) -> None:
        """Count one request that was answered with an error."""
        self._at(now).errors += 1
        self._errors.appendleft((now, status, error))

    def note_batch(self, now: float, record: BatchRecord, queue_rows: int) -> None:
        """Count one batch."""
        second = self._at(now)
        second.batch_rows[record.rows] += 1
        second.reasons[record.reason] += 1
        second.run.add(record.run_s)
        second.padding += record.padding_share * record.rows
        second.queue_rows = max(second.queue_rows, queue_rows)
        second.wait.extend(record.waited_s)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return series, percentiles and histograms of the last 60 s, as the live page reads them."""
        first = int(now) - SECONDS
        known = {second.second: second for second in self._seconds}
        seconds = [known.get(number, _Second(number)) for number in range(first, int(now))]
        recent = [second for second in self._seconds if second.second >= first]
        rows, reasons = Counter[int](), Counter[str]()
        for second in recent:
            rows.update(second.batch_rows)
            reasons.update(second.reasons)
        total_rows = sum(size * count for size, count in rows.items())
        return {
            "series": _series(seconds),
            "latency": {"count": _merged(recent, "latency").total, **_percentiles(_merged(recent, "latency"))},
            "wait_ms": _percentiles(_merged(recent, "wait")),
            "run_ms": _percentiles(_merged(recent, "run")),
            "batch_rows": sorted(rows.items()),
            "release_reasons": dict(reasons.most_common()),
            "padding_share": sum(second.padding for second in recent) / total_rows if total_rows else None,
            "last_errors": [{"age_s": now - when, "status": status, "error": error} for when, status, error in self._errors],
        }

    def _at(self, now: float) -> _Second:
        second = int(now)
        if not self._seconds or self._seconds[-1].second != second:
            self._seconds.append(_Second(second))
        return self._seconds[-1]


def _merged(seconds: Sequence[_Second], name: str) -> LogHistogram:
    merged = LogHistogram()
    for second in seconds:
        merged.merge(getattr(second, name))
    return merged


def _percentiles(histogram: LogHistogram) -> dict[str, float | None]:
    found = {f"p{percent}_ms": histogram.percentile_ms(percent) for percent in (50, 95, 99)}
    return {**found, "max_ms": histogram.maximum * 1000 if histogram.total else None}


def _series(seconds: Sequence[_Second]) -> dict[str, Any]:
    batches = [sum(second.batch_rows.values()) for second in seconds]
    rows = [sum(size * count for size, count in second.batch_rows.items()) for second in seconds]
    percentiles = {f"p{p}_ms": [second.latency.percentile_ms(p) for second in seconds] for p in (50, 95, 99)}
    return {
        "seconds": SECONDS,
        "requests": [second.requests for second in seconds],
        "errors": [second.errors for second in seconds],
        "rows": rows,
        **percentiles,
        "queue_rows": [second.queue_rows for second in seconds],
        "batch_rows": [row / batch if batch else None for row, batch in zip(rows, batches, strict=True)],
    }
