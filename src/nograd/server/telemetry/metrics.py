"""Prometheus metrics: a view of the models' stores and of other counts of the server. Names end in their unit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from nograd import __version__
from nograd.server.telemetry.histogram import Histogram
from nograd.server.telemetry.store import ModelStore
from nograd.server.telemetry.totals import RATIOS, ROWS, SHARES, TIMES_S, Totals

__all__ = ["CONTENT_TYPE", "Metrics", "ModelMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Counts: TypeAlias = Callable[[Totals], Iterable[tuple[tuple[str, ...], float]]]
"""Returns the counts of some totals, each with its label values after the model's name."""


class _Stores:
    """The stores of all models by name, and the totals of unloaded versions, so that counters never decrease."""

    def __init__(self) -> None:
        self._stores: dict[str, list[ModelStore]] = {}
        self._unloaded: dict[str, Totals] = {}
        self._read: dict[str, Totals] = {}
        self._created: dict[str, float] = {}

    def add(self, model: str) -> ModelStore:
        """Return a new store for a version of a model."""
        store = ModelStore()
        self._stores.setdefault(model, []).append(store)
        self._created.setdefault(model, time.time())
        return store

    def remove(self, model: str, store: ModelStore) -> None:
        """Keep only the totals of an unloaded version."""
        stores = self._stores[model]
        if store in stores:
            stores.remove(store)
            self._unloaded[model] = Totals.merged([self._unloaded.get(model, Totals()), store.totals])

    def read(self) -> None:
        """Add up the totals that `by_model` returns."""
        self._read = {
            model: Totals.merged([self._unloaded.get(model, Totals()), *(each.totals for each in stores)])
            for model, stores in self._stores.items()
        }

    def by_model(self) -> Iterable[tuple[str, float, Totals]]:
        """Return name, start time and totals of each model."""
        return [(model, self._created[model], totals) for model, totals in self._read.items()]


class _StoredCounter(Collector):
    """A counter of the stores."""

    def __init__(self, name: str, text: str, labels: Sequence[str], counts: Counts, stores: _Stores) -> None:
        self._name, self._text, self._labels = name, text, ("model", *labels)
        self._counts = counts
        self._stores = stores

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Yield the counter for prometheus_client."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for model, created, totals in self._stores.by_model():
            for values, count in self._counts(totals):
                family.add_metric((model, *values), count, created=created)
        yield family


class _StoredHistogram(Collector):
    """A histogram of the stores."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], of: Callable[[Totals], Histogram[float]], stores: _Stores
    ) -> None:
        self._name, self._text = name, text
        self._bounds = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._of = of
        self._stores = stores

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yield the histogram for prometheus_client."""
        family = HistogramMetricFamily(self._name, self._text, labels=("model",))
        for model, _, totals in self._stores.by_model():
            histogram = self._of(totals)
            counts = histogram.cumulative(len(self._bounds) - 1)
            family.add_metric((model,), list(zip(self._bounds, counts, strict=True)), histogram.sum)
        yield family


def _statuses(totals: Totals) -> list[tuple[tuple[str, ...], float]]:
    failed = [((str(status),), float(count)) for status, count in totals.statuses.items()]
    return [(("200",), totals.answered.count), *failed]


def _rows(totals: Totals) -> list[tuple[tuple[str, ...], float]]:
    return [((), totals.rows)] if totals.rows else []


def _reasons(totals: Totals) -> list[tuple[tuple[str, ...], float]]:
    return [((reason,), count) for reason, count in totals.reasons.items()]


