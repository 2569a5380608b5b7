"""Counts of one model since its start; pure. Prometheus' metrics and Triton's statistics are views of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from nograd.batching import BatchRecord, Execution
from nograd.server.telemetry.histogram import Histogram, by_bound

__all__ = ["RATIOS", "ROWS", "SHARES", "TIMES_S", "ComputeTime", "Duration", "Totals"]

TIMES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)

_TIMES, _ROWS, _SHARES, _RATIOS = map(by_bound, (TIMES_S, ROWS, SHARES, RATIOS))


@dataclass(slots=True)
class Duration:
    """Count and total seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, other: Duration) -> None:
        """Add the values of another one."""
        self.count += other.count
        self.seconds += other.seconds


@dataclass(slots=True)
class ComputeTime:
    """The three times of executed requests."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def note(self, executions: Iterable[Execution], times: int = 1) -> None:
        """Add the times of the executions, for a number of requests."""
        for each in executions:
            self.input.seconds += times * each.input_s
            self.infer.seconds += times * each.infer_s
            self.output.seconds += times * each.output_s
        for duration in (self.input, self.infer, self.output):
            duration.count += times

    def add(self, other: ComputeTime) -> None:
        """Add the values of another one."""
        self.input.add(other.input)
        self.infer.add(other.infer)
        self.output.add(other.output)


def _of_times() -> Histogram[float]:
    return Histogram(_TIMES)


@dataclass(slots=True)
class Totals:
    """Totals of requests and batches of one model."""

    answered: Duration = field(default_factory=Duration)
    failed: Duration = field(default_factory=Duration)
    statuses: Counter[int] = field(default_factory=Counter)
    """Failed requests by status."""
    rows: int = 0
    """Rows that were run."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Batches by release reason."""
    queue: Duration = field(default_factory=Duration)
    """Queue time of answered requests."""
    compute: ComputeTime = field(default_factory=ComputeTime)
    """Compute times of answered requests."""
    by_rows: defaultdict[int, ComputeTime] = field(default_factory=partial(defaultdict, ComputeTime))
    """Compute times of runs, by rows."""
    latency: Histogram[float] = field(default_factory=_of_times)
    wait: Histogram[float] = field(default_factory=_of_times)
    run: Histogram[float] = field(default_factory=_of_times)
    batch_rows: Histogram[float] = field(default_factory=lambda: Histogram(_ROWS))
    padding: Histogram[float] = field(default_factory=lambda: Histogram(_SHARES))
    cost_error: Histogram[float] = field(default_factory=lambda: Histogram(_RATIOS))

    def note_answers(self, latencies: Sequence[float]) -> None:
        """Add the seconds of answered requests."""
        self.answered.count += len(latencies)
        self.answered.seconds += sum(latencies)
        self.latency.extend(latencies)

    def note_error(self, status: int, seconds: float) -> None:
        """Count a failed request."""
        self.failed.count += 1
        self.failed.seconds += seconds
        self.statuses[status] += 1

    def note_batch(self, record: BatchRecord) -> None:
        """Count one batch."""
        answered = len(record.answered_s)
        self.rows += record.rows
        self.reasons[record.reason] += 1
        self.queue.count += answered
        self.queue.seconds += sum(record.answered_s)
        self.compute.note(record.executions, answered)
        for execution in record.executions:
            self.by_rows[execution.rows].note((execution,))
        self.wait.extend(record.waited_s)
        self.run.add(record.run_s)
        self.batch_rows.add(record.rows)
        self.padding.add(record.padding_share)
        if record.predicted_s and record.runs == 1:  # the time of a failed batch does not show the speed
            self.cost_error.add(record.run_s / record.predicted_s)

    def fold(self, pending: int) -> None:
        """Sort numbers into buckets if more than the given number is pending."""
        for histogram in (self.latency, self.wait, self.run, self.batch_rows, self.padding, self.cost_error):
            if histogram.pending > pending:
                _ = histogram.tally

    @classmethod
    def merged(cls, several: Sequence[Totals]) -> Totals:
        """Return the sum of several totals."""
        found = cls(
            latency=Histogram.merged(_TIMES, [each.latency for each in several]),
            wait=Histogram.merged(_TIMES, [each.wait for each in several]),
            run=Histogram.merged(_TIMES, [each.run for each in several]),
            batch_rows=Histogram.merged(_ROWS, [each.batch_rows for each in several]),
            padding=Histogram.merged(_SHARES, [each.padding for each in several]),
            cost_error=Histogram.merged(_RATIOS, [each.cost_error for each in several]),
        )
        for each in several:
            found.answered.add(each.answered)
            found.failed.add(each.failed)
            found.statuses.update(each.statuses)
            found.rows += each.rows
            found.reasons.update(each.reasons)
            found.queue.add(each.queue)
            found.compute.add(each.compute)
            for rows, time in each.by_rows.items():
                found.by_rows[rows].add(time)
        return found
