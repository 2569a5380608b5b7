"""The extension statistics: counts and times of one model, in Triton's form; a view of its store.

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

from dataclasses import dataclass
from typing import Any

from nograd.server.telemetry.store import ModelStore
from nograd.server.telemetry.totals import ComputeTime, Duration

__all__ = ["Looked", "describe_totals"]


@dataclass(frozen=True, slots=True)
class Looked:
    """A cache's counts of requests that were looked up."""

    hits: int = 0
    hit_s: float = 0.0
    misses: int = 0
    miss_s: float = 0.0


def describe_totals(store: ModelStore, looked: Looked, now: float, epoch_s: float) -> dict[str, Any]:
    """Return the statistics of a model, without its name and version.

    Args:
        store: of the model.
        looked: counts of its cache.
        now: seconds, on the clock of the store.
        epoch_s: seconds since 1970, now.
    """
    totals, last = store.totals, store.last
    return {
        "last_inference": 0 if last is None else round(1000 * (epoch_s - (now - last))),
        "inference_count": sum(rows * time.infer.count for rows, time in totals.by_rows.items()),
        "execution_count": sum(time.infer.count for time in totals.by_rows.values()),
        "inference_stats": {
            "success": _in_ns(totals.answered),
            "fail": _in_ns(totals.failed),
            "queue": _in_ns(Duration(totals.queue.count + looked.hits, totals.queue.seconds)),
            **_compute(totals.compute),
            "cache_hit": _in_ns(Duration(looked.hits, looked.hit_s)),
            "cache_miss": _in_ns(Duration(looked.misses, looked.miss_s)),
        },
        "batch_stats": [{"batch_size": rows, **_compute(totals.by_rows[rows])} for rows in sorted(totals.by_rows)],
    }


def _in_ns(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": round(duration.seconds * 1e9)}


def _compute(time: ComputeTime) -> dict[str, dict[str, int]]:
    parts = {"input": time.input, "infer": time.infer, "output": time.output}
    return {f"compute_{name}": _in_ns(duration) for name, duration in parts.items()}
