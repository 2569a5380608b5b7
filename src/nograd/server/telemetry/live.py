"""The live page's view of a model's last minute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from nograd.server.telemetry.histogram import Histogram, by_size, by_size_and_time, by_time
from nograd.server.telemetry.minute import PERCENTS, SECONDS, Minute, SecondCounts

__all__ = ["describe_minute"]


def describe_minute(minute: Minute, now: float) -> dict[str, Any]:
    """Return series, percentiles and histograms of the last 60 s, in the form of the live page.

    Args:
        minute: last minute of the model.
        now: current time, on the clock of the minute.
    """
    first = int(now) - SECONDS
    recent = minute.since(first)
    latency = _merged(second.latency for second in recent)
    rows, reasons = Counter[int](), Counter[str]()
    for second in recent:
        rows.update(second.batch_rows)
        reasons.update(second.reasons)
    total_rows = sum(size * count for size, count in rows.items())
    return {
        "series": _series(recent, range(first, int(now))),
        "latency": {"count": latency.total, **_percentiles(latency)},
        "wait_ms": _percentiles(_merged(second.wait for second in recent)),
        "run_ms": _percentiles(_merged(second.run for second in recent)),
        "runs": by_size(Histogram.merged(by_size_and_time, (second.runs for second in recent)).tally),
        "batch_rows": sorted(rows.items()),
        "release_reasons": dict(reasons.most_common()),
        "padding_share": sum(second.padding for second in recent) / total_rows if total_rows else None,
        "last_errors": [
            {"age_s": now - each.last, "first_s": now - each.first, "count": each.count, "status": status, "error": error}
            for (status, error), each in reversed(minute.errors.items())
        ],
    }


def _merged(histograms: Iterable[Histogram[float]]) -> Histogram[float]:
    return Histogram.merged(by_time, histograms)


def _percentiles(histogram: Histogram[float]) -> dict[str, float | None]:
    found = {f"p{percent}_ms": histogram.percentile_ms(percent) for percent in PERCENTS}
    return {**found, "max_ms": histogram.maximum * 1000 if histogram.total else None}


def _series(recent: Sequence[SecondCounts], numbers: range) -> dict[str, Any]:
    """Return the counts of each completed second; seconds without requests have no entry."""
    known = {second.number: second for second in recent}
    nothing = SecondCounts(0)
    seconds = [known.get(number, nothing) for number in numbers]
    for second in seconds:
        second.close()
    rows = [sum(size * count for size, count in second.batch_rows.items()) for second in seconds]
    batches = [second.batch_rows.total() for second in seconds]
    latencies = zip(*(second.percentiles or () for second in seconds), strict=True)
    return {
        "seconds": SECONDS,
        "requests": [second.requests for second in seconds],
        "errors": [second.errors for second in seconds],
        "faults": [second.faults for second in seconds],
        "rows": rows,
        **{f"p{percent}_ms": list(values) for percent, values in zip(PERCENTS, latencies, strict=True)},
        "queue_rows": [second.queue_rows for second in seconds],
        "batch_rows": [row / batch if batch else None for row, batch in zip(rows, batches, strict=True)],
    }