class Metrics:
    """All metrics of a server, in a separate registry."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._stores = stores = _Stores()
        model = ("model",)
        registry.register(_StoredCounter("nograd_requests", "Infer requests by HTTP status.", ("status",), _statuses, stores))
        registry.register(_StoredCounter("nograd_rows", "Rows run.", (), _rows, stores))
        registry.register(_StoredCounter("nograd_batches", "Batches by release reason.", ("reason",), _reasons, stores))
        self.queue_rows = Gauge("nograd_queue_rows", "Rows in the queue.", model, registry=registry)
        self.ready = Gauge("nograd_model_ready", "1 if the model is ready.", model, registry=registry)
        self.cached = Counter(
            "nograd_cache_rows",
            "Rows looked up in the cache, by result.",
            ("model", "outcome"),
            registry=registry,
        )
        self.saved = Counter("nograd_cache_saved_seconds", "Device seconds saved by the cache.", model, registry=registry)
        self.cache_on = Gauge(
            "nograd_cache_on", "0 while the cache is bypassed, because it costs more than it saves.", model, registry=registry
        )
        self.cache_bytes = Gauge("nograd_cache_bytes", "Bytes of cached answers of all models.", registry=registry)
        for histogram in _histograms(stores):
            registry.register(histogram)
        self.backlog = Gauge("nograd_backlog_seconds", "Predicted seconds to run the queued rows.", model, registry=registry)
        self.compilations = Counter(
            "nograd_compilations", "Graphs compiled since the warm-up; requests waited for them.", model, registry=registry
        )
        self.code_stuck = Gauge(
            "nograd_code_threads_stuck",
            "Threads stuck in pre- or postprocessing.",
            model,
            registry=registry,
        )
        self.code_overdue = Counter(
            "nograd_code_overdue", "Requests that timed out in pre- or postprocessing.", model, registry=registry
        )
        self.live = Gauge("nograd_live", "0 if the server must be restarted: a device hangs or is lost.", registry=registry)
        self.dropped = Counter("nograd_access_log_dropped", "Dropped access log lines.", registry=registry)
        self.log_dropped = Counter(
            "nograd_log_dropped",
            "Log lines dropped because stderr was full, closed or not read.",
            registry=registry,
        )
        build = Gauge("nograd_build_info", "Always 1; the version is in a label.", ("version",), registry=registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=registry)

    def refresh_model(self, model: str, *, ready: bool, queue_rows: int, backlog_s: float) -> None:
        """Update the state of a model, over all its versions.

        Args:
            model: name of the model.
            ready: whether a version is ready.
            queue_rows: number of waiting rows.
            backlog_s: predicted seconds to run the waiting rows.
        """
        self.ready.labels(model).set(ready)
        self.queue_rows.labels(model).set(queue_rows)
        self.backlog.labels(model).set(backlog_s)

    def store(self, model: str) -> ModelStore:
        """Return a new store for a version of a model."""
        return self._stores.add(model)

    def remove_store(self, model: str, store: ModelStore) -> None:
        """Keep only the totals of a version that was unloaded."""
        self._stores.remove(model, store)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._stores.read()
        return generate_latest(self.registry)


def _histograms(stores: _Stores) -> list[_StoredHistogram]:
    return [
        _StoredHistogram(name, text, bounds, of, stores)
        for name, text, bounds, of in (
            (
                "nograd_request_seconds",
                "Seconds from the received body to the encoded response.",
                TIMES_S,
                lambda totals: totals.latency,
            ),
            (
                "nograd_queue_seconds",
                "Seconds that a part of a request waited for its batch.",
                TIMES_S,
                lambda totals: totals.wait,
            ),
            ("nograd_run_seconds", "Seconds of one batch on the device.", TIMES_S, lambda totals: totals.run),
            ("nograd_batch_rows", "Rows per batch.", ROWS, lambda totals: totals.batch_rows),
            ("nograd_padding_ratio", "Share of a batch that is padding.", SHARES, lambda totals: totals.padding),
            (
                "nograd_cost_error_ratio",
                "Measured divided by predicted run time; above 1: slower than predicted.",
                RATIOS,
                lambda totals: totals.cost_error,
            ),
        )
    ]


class ModelMetrics:
    """Metrics of one model that other parts count; updated when metrics are read."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._cached: dict[str, float] = {"hit": 0, "miss": 0, "skipped": 0, "saved_s": 0}
        self._compilations = 0
        self._overdue = 0

    def refresh(self, compilations: int) -> None:
        """Update the count of compilations.

        Args:
            compilations: graphs compiled since the warm-up.
        """
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
        """Update the metrics of the cache; see `ModelCache.snapshot`."""
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
