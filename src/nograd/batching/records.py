"""What a batcher tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nograd.batching.policy import Reason

__all__ = ["BatchRecord", "Execution", "RunningBatch", "Spent", "Statistics"]


class Execution(NamedTuple):
    """One call of the model that succeeded."""

    rows: int
    input_s: float
    """Joining and padding what it was given; where a batch was run again in pieces, also what failed before this call."""

    infer_s: float
    """In the model's `run`."""

    output_s: float
    """Giving each part its own rows, behind the batch's last call."""


@dataclass(slots=True)
class Spent:
    """Where one request's time went in the batcher, in seconds; filled in when its answer is there. All 0 before.

    Of a request that was cut into parts it is the last part's: until that one's batch began, the request waited.
    """

    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    batch_rows: int = 0
    owner: object = None
    """Whose time it is, for who hears of batches."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch as it was run."""

    rows: int
    requests: int
    reason: Reason
    run_s: float
    """Joining, running and parting, in the device thread."""

    waited_s: tuple[float, ...]
    """How long each part waited in the queue."""

    padding_share: float
    failed: int
    """Parts whose rows made the model raise."""

    predicted_s: float = 0.0
    """What the cost curve said of `run_s`; 0 where there is none."""

    runs: int = 1
    """Times that the model was called; more than 1 where the batch failed."""

    longest: int = 1
    """Elements of its longest row along what varies, such as tokens; `rows * longest` was computed, padding included."""

    executions: tuple[Execution, ...] = ()
    """The calls that succeeded."""

    answered_s: tuple[float, ...] = ()
    """How long each request waited whose last part was answered with this batch."""

    told: tuple[Spent, ...] = ()
    """Of the parts whose requests want to know where their time went."""


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch that is on the device now."""

    running_s: float
    """Since it was handed over."""

    predicted_s: float
    """What the cost curve says; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a batcher did since it was made, and what it holds now. Requests are counted in parts, as they are queued."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    refused: int = 0
    """Requests that were not let in: the queue had no room, or they would have been late."""

    displaced: int = 0
    """Parts that left the queue to make room for one of a higher class."""

    expired: int = 0
    """Answered that they are late."""

    cancelled: int = 0
    """Left by their callers."""

    failed: int = 0
    """Made the model raise."""

    queue_rows: int = 0
    running_rows: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Batches by release reason."""
