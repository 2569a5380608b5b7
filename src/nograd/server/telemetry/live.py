"""What happened in the last minute, second by second, for the live page. No clock of its own: time comes in.

A request only appends to the second that it falls into. A second that is over is summed up once, and what it holds is then
as small as it will be looked at; what the page asks for is put together of these sums, however much traffic there was.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nograd.batching import BatchRecord
from nograd.server.telemetry.histogram import LogHistogram, RunTimes

__all__ = ["Live"]

SECONDS = 60

LAST_ERRORS = 8

LONGEST_ERROR = 600
"""Characters kept of an error's sentence: it may quote what a client sent."""

PERCENTS = (50, 95, 99)


@dataclass(slots=True)
class _Second:
    """One second of one model's life."""

    second: int
    requests: int = 0
    errors: int = 0
    faults: int = 0
    latency: LogHistogram = field(default_factory=LogHistogram)
    wait: LogHistogram = field(default_factory=LogHistogram)
    run: LogHistogram = field(default_factory=LogHistogram)
    runs: RunTimes = field(default_factory=RunTimes)
    batch_rows: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    padding: float = 0.0
    queue_rows: int = 0
    percentiles: tuple[float | None, ...] | None = None

    def close(self) -> None:
        """Sum up: the second is over."""
        if self.percentiles is None:
            self.percentiles = tuple(self.latency.percentile_ms(percent) for percent in PERCENTS)
            self.wait.folded()
            self.run.folded()
            self.runs.folded()


@dataclass(slots=True)
class _Error:
    """When equal errors came, and how many."""

    first: float
    last: float
    count: int = 1


class Live:
    """The last minute of one model."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=SECONDS + 1)
        self._errors: OrderedDict[tuple[int, str], _Error] = OrderedDict()

    def note_request(self, now: float, latency_s: float) -> None:
        """Count one answered request."""
        second = self._at(now)
        second.requests += 1
        second.latency.add(latency_s)

    def note_error(self, now: float, status: int, error: str) -> None:
        """Count one request that was answered with an error; from status 500 on it is the server's fault."""
        second = self._at(now)
        second.errors += 1
        second.faults += status >= 500
        key = (status, error[:LONGEST_ERROR])
        known = self._errors.get(key)
        if known is None:
            self._errors[key] = _Error(now, now)
        else:
            known.last = now
            known.count += 1
        self._errors.move_to_end(key)
        if len(self._errors) > LAST_ERRORS:
            self._errors.popitem(last=False)

    def note_batch(self, now: float, record: BatchRecord, queue_rows: int, size: int) -> None:
        """Count one batch; its size in the unit of the cost curve."""
        second = self._at(now)
        second.batch_rows[record.rows] += 1
        second.reasons[record.reason] += 1
        second.run.add(record.run_s)
        second.padding += record.padding_share * record.rows
        second.queue_rows = max(second.queue_rows, queue_rows)
        second.wait.extend(record.waited_s)
        if record.runs == 1:
            second.runs.add(size, record.run_s)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return series, percentiles and histograms of the last 60 s, as the live page reads them."""
        first = int(now) - SECONDS
        recent = [second for second in self._seconds if second.second >= first]
        latency = LogHistogram.merged(second.latency for second in recent)
        rows, reasons = Counter[int](), Counter[str]()
        for second in recent:
            rows.update(second.batch_rows)
            reasons.update(second.reasons)
        total_rows = sum(size * count for size, count in rows.items())
        return {
            "series": _series(recent, range(first, int(now))),
            "latency": {"count": latency.total, **_percentiles(latency)},
            "wait_ms": _percentiles(LogHistogram.merged(second.wait for second in recent)),
            "run_ms": _percentiles(LogHistogram.merged(second.run for second in recent)),
            "runs": RunTimes.merged(second.runs for second in recent).by_size(),
            "batch_rows": sorted(rows.items()),
            "release_reasons": dict(reasons.most_common()),
            "padding_share": sum(second.padding for second in recent) / total_rows if total_rows else None,
            "last_errors": [
                {"age_s": now - each.last, "first_s": now - each.first, "count": each.count, "status": status, "error": error}
                for (status, error), each in reversed(self._errors.items())
            ],
        }

    def _at(self, now: float) -> _Second:
        second = int(now)
        if not self._seconds or self._seconds[-1].second != second:
            if self._seconds:
                self._seconds[-1].close()
            self._seconds.append(_Second(second))
        return self._seconds[-1]


def _percentiles(histogram: LogHistogram) -> dict[str, float | None]:
    found = {f"p{percent}_ms": histogram.percentile_ms(percent) for percent in PERCENTS}
    return {**found, "max_ms": histogram.maximum * 1000 if histogram.total else None}


def _series(recent: Sequence[_Second], numbers: range) -> dict[str, Any]:
    """Return what each second held that is over; nothing where nothing happened."""
    known = {second.second: second for second in recent}
    nothing = _Second(0)
    seconds = [known.get(number, nothing) for number in numbers]
    for second in seconds:
        second.close()
    rows = [sum(size * count for size, count in second.batch_rows.items()) for second in seconds]
    batches = [second.batch_rows.total() for second in seconds]
    latencies = zip(*(second.percentiles or () for second in seconds), strict=True)
    return {
        "seconds": SECONDS,
        "requests": [second.requests for second in seconds],
        "errors": [second.errors for second in seconds],
        "faults": [second.faults for second in seconds],
        "rows": rows,
        **{f"p{percent}_ms": list(values) for percent, values in zip(PERCENTS, latencies, strict=True)},
        "queue_rows": [second.queue_rows for second in seconds],
        "batch_rows": [row / batch if batch else None for row, batch in zip(rows, batches, strict=True)],
    }
