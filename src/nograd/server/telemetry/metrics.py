"""Prometheus metrics. Names end in their unit; times are seconds.

What happens for every request only appends to a list; it is sorted into buckets when Prometheus asks, many at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from nograd import __version__
from nograd.batching import BatchRecord

__all__ = ["CONTENT_TYPE", "Metrics", "ModelMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

TIMES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)

RATIOS = (0.25, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)

FOLD_AT = 4096
"""Values kept before they are sorted into buckets, if nobody asks earlier."""


class _Buckets:
    """Values of one model, counted by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self.new: list[float] = []

    def fold(self) -> None:
        """Sort the new values into buckets; a value on a bound belongs below it."""
        if self.new:
            self._counts += np.bincount(np.searchsorted(self._bounds, self.new), minlength=len(self._counts))
            self._sum += sum(self.new)
            self.new.clear()

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Return cumulative counts by bound, as Prometheus has them, and the sum of all values."""
        self.fold()
        names = [*map(str, self._bounds.tolist()), "+Inf"]
        return list(zip(names, np.cumsum(self._counts).tolist(), strict=True)), self._sum


class _Histogram(Collector):
    """A Prometheus histogram, by model, that is filled in bulk."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds = bounds
        self._models: dict[str, _Buckets] = {}
        registry.register(self)

    def of(self, model: str) -> _Buckets:
        """Return the buckets of one model."""
        return self._models.setdefault(model, _Buckets(self._bounds))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yield the histogram as prometheus_client wants it."""
        family = HistogramMetricFamily(self._name, self._text, labels=("model",))
        for model, buckets in self._models.items():
            counts, total = buckets.read()
            family.add_metric((model,), counts, total)
        yield family


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        model = ("model",)
        self.requests = Counter("nograd_requests", "Infer requests by HTTP status.", ("model", "status"), registry=registry)
        self.rows = Counter("nograd_rows", "Rows run.", model, registry=registry)
        self.batches = Counter("nograd_batches", "Batches by why they were released.", ("model", "reason"), registry=registry)
        self.queue_rows = Gauge("nograd_queue_rows", "Rows that wait now.", model, registry=registry)
        self.ready = Gauge("nograd_model_ready", "1 when the model answers.", model, registry=registry)
        self.cached = Counter(
            "nograd_cache_rows",
            "Rows looked up, by whether the model had to run them.",
            ("model", "outcome"),
            registry=registry,
        )
        self.saved = Counter(
            "nograd_cache_saved_seconds", "Seconds of the device that kept answers saved.", model, registry=registry
        )
        self.cache_on = Gauge(
            "nograd_cache_on", "0 while the cache steps aside, because it costs more than it saves.", model, registry=registry
        )
        self.cache_bytes = Gauge("nograd_cache_bytes", "Bytes of kept answers, of all models.", registry=registry)
        self.latency = _Histogram("nograd_request_seconds", "From body read to answer encoded.", TIMES_S, registry)
        self.queue = _Histogram("nograd_queue_seconds", "Wait of a part for its batch.", TIMES_S, registry)
        self.run = _Histogram("nograd_run_seconds", "One batch on the device.", TIMES_S, registry)
        self.batch_rows = _Histogram("nograd_batch_rows", "Rows in a batch.", ROWS, registry)
        self.padding = _Histogram("nograd_padding_ratio", "Share of a batch that is padding.", SHARES, registry)
        self.cost_error = _Histogram(
            "nograd_cost_error_ratio",
            "Time of a run, divided by what was predicted: 1 is right, above is slower.",
            RATIOS,
            registry,
        )
        self.backlog = Gauge("nograd_backlog_seconds", "Time that what waits now should take.", model, registry=registry)
        self.compilations = Counter(
            "nograd_compilations", "Graphs compiled since the warm-up: clients waited for each.", model, registry=registry
        )
        self.code_stuck = Gauge(
            "nograd_code_threads_stuck",
            "Threads that pre- or postprocessing has occupied for too long.",
            model,
            registry=registry,
        )
        self.code_overdue = Counter(
            "nograd_code_overdue", "Requests that timed out in pre- or postprocessing.", model, registry=registry
        )
        self.live = Gauge("nograd_live", "0 where only a restart helps: a device hangs or is lost.", registry=registry)
        self.dropped = Counter("nograd_access_log_dropped", "Lines of the access log that were dropped.", registry=registry)
        self.log_dropped = Counter(
            "nograd_log_dropped",
            "Lines of the log that stderr did not take.",
            registry=registry,
        )
        build = Gauge("nograd_build_info", "Always 1; the version is in a label.", ("version",), registry=registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    def refresh_model(self, model: str, *, ready: bool, queue_rows: int, backlog_s: float) -> None:
        """Bring up to date how a model stands, all versions of it together.

        Args:
            model: its name.
            ready: whether one of them answers.
            queue_rows: that wait now.
            backlog_s: seconds that what waits should take.
        """
        self.ready.labels(model).set(ready)
        self.queue_rows.labels(model).set(queue_rows)
        self.backlog.labels(model).set(backlog_s)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._answered = 0
        self._cached: dict[str, float] = {"hit": 0, "miss": 0, "skipped": 0, "saved_s": 0}
        self._latency = metrics.latency.of(model)
        self._queue = metrics.queue.of(model)
        self._run = metrics.run.of(model)
        self._batch_rows = metrics.batch_rows.of(model)
        self._padding = metrics.padding.of(model)
        self._cost_error = metrics.cost_error.of(model)
        self._compilations = 0
        self._overdue = 0

    def note_request(self, latency_s: float) -> None:
        """Count one answered request."""
        self._answered += 1
        self._latency.new.append(latency_s)

    def note_error(self, status: int) -> None:
        """Count one request that was answered with an error."""
        self._metrics.requests.labels(self._model, str(status)).inc()

    def note_batch(self, record: BatchRecord) -> None:
        """Count one batch."""
        self._metrics.batches.labels(self._model, record.reason).inc()
        self._metrics.rows.labels(self._model).inc(record.rows)
        self._run.new.append(record.run_s)
        self._batch_rows.new.append(record.rows)
        self._padding.new.append(record.padding_share)
        self._queue.new.extend(record.waited_s)
        if record.predicted_s and record.runs == 1:  # a batch that failed tells nothing of speed
            self._cost_error.new.append(record.run_s / record.predicted_s)
        if len(self._latency.new) + len(self._queue.new) > FOLD_AT:
            for buckets in (self._latency, self._queue, self._run, self._batch_rows, self._padding, self._cost_error):
                buckets.fold()

    def refresh(self, compilations: int) -> None:
        """Bring up to date what is only worked out when somebody asks.

        Args:
            compilations: graphs compiled since the warm-up.
        """
        self._metrics.requests.labels(self._model, "200").inc(self._answered)
        self._answered = 0
        self._metrics.compilations.labels(self._model).inc(max(0, compilations - self._compilations))
        self._compilations = compilations

    def refresh_code(self, *, stuck: int, overdue: int) -> None:
        """Update the metrics of pre- and postprocessing.

        Args:
            stuck: threads that count as stuck.
            overdue: requests since the start that timed out while their code ran.
        """
        self._metrics.code_stuck.labels(self._model).set(stuck)
        self._metrics.code_overdue.labels(self._model).inc(max(0, overdue - self._overdue))
        self._overdue = overdue

    def refresh_cache(self, cache: Mapping[str, Any]) -> None:
        """Bring up to date what the cache counts by itself; see `ModelCache.snapshot`."""
        now = {
            "hit": cache["hits"],
            "miss": cache["misses"],
            "skipped": cache["skipped"],
            "saved_s": cache["saved_ms"] / 1000,
        }
        for outcome in ("hit", "miss", "skipped"):
            self._metrics.cached.labels(self._model, outcome).inc(max(0, now[outcome] - self._cached[outcome]))
        self._metrics.saved.labels(self._model).inc(now["saved_s"] - self._cached["saved_s"])
        self._metrics.cache_on.labels(self._model).set(cache["is_on"])
        self._metrics.cache_bytes.set(cache["bytes"])
        self._cached = now
