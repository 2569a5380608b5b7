"""One model's part of the live page's data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nograd.server.protocol.datatypes import tensor_metadata
from nograd.server.telemetry.live import describe_minute

if TYPE_CHECKING:
    from nograd.server.models.served import ServedModel

__all__ = ["describe_model", "example_request"]

EXAMPLE_ELEMENTS = 1024
"""Maximum elements of an example that is shown; longer ones, such as images, are not readable."""

LIMITS = ("max_batch_size", "max_wait_ms", "max_queue_rows", "timeout_s")


def describe_model(model: ServedModel) -> dict[str, Any]:
    """Return the live page's data of a model."""
    done, totals, signature = model.batches(), model.store.totals, model.predictor.signature
    metadata = model.metadata()
    return {
        **{name: metadata[name] for name in ("name", "inputs", "outputs")},
        "version": model.version,
        "ready": model.ready,
        **({"state": "lost"} if model.is_lost else {}),
        "backend": model.predictor.backend.name,
        "device": model.predictor.backend.device,
        "batching": signature.batching,
        "batching_reason": signature.reason,
        "size_limits": signature.describe_limits(),
        "independence": None if signature.independence is None else signature.independence.to_json(),
        "example": example_request(model),
        "limits": {**{name: getattr(model.config, name) for name in LIMITS}, "max_batch_size": model.max_batch_size},
        "queue_rows": done.queue_rows,
        "running_rows": done.running_rows,
        "totals": {
            "requests": totals.answered.count,
            "errors": totals.failed.count,
            "rows": done.rows,
            "batches": done.batches,
            "refused": done.refused,
        },
        "cache": None if model.cache is None else model.cache.snapshot(),
        "code": model.threads.snapshot() if model.predictor.has_preprocess or model.predictor.has_postprocess else None,
        "cost": _cost(model),
        **describe_minute(model.store.minute, time.monotonic()),
    }


def example_request(model: ServedModel) -> dict[str, Any] | None:
    """Return the body of an example infer call; None if it would be too long to read."""
    if sum(array.size for array in model.example.values()) > EXAMPLE_ELEMENTS:
        return None
    specs = {spec.name: spec for spec in model.inputs.inputs}
    listed = [(tensor_metadata([specs[name]])[0], array) for name, array in model.example.items()]
    return {"inputs": [{**meta, "shape": list(array.shape), "data": array.ravel().tolist()} for meta, array in listed]}


def _cost(model: ServedModel) -> dict[str, Any] | None:
    """Return the predicted time of a run by its size; None before it is known."""
    curve = model.curve
    if curve is None:
        return None
    source = "measured at the start" if model.predictor.cost is None else "measured for its bundle"
    points = {"sizes": curve.sizes, "ms": [seconds * 1000 for seconds in curve.seconds]}
    return {"unit": curve.unit, "source": source, **points}
