"""The store of a model's finished requests and batches. Time is an argument.

Each finished request and each finished batch is recorded once, by appending it to a list. The lists are summed up when a second
is over, when they are long, or when a view reads them: Prometheus' metrics (`metrics`), Triton's statistics (`statistics`) and
the live page (`live`).
"""

from __future__ import annotations

from nograd.batching import BatchRecord
from nograd.server.telemetry.minute import FinishedBatch, Minute
from nograd.server.telemetry.totals import Totals

__all__ = ["FOLD_AT", "ModelStore"]

FOLD_AT = 1024
"""Maximum requests or batches in a list before it is summed up."""


class ModelStore:
    """Requests and batches of one version of a model."""

    __slots__ = ("_batches", "_latencies", "_minute", "_second", "_totals", "last")

    def __init__(self) -> None:
        self._totals = Totals()
        self._minute = Minute()
        self._second = 0
        """The second that the lists belong to."""
        self._latencies: list[float] = []
        self._batches: list[FinishedBatch] = []
        self.last: float | None = None
        """Time of the last answer, on the caller's clock."""

    @property
    def totals(self) -> Totals:
        """Everything since the start."""
        self._add_up()
        return self._totals

    @property
    def minute(self) -> Minute:
        """The last minute."""
        self._add_up()
        return self._minute

    def note_request(self, now: float, latency_s: float) -> None:
        """Record one answered request."""
        if int(now) != self._second or len(self._latencies) >= FOLD_AT:
            self._turn(now)
        self._latencies.append(latency_s)
        self.last = now

    def note_error(self, now: float, status: int, seconds: float, error: str) -> None:
        """Record one failed request."""
        self._turn(now)
        self._totals.note_error(status, seconds)
        self._minute.note_error(now, status, error)

    def note_batch(self, now: float, record: BatchRecord, queue_rows: int, size: int) -> None:
        """Record one batch.

        Args:
            now: end of the batch.
            record: record of the batch.
            queue_rows: rows in the queue.
            size: size of the batch in the unit of the cost curve.
        """
        if int(now) != self._second or len(self._batches) >= FOLD_AT:
            self._turn(now)
        self._batches.append(FinishedBatch(record, queue_rows, size))

    def _turn(self, now: float) -> None:
        self._add_up()
        self._second = int(now)

    def _add_up(self) -> None:
        if not self._latencies and not self._batches:
            return
        second, totals = self._minute.at(self._second), self._totals
        second.note_answers(self._latencies)
        totals.note_answers(self._latencies)
        for batch in self._batches:
            second.note_batch(batch)
            totals.note_batch(batch.record)
        self._latencies.clear()
        self._batches.clear()
        totals.fold(FOLD_AT)
