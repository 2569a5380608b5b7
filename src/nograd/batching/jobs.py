"""What a batcher keeps of each part that waits, and of each batch on its way to the device and back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from nograd.batching.collate import padding_share
from nograd.batching.faults import Outcome
from nograd.batching.policy import Reason
from nograd.batching.queue import Waiting
from nograd.batching.records import BatchRecord
from nograd.errors import DeadlineError, DeviceLostError
from nograd.tensors import Batch

__all__ = ["Entry", "Job", "entry_of", "record_of"]


class Entry(Waiting):
    """One part in the queue, and the future that answers it."""

    __slots__ = ("future", "part")

    def __init__(  # noqa: PLR0913, PLR0917  one is made for every request: no keywords
        self,
        part: Batch,
        future: asyncio.Future[Batch],
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


@dataclass(slots=True, eq=False)
class Job:
    """One batch on its way to the device thread and back."""

    entries: Sequence[Entry]
    rows: int
    reason: Reason
    started: float
    done_at: float
    """When it should be finished."""

    predicted_s: float
    outcome: Outcome = field(default_factory=Outcome)
    run_s: float = 0.0
    lost: DeviceLostError | None = None


def entry_of(waiting: Waiting) -> Entry:
    """Return a batcher's own part."""
    return cast("Entry", waiting)  # nobody else fills the queue


def _is_failure(answer: object) -> bool:
    return isinstance(answer, Exception) and not isinstance(answer, DeadlineError)


def record_of(job: Job) -> BatchRecord:
    """Return what is told of a finished batch."""
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
    )
