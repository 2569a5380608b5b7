"""The data of queued parts, and of batches on their way to the device and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import cast

from nograd.batching.collate import merge, padding_share
from nograd.batching.faults import Outcome
from nograd.batching.policy import Reason
from nograd.batching.queue import Waiting
from nograd.batching.records import BatchRecord, Execution, RequestTimes
from nograd.core.tensors import Batch
from nograd.errors import DeadlineError, DeviceLostError
from nograd.runtime.callbacks import call_back

__all__ = ["BatchReply", "Job", "QueueEntry", "SplitReply", "entry_of", "record_of"]


class BatchReply:
    """A callback instead of a future. It is called once in the event loop, in the same iteration in which the result is set.

    Args:
        done: called with the outputs of each part, or with the error; not called after `cancel`.
    """

    __slots__ = ("_cancelled", "_done")

    def __init__(self, done: Callable[[list[Batch] | Exception], None]) -> None:
        self._done: Callable[[list[Batch] | Exception], None] | None = done
        self._cancelled = False

    def done(self) -> bool:
        """Return whether it was answered or cancelled."""
        return self._done is None

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Drop the callback."""
        self._cancelled, self._done = True, None

    def set_result(self, outputs: list[Batch]) -> None:
        """Call back with the outputs."""
        self._call(outputs)

    def set_exception(self, error: Exception) -> None:
        """Call back with the error."""
        self._call(error)

    def _call(self, answer: list[Batch] | Exception) -> None:
        done, self._done = self._done, None
        if done is not None:
            call_back(done, answer)


class SplitReply:
    """The reply to a request that was split into pieces. It completes with the last piece, or fails with the first failing
    piece.

    Args:
        reply: reply of the request.
        counts: number of pieces of each part, in order.
        forget: removes the remaining pieces after a failure.
    """

    __slots__ = ("_counts", "_forget", "_has_failed", "_left", "_outputs", "_reply")

    def __init__(
        self, reply: BatchReply | asyncio.Future[list[Batch]], counts: Sequence[int], forget: Callable[[], None]
    ) -> None:
        self._reply = reply
        self._counts = counts
        self._forget = forget
        self._left = sum(counts)
        self._outputs: list[Batch] = [{}] * self._left
        self._has_failed = False

    def reply(self, position: int) -> BatchReply:
        """Return the reply for the piece at a position."""
        return BatchReply(partial(self._note, position))

    def _note(self, position: int, answer: list[Batch] | Exception) -> None:
        if self._has_failed:
            return
        if isinstance(answer, Exception):
            self._has_failed = True  # further pieces may be answered in this iteration
            asyncio.get_running_loop().call_soon(self._fail, answer)
            return
        (self._outputs[position],) = answer
        self._left -= 1
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        outputs = iter(self._outputs)
        try:
            merged = [merge(list(islice(outputs, count))) for count in self._counts]
        except Exception as error:  # noqa: BLE001  reported to the caller
            self._fail(error)
            return
        if not self._reply.done():
            self._reply.set_result(merged)

    def _fail(self, error: Exception) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)
        self._forget()


class QueueEntry(Waiting):
    """A queued part and its reply."""

    __slots__ = ("follows", "future", "part", "spent")

    def __init__(  # noqa: PLR0913, PLR0917  one is made for every request: no keywords
        self,
        part: Batch,
        future: asyncio.Future[list[Batch]] | BatchReply,
        rows: int,
        arrived: float,
        deadline: float,
        length: int,
        shape: tuple[int, ...],
        priority: int,
        nbytes: int,
    ) -> None:
        self.part = part
        self.future = future
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.length = length
        self.shape = shape
        self.priority = priority
        self.nbytes = nbytes
        self.queued = False
        self.follows = False
        """Whether another part of the same request follows."""
        self.spent: RequestTimes | None = None
        """Receives the times of the part, if requested."""


@dataclass(slots=True, eq=False)
class Job:
    """One batch on its way to the device thread and back."""

    entries: Sequence[QueueEntry]
    rows: int
    reason: Reason
    started: float
    done_at: float
    """Predicted end."""

    predicted_s: float
    outcome: Outcome = field(default_factory=Outcome)
    run_s: float = 0.0
    executions: tuple[Execution, ...] = ()
    answered_s: list[float] = field(default_factory=list)
    lost: DeviceLostError | None = None

    def record_spent(self, spent: RequestTimes, entry: QueueEntry) -> None:
        """Record the times of one of its parts."""
        spent.queue_s = self.started - entry.arrived
        spent.input_s = sum([each.input_s for each in self.executions])
        spent.infer_s = sum([each.infer_s for each in self.executions])
        spent.output_s = sum([each.output_s for each in self.executions])
        spent.batch_rows = self.rows


def entry_of(waiting: Waiting) -> QueueEntry:
    """Cast a queued item to the batcher's own type."""
    return cast("QueueEntry", waiting)  # only the batcher fills the queue


def _is_failure(answer: object) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, DeadlineError)


def record_of(job: Job) -> BatchRecord:
    """Return the record of a finished batch."""
    lengths = [entry.length for entry in job.entries]
    varies = max(lengths) > min(lengths)
    return BatchRecord(
        rows=job.rows,
        requests=len(job.entries),
        reason=job.reason,
        run_s=job.run_s,
        waited_s=tuple([job.started - entry.arrived for entry in job.entries]),
        padding_share=padding_share([entry.rows for entry in job.entries], lengths) if varies else 0.0,
        failed=sum([_is_failure(answer) for answer in job.outcome.answers])
        if job.outcome.runs > 1 or len(job.entries) == 1
        else 0,
        predicted_s=job.predicted_s,
        runs=job.outcome.runs,
        longest=max(lengths),
        executions=job.executions,
        answered_s=tuple(job.answered_s),
        spent=tuple([entry.spent for entry in job.entries if entry.spent is not None]),
    )
