"""The extension statistics: counts and times of one model, in Triton's form. No clock of its own: time comes in.

The text: Triton, docs/protocol/extension_statistics.md. What is counted:

    success         requests that were answered, by whatever way; from their body's last byte to the encoded answer
    fail            requests that were answered with an error (clients that left are neither)
    queue           requests that were run, from their arrival to their batch's beginning; and those that were not: at once
    compute_input   of requests that were run: joining and padding their batch
    compute_infer   of the same: the model's run
    compute_output  of the same: giving each request of the batch its own rows
    cache_hit       requests none of whose rows had to be run for them
    cache_miss      requests that were looked up, and some of whose rows had to be run; the looking up

Each request of a batch counts the batch's whole time. One that was cut into parts counts its last part's: until that one's
batch began, it waited. `batch_stats` count runs of the model, by rows, and so does `execution_count`; `inference_count`
counts rows that were run. What ran and failed is in none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nograd.batching import BatchRecord, Execution

__all__ = ["Looked", "Tally"]

FOLD_AT = 1024
"""Batches kept before they are added up, if nobody asks earlier."""


@dataclass(slots=True)
class _Time:
    """How often, and how long in all."""

    count: int = 0
    seconds: float = 0.0

    def told(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


@dataclass(slots=True)
class _Compute:
    """The three times of what was run."""

    input: _Time = field(default_factory=_Time)
    infer: _Time = field(default_factory=_Time)
    output: _Time = field(default_factory=_Time)

    def add(self, executions: Iterable[Execution], times: int = 1) -> None:
        """Count what took the executions' time, so many times."""
        for time in (self.input, self.infer, self.output):
            time.count += times
        for each in executions:
            self.input.seconds += times * each.input_s
            self.infer.seconds += times * each.infer_s
            self.output.seconds += times * each.output_s

    def told(self) -> dict[str, dict[str, int]]:
        return {f"compute_{name}": getattr(self, name).told() for name in ("input", "infer", "output")}


@dataclass(frozen=True, slots=True)
class Looked:
    """What a cache says of the requests that it was asked for."""

    hits: int = 0
    hit_s: float = 0.0
    misses: int = 0
    miss_s: float = 0.0


class Tally:
    """Counts of one model. What happens for every request only adds to a number; batches are added up when somebody asks."""

    __slots__ = ("_batches", "_compute", "_queue", "_records", "answered", "answered_s", "failed", "failed_s", "last")

    def __init__(self) -> None:
        self.answered = 0
        self.answered_s = 0.0
        self.failed = 0
        self.failed_s = 0.0
        self.last: float | None = None
        """When a request was last answered, on the clock of `told`."""

        self._records: list[BatchRecord] = []
        self._queue = _Time()
        self._compute = _Compute()
        self._batches: defaultdict[int, _Compute] = defaultdict(_Compute)

    def note_batch(self, record: BatchRecord) -> None:
        """Count one batch."""
        self._records.append(record)
        if len(self._records) >= FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        for record in self._records:
            self._queue.count += len(record.answered_s)
            self._queue.seconds += sum(record.answered_s)
            self._compute.add(record.executions, len(record.answered_s))
            for execution in record.executions:
                self._batches[execution.rows].add((execution,))
        self._records.clear()

    def told(self, looked: Looked, now: float, epoch_s: float) -> dict[str, Any]:
        """Return the statistics, without the model's name and version.

        Args:
            looked: what its cache says.
            now: seconds, on the clock of `last`.
            epoch_s: seconds since 1970, now.
        """
        self._fold()
        inferences = {
            "success": _Time(self.answered, self.answered_s),
            "fail": _Time(self.failed, self.failed_s),
            "queue": _Time(self._queue.count + looked.hits, self._queue.seconds),
        }
        cached = {"cache_hit": _Time(looked.hits, looked.hit_s), "cache_miss": _Time(looked.misses, looked.miss_s)}
        return {
            "last_inference": 0 if self.last is None else round(1000 * (epoch_s - (now - self.last))),
            "inference_count": sum(rows * batch.infer.count for rows, batch in self._batches.items()),
            "execution_count": sum(batch.infer.count for batch in self._batches.values()),
            "inference_stats": {
                **{name: time.told() for name, time in inferences.items()},
                **self._compute.told(),
                **{name: time.told() for name, time in cached.items()},
            },
            "batch_stats": [{"batch_size": rows, **self._batches[rows].told()} for rows in sorted(self._batches)],
        }
