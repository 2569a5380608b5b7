"""The extension statistics: counts and times of one model, in Triton's form; a view of its store.

Specification: Triton, docs/protocol/extension_statistics.md. Definitions:

    success         answered requests; time from the last byte of the body to the encoded response
    fail            requests answered with an error (disconnected clients count as neither)
    queue           requests that ran, from arrival to the start of their batch; and cache hits, with time 0
    compute_input   of requests that ran: joining and padding their batch
    compute_infer   of the same requests: the model's run
    compute_output  of the same requests: splitting the outputs by request
    cache_hit       requests without a row that had to run
    cache_miss      requests with a lookup and at least one row that had to run; time of the lookup

Each request of a batch counts the whole time of the batch. A request that was split into parts counts its last part, and waits
until that part's batch starts. `batch_stats` count runs of the model by rows, as does `execution_count`; `inference_count`
counts rows that ran. Failed runs are not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nograd.server.telemetry.store import ModelStore
from nograd.server.telemetry.totals import ComputeTime, Duration

__all__ = ["LookupCounts", "describe_totals"]


@dataclass(frozen=True, slots=True)
class LookupCounts:
    """A cache's counts of requests that were looked up."""

    hits: int = 0
    hit_s: float = 0.0
    misses: int = 0
    miss_s: float = 0.0


def describe_totals(store: ModelStore, looked: LookupCounts, now: float, epoch_s: float) -> dict[str, Any]:
    """Return the statistics of a model, without its name and version.

    Args:
        store: store of the model.
        looked: counts of the model's cache.
        now: current time, on the clock of the store.
        epoch_s: current time, in seconds since 1970.
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
