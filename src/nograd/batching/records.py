"""Records of batches and statistics of a batcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nograd.batching.policy import Reason

__all__ = ["BatchRecord", "Execution", "RequestTimes", "RunningBatch", "Statistics"]


class Execution(NamedTuple):
    """One successful call of the model."""

    rows: int
    input_s: float
    """Time for joining and padding the inputs; after retries, it includes failed attempts before this call."""

    infer_s: float
    """Time in the model's `run`."""

    output_s: float
    """Time for splitting the outputs after the batch's last call."""


@dataclass(slots=True)
class RequestTimes:
    """Times of one request in the batcher, in seconds; set when its answer is ready. All 0 before.

    For requests that were split into parts, these are the times of the last part, and the request waits until that part's batch
    starts.
    """

    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    batch_rows: int = 0
    owner: object = None
    """Opaque tag for the observer of batches."""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One executed batch."""

    rows: int
    requests: int
    reason: Reason
    run_s: float
    """Time for joining, running and splitting, in the device thread."""

    waited_s: tuple[float, ...]
    """Queue time of each part."""

    padding_share: float
    failed: int
    """Number of parts whose rows made the model raise."""

    predicted_s: float = 0.0
    """Run time predicted by the cost curve; 0 without a curve."""

    runs: int = 1
    """Number of calls of the model; above 1 after retries."""

    longest: int = 1
    """Elements of the longest row along the varying dimensions, such as tokens. `rows * longest` elements were computed,
    including padding.
    """

    executions: tuple[Execution, ...] = ()
    """Successful calls."""

    answered_s: tuple[float, ...] = ()
    """Queue times of the requests whose last part was answered by this batch."""

    spent: tuple[RequestTimes, ...] = ()
    """Times of the parts whose requests want them."""


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch that is running on the device."""

    running_s: float
    """Seconds since the batch started."""

    predicted_s: float
    """Run time predicted by the cost curve; 0 without a curve."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the batcher was created, and its current contents. Requests are counted by their queued parts."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    refused: int = 0
    """Requests rejected on arrival: the queue was full, or they would miss their deadline."""

    displaced: int = 0
    """Parts removed from the queue to make room for a higher priority."""

    expired: int = 0
    """Requests that missed their deadline."""

    cancelled: int = 0
    """Requests abandoned by their callers."""

    failed: int = 0
    """Parts that made the model raise."""

    queue_rows: int = 0
    running_rows: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Number of batches by release reason."""
