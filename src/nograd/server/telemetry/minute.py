"""The last minute of one model, second by second; pure: time comes in. The live page is a view of it."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nograd.batching import BatchRecord
from nograd.server.telemetry.histogram import Histogram, by_size_and_time, by_time

__all__ = ["PERCENTS", "SECONDS", "FinishedBatch", "LastError", "Minute", "Second"]

SECONDS = 60

LAST_ERRORS = 8

LONGEST_ERROR = 600
"""Characters kept of an error's sentence: it may quote what a client sent."""

PERCENTS = (50, 95, 99)


class FinishedBatch(NamedTuple):
    """A batch as the store gets it."""

    record: BatchRecord
    queue_rows: int
    """Rows that waited when it ended."""
    size: int
    """In the unit of the cost curve."""


def _of_times() -> Histogram[float]:
    return Histogram(by_time)


def _of_runs() -> Histogram[tuple[int, float]]:
    return Histogram(by_size_and_time)


@dataclass(slots=True)
class Second:
    """One second of one model's life."""

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
        """Count answered requests by their seconds."""
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
        """Sum up: the second is over."""
        if self.percentiles is None:
            self.percentiles = tuple(self.latency.percentile_ms(percent) for percent in PERCENTS)
            for histogram in (self.wait, self.run, self.runs):
                _ = histogram.tally


@dataclass(slots=True)
class LastError:
    """When equal errors came, and how many."""

    first: float
    last: float
    count: int = 1


class Minute:
    """The seconds of the last minute that had requests or batches, and the last errors."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=SECONDS + 1)
        self.errors: OrderedDict[tuple[int, str], LastError] = OrderedDict()
        """By status and sentence, the newest last."""

    def at(self, number: int) -> Second:
        """Return a second, the newest or a new one; the one before it is summed up."""
        if not self._seconds or self._seconds[-1].number != number:
            if self._seconds:
                self._seconds[-1].close()
            self._seconds.append(Second(number))
        return self._seconds[-1]

    def since(self, number: int) -> list[Second]:
        """Return the seconds from a number on."""
        return [second for second in self._seconds if second.number >= number]

    def note_error(self, now: float, status: int, error: str) -> None:
        """Note an error with its sentence; from status 500 on it is the server's fault."""
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
