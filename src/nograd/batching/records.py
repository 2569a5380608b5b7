"""What a batcher tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nograd.batching.policy import Reason

__all__ = ["BatchRecord", "Statistics"]


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
