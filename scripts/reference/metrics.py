"""Every metric, as a server that has answered a request, and refused one, shows them."""

from __future__ import annotations

import asyncio

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nograd import Backend, Batch, Predictor, Signature, TensorSpec
from nograd.errors import NogradError
from nograd.server.call import Call
from nograd.server.models.service import InferenceService
from nograd.server.protocol.statuses import status_of
from nograd.server.settings.definition import ServeConfig
from nograd.server.workers.merging import of_workers
from scripts.reference.tables import MADE, WIDE, table

__all__ = ["families", "metrics"]


class _Same(Backend):
    """Answers `x` FP32 [-1, 1] with itself."""

    name, device = "same", "cpu"
    signature = Signature(
        (TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),), reason="rows are independent"
    )

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"]}


GOOD = b'{"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}'


async def _scrape() -> str:
    service = InferenceService(ServeConfig())
    model = service.add("same", Predictor(_Same()))
    await service.start()
    for body in (GOOD, b"{}"):
        call, status = Call(service, "http", "POST", "/v2/models/same/infer"), 200
        try:
            await model.infer(call, body)
        except NogradError as error:
            call.error, status = error, status_of(error)
        call.finish(status)
    text = service.metrics_text().decode()
    await service.stop()
    return text


def families() -> list[Metric]:
    """Return every metric with its samples; when a counter began is no metric of its own."""
    found = text_string_to_metric_families(asyncio.run(_scrape()) + of_workers(2, (0, 1), {}))
    return [family for family in found if not family.name.endswith("_created")]


def metrics() -> str:
    """Return the page."""
    found = families()
    rows = ([f"`{_name(each)}`", each.type, _labels(each), each.documentation] for each in found)
    bounds = ([f"`{each.name}`", _bounds(each)] for each in found if each.type == "histogram")
    return f"""{WIDE}{MADE}
# Metrics

`/metrics` has them in Prometheus' text format. Times are in seconds. A counter's name ends in `_total`, and `_created` beside
it says since when it counts; a histogram has `_bucket`, `_sum` and `_count`. For a dashboard see
[operation](../operations.md#metrics).

{table(["metric", "kind", "labels", "tells"], rows)}
## Buckets

{table(["histogram", "upper bounds"], bounds)}"""


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> str:
    found = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return ", ".join(f"`{label}`" for label in found)


def _bounds(family: Metric) -> str:
    return ", ".join(dict.fromkeys(f"{float(sample.labels['le']):g}" for sample in family.samples if "le" in sample.labels))
