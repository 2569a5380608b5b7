"""The last minute of one model, by second. Pure: time is an argument. The live page shows it."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nograd.batching import BatchRecord
from nograd.server.telemetry.histogram import Histogram, by_size_and_time, by_time

__all__ = ["PERCENTS", "SECONDS", "FinishedBatch", "LastError", "Minute", "SecondCounts"]

SECONDS = 60

LAST_ERRORS = 8

LONGEST_ERROR = 600
"""Maximum characters of an error message, which may quote a client's data."""

PERCENTS = (50, 95, 99)


class FinishedBatch(NamedTuple):
    """A finished batch, for the store."""

    record: BatchRecord
    queue_rows: int
    """Queued rows at its end."""
    size: int
    """Size in the unit of the cost curve."""


def _of_times() -> Histogram[float]:
    return Histogram(by_time)


def _of_runs() -> Histogram[tuple[int, float]]:
    return Histogram(by_size_and_time)


@dataclass(slots=True)
class SecondCounts:
    """Counts of one second of one model."""

    number: int
    requests: int = 0
    errors: int = 0
    faults: int = 0
    latency: Histogram[float] = field(default_factory=_of_times)
    wait: Histogram[float] = field(default_factory=_of_times)
    run: Histogram[float] = field(default_factory=_of_times)
    runs: Histogram[tuple[int, float]] = field(default_factory=_of_runs)
    batch_rows: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    padding: float = 0.0
    queue_rows: int = 0
    percentiles: tuple[float | None, ...] | None = None

    def note_answers(self, latencies: Sequence[float]) -> None:
        """Add the seconds of answered requests."""
        self.requests += len(latencies)
        self.latency.extend(latencies)

    def note_batch(self, batch: FinishedBatch) -> None:
        """Count one batch."""
        record = batch.record
        self.batch_rows[record.rows] += 1
        self.reasons[record.reason] += 1
        self.run.add(record.run_s)
        self.padding += record.padding_share * record.rows
        self.queue_rows = max(self.queue_rows, batch.queue_rows)
        self.wait.extend(record.waited_s)
        if record.runs == 1:
            self.runs.add((batch.size, record.run_s))

    def close(self) -> None:
        """Summarize the second after its end."""
        if self.percentiles is None:
            self.percentiles = tuple(self.latency.percentile_ms(percent) for percent in PERCENTS)
            for histogram in (self.wait, self.run, self.runs):
                _ = histogram.tally


@dataclass(slots=True)
class LastError:
    """Time and number of equal errors."""

    first: float
    last: float
    count: int = 1


class Minute:
    """The seconds of the last minute with requests or batches, and the last errors."""

    def __init__(self) -> None:
        self._seconds: deque[SecondCounts] = deque(maxlen=SECONDS + 1)
        self.errors: OrderedDict[tuple[int, str], LastError] = OrderedDict()
        """Errors by status and message, the newest last."""

    def at(self, number: int) -> SecondCounts:
        """Return the newest second, or start a new one and summarize the one before."""
        if not self._seconds or self._seconds[-1].number != number:
            if self._seconds:
                self._seconds[-1].close()
            self._seconds.append(SecondCounts(number))
        return self._seconds[-1]

    def since(self, number: int) -> list[SecondCounts]:
        """Return the seconds from a number on."""
        return [second for second in self._seconds if second.number >= number]

    def note_error(self, now: float, status: int, error: str) -> None:
        """Record an error with its message; statuses from 500 are server errors."""
        second = self.at(int(now))
        second.errors += 1
        second.faults += status >= 500
        key = (status, error[:LONGEST_ERROR])
        known = self.errors.get(key)
        if known is None:
            self.errors[key] = LastError(now, now)
        else:
            known.last = now
            known.count += 1
        self.errors.move_to_end(key)
        if len(self.errors) > LAST_ERRORS:
            self.errors.popitem(last=False)
