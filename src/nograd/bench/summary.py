"""Evaluate recorded requests: percentiles, rates with their intervals, errors. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any

import numpy as np

from nograd.bench.samples import TIMED_OUT, Samples, name_of
from nograd.core.tensors import Array

__all__ = ["LATE_S", "PERCENTILES", "Rate", "Summary", "histogram", "percentile", "rate_of", "summarise"]

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}

LATE_S = 0.005
"""A request is late if the generator handled it this many seconds after its due time: the generator was behind, not the
server."""

SLICES, STUDENT_95 = 10, 2.262
"""Number of time slices for the interval of a rate, and the 97.5 % quantile of Student's t with one degree of freedom less."""

BUCKETS_PER_DECADE = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """Responses per second, and the interval that contains the true mean with 95 %, by the method of batch means."""

    per_s: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Measurements of one load. Latencies are in seconds from the due time of a request."""

    label: str
    """`16 clients`, or `200/s poisson`."""

    offered_per_s: float | None
    """Offered requests per second; None in a closed loop, which has no fixed rate."""

    seconds: float
    requests: int
    """Number of requests that were due within those seconds."""

    answered: int
    """Number of responses with status 200."""

    errors: Mapping[str, int]
    """Number of other requests by outcome."""

    rate: Rate
    """Rate of responses with status 200."""

    num_samples: int
    """Number of latencies below: of responses with status 200, and of timeouts, which count with the time that they waited."""

    percentiles: Mapping[str, float | None]
    """None if there are too few samples: p99.9 needs 1,000."""

    mean_s: float | None
    max_s: float | None
    late: int
    """Number of requests that the generator handled more than 5 ms after their due time."""

    latest_s: float
    """The largest such delay, in seconds."""

    sent_bytes: int
    received_bytes: int
    """Bytes of the whole run, including warm-up and headers."""

    buckets: Sequence[tuple[float, int]] = field(default=())
    """Upper end in seconds -> samples at or below it and above the previous one; ten buckets per power of ten."""

    is_partial: bool = False
    """True if Ctrl-C ended the load early."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists."""
        rate = {"per_s": self.rate.per_s, "low": self.rate.low, "high": self.rate.high}
        latency = {
            "samples": self.num_samples, **{f"{name}_s": value for name, value in self.percentiles.items()},
            "max_s": self.max_s, "mean_s": self.mean_s, "histogram": [list(each) for each in self.buckets],
        }  # fmt: skip
        return {
            "load": self.label, "offered_per_s": self.offered_per_s, "seconds": self.seconds, "requests": self.requests,
            "answered": self.answered, "errors": dict(self.errors), "rate": rate, "latency": latency,
            "late": {"requests": self.late, "worst_s": self.latest_s},
            "bytes": {"sent": self.sent_bytes, "received": self.received_bytes}, "partial": self.is_partial,
        }  # fmt: skip


def percentile(ordered: Sequence[float] | Array, share: float) -> float | None:
    """Return the nearest-rank percentile of sorted values; None if too few values are above it.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.99) is None
    True
    """
    size = len(ordered)
    if size * (1 - share) < 1 - 1e-9:
        return None
    return float(ordered[ceil(size * share - 1e-9) - 1])


def rate_of(done: Sequence[float] | Array, begun: float, ended: float) -> Rate:
    """Return the rate of events per second between two times.

    The time is cut into ten slices. The spread of their counts measures the uncertainty of the rate (batch means: Law,
    Simulation Modeling and Analysis, 5th ed., 9.5.3), because neighbouring responses depend on each other, and slices
    hardly do.
    """
    seconds = ended - begun
    if seconds <= 0:
        return Rate(0.0, 0.0, 0.0)
    counts, _ = np.histogram(np.asarray(done, dtype=float), SLICES, (begun, ended))
    per_s = counts * SLICES / seconds
    mean, half = float(per_s.mean()), STUDENT_95 * float(per_s.std(ddof=1)) / sqrt(SLICES)
    return Rate(mean, max(mean - half, 0.0), mean + half)


def histogram(seconds: Array) -> list[tuple[float, int]]:
    """Return counts by upper end, ten buckets per power of ten, from the first to the last bucket that is not empty."""
    if not len(seconds):
        return []
    steps = np.ceil(np.log10(np.maximum(seconds, 1e-9)) * BUCKETS_PER_DECADE - 1e-9).astype(int)
    first = int(steps.min())
    return [(10 ** ((first + at) / BUCKETS_PER_DECADE), int(count)) for at, count in enumerate(np.bincount(steps - first))]


def summarise(
    samples: Samples, begun: float, ended: float, *, label: str, offered_per_s: float | None = None, is_partial: bool = False
) -> Summary:
    """Return the measurements between two times.

    Latencies are of the requests that were due in that time, independent of their response times. The rate is of the
    responses that arrived in that time, independent of their due times.

    Args:
        samples: all requests, including warm-up and stragglers.
        begun: end of the warm-up.
        ended: end of the measurement.
        label: name of the load.
        offered_per_s: the rate of an open loop.
        is_partial: whether the load ended early.
    """
    due, done, outcome = np.asarray(samples.due), np.asarray(samples.done), np.asarray(samples.outcome)
    within = (due >= begun) & (due < ended)
    ok = outcome == 200
    latencies = np.sort((done - due)[within & (ok | (outcome == TIMED_OUT))])
    lateness = (np.asarray(samples.started) - due)[within]
    return Summary(
        label, offered_per_s, ended - begun, int(within.sum()), int((within & ok).sum()),
        {name_of(int(each)): count for each, count in sorted(Counter(outcome[within & ~ok].tolist()).items())},
        rate_of(done[ok & (done >= begun) & (done < ended)], begun, ended), len(latencies),
        {name: percentile(latencies, share) for name, share in PERCENTILES.items()},
        float(latencies.mean()) if len(latencies) else None, float(latencies[-1]) if len(latencies) else None,
        int((lateness > LATE_S).sum()), float(lateness.max(initial=0.0)), samples.sent_bytes, samples.received_bytes,
        histogram(latencies), is_partial,
    )  # fmt: skip
