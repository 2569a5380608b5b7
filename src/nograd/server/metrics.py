"""Prometheus metrics. Names end in their unit; times are seconds."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nograd.batching import BatchRecord

__all__ = ["CONTENT_TYPE", "Metrics", "ModelMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TIMES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        label = ("model",)
        self.requests = Counter(
            "nograd_requests", "Infer requests by HTTP status.", ("model", "status"), registry=self.registry
        )
        self.rows = Counter("nograd_rows", "Rows run.", label, registry=self.registry)
        self.latency = Histogram(
            "nograd_request_seconds", "From body read to answer encoded.", label, buckets=TIMES_S, registry=self.registry
        )
        self.queue = Histogram(
            "nograd_queue_seconds", "Wait of a part for its batch.", label, buckets=TIMES_S, registry=self.registry
        )
        self.run = Histogram("nograd_run_seconds", "One batch on the device.", label, buckets=TIMES_S, registry=self.registry)
        self.batch_rows = Histogram("nograd_batch_rows", "Rows in a batch.", label, buckets=ROWS, registry=self.registry)
        self.padding = Histogram(
            "nograd_padding_ratio", "Share of a batch that is padding.", label, buckets=SHARES, registry=self.registry
        )
        self.batches = Counter(
            "nograd_batches", "Batches by why they were released.", ("model", "reason"), registry=self.registry
        )
        self.queue_rows = Gauge("nograd_queue_rows", "Rows that wait now.", label, registry=self.registry)
        self.ready = Gauge("nograd_model_ready", "1 when the model answers.", label, registry=self.registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics of one model, its label bound once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._requests = metrics.requests
        self._batches = metrics.batches
        self._model = model
        self._answered = metrics.requests.labels(model, "200")
        self._rows = metrics.rows.labels(model)
        self._latency = metrics.latency.labels(model)
        self._queue = metrics.queue.labels(model)
        self._run = metrics.run.labels(model)
        self._batch_rows = metrics.batch_rows.labels(model)
        self._padding = metrics.padding.labels(model)
        self.queue_rows = metrics.queue_rows.labels(model)
        self.ready = metrics.ready.labels(model)

    def note_request(self, latency_s: float) -> None:
        """Count one answered request."""
        self._answered.inc()
        self._latency.observe(latency_s)

    def note_error(self, status: int) -> None:
        """Count one request that was answered with an error."""
        self._requests.labels(self._model, str(status)).inc()

    def note_batch(self, record: BatchRecord) -> None:
        """Count one batch."""
        self._batches.labels(self._model, record.reason).inc()
        self._rows.inc(record.rows)
        self._run.observe(record.run_s)
        self._batch_rows.observe(record.rows)
        self._padding.observe(record.padding_share)
        for waited_s in record.waited_s:
            self._queue.observe(waited_s)
