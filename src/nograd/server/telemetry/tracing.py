"""Traces for OpenTelemetry: a span for each request that a model may be run for, its stages below it, and one for each batch.

Spans are made here and sent by a thread of the SDK's (its batch processor). A collector that is slow or gone costs spans, and
lines of the log, never answers. Nothing of OpenTelemetry is imported unless traces are asked for.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from nograd import __version__
from nograd.batching import BatchRecord
from nograd.errors import MissingExtraError
from nograd.server.telemetry.logs import Repeats
from nograd.server.telemetry.server_timing import Timing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

__all__ = ["Trace", "Tracing", "Value", "note_batch", "open_tracing", "require_otel"]

Value: TypeAlias = str | int | float
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

PATH = "/v1/traces"
"""Of OTLP over HTTP, below the collector's address."""

CARRIED = (b"traceparent", b"tracestate")

FLUSH_S = 5.0
"""Seconds that the last spans may take when the server ends."""

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""Module and logger of what sends spans."""

TALKERS = (EXPORTER, "opentelemetry.sdk._shared_internal")
"""Loggers of what sends and what holds spans; where the second has another name some day, it only says more."""

COMPLAIN_EVERY_S = 60.0
"""Seconds in which these say a thing once: a collector that is gone shall not fill the log."""


class Tracing:
    """Makes spans, and sends them.

    Args:
        provider: of OpenTelemetry's SDK; it samples, and knows where to send spans. It is shut down by `close`.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("nograd", __version__)
        self._carrier = TraceContextTextMapPropagator()
        self._seldom = _Seldom()
        for name in TALKERS:
            logging.getLogger(name).addFilter(self._seldom)

    def begin(self, name: str, headers: Headers, attributes: Mapping[str, Value]) -> Trace:
        """Return the trace of a request that begins now.

        Args:
            name: of the span; one of few.
            headers: of the request, names in small letters; `traceparent` says which span is the parent.
            attributes: what is known already; a sampler may look at it.
        """
        from opentelemetry.trace import SpanKind

        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in CARRIED}
        now_ns = time.time_ns()
        span = self._tracer.start_span(
            name, self._carrier.extract(carried), SpanKind.SERVER, attributes=attributes, start_time=now_ns
        )
        return Trace(self._tracer, span, now_ns - int(time.monotonic() * 1e9))

    def close(self) -> None:
        """Send what is left, within FLUSH_S, and end."""
        ending = threading.Thread(target=self._provider.shutdown, name="nograd-traces-end", daemon=True)
        ending.start()
        ending.join(FLUSH_S)
        for name in TALKERS:
            logging.getLogger(name).removeFilter(self._seldom)


class _Seldom(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(COMPLAIN_EVERY_S)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._repeats.left_out(str(record.msg), record.created) is not None


class Trace:
    """One request's spans.

    Args:
        tracer: makes them.
        span: the request's own.
        epoch_ns: nanoseconds since 1970 when the monotonic clock was 0.
    """

    __slots__ = ("_epoch_ns", "span", "timing", "tracer")

    def __init__(self, tracer: Tracer, span: Span, epoch_ns: int) -> None:
        self.tracer = tracer
        self.span = span
        self.timing: Timing | None = None
        self._epoch_ns = epoch_ns

    def end(
        self, status: int, *, model: str | None, request_id: str | None, error: str | None, more: Mapping[str, Value]
    ) -> None:
        """End the request's span.

        Args:
            status: HTTP's, whatever the protocol: 499 where the client left.
            model: which was asked.
            request_id: the answer's.
            error: what the client was told.
            more: attributes of the protocol.
        """
        from opentelemetry.trace import Status, StatusCode

        span = self.span
        if not span.is_recording():
            return
        told = {"nograd.model": model, "nograd.request.id": request_id, **more}
        if status >= 400:
            told["error.type"] = str(status)
        span.set_attributes({name: value for name, value in told.items() if value is not None})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, error))
        if self.timing is not None:
            self._tell(self.timing)
        span.end()

    def _tell(self, timing: Timing) -> None:
        """Make a span of each stage, and say what is beside it."""
        from opentelemetry.trace import set_span_in_context

        if timing.spent.batch_rows:
            self.span.set_attribute("nograd.batch.rows", timing.spent.batch_rows)
        if timing.rows:
            self.span.set_attributes({"nograd.cache.rows": timing.rows, "nograd.cache.hits": timing.hits})
        context = set_span_in_context(self.span)
        for name, begun, ended in timing.stages():
            stage = self.tracer.start_span(name, context, start_time=self._epoch_ns + int(begun * 1e9))
            stage.end(self._epoch_ns + int(ended * 1e9))


def note_batch(model: str, record: BatchRecord) -> None:
    """Make the span of a batch that ended now: below its first sampled request, linked to all of them."""
    traces = [each.owner for each in record.told if isinstance(each.owner, Trace)]
    if not traces:
        return
    from opentelemetry.trace import Link, set_span_in_context

    now_ns = time.time_ns()
    first = traces[0]
    span = first.tracer.start_span(
        "batch",
        set_span_in_context(first.span),
        links=[Link(each.span.get_span_context()) for each in traces],
        attributes={
            "nograd.model": model,
            "nograd.batch.rows": record.rows,
            "nograd.batch.parts": record.requests,
            "nograd.batch.reason": record.reason,
            "nograd.batch.predicted_seconds": record.predicted_s,
            "nograd.batch.padding_ratio": record.padding_share,
            "nograd.batch.failed": record.failed,
        },
        start_time=now_ns - int(record.run_s * 1e9),
    )
    span.end(now_ns)


def open_tracing(url: str) -> Tracing | None:
    """Return what sends traces to a collector; None where the address is empty.

    Args:
        url: of the collector, for OTLP over HTTP, without `/v1/traces`.

    What else the SDK takes from the environment holds: OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        MissingExtraError: OpenTelemetry's packages are not installed.
    """
    if not url:
        return None
    require_otel()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource.create({"service.name": "nograd", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url.rstrip("/") + PATH)))
    return Tracing(provider)


def require_otel() -> None:
    """Import OpenTelemetry's packages.

    Raises:
        MissingExtraError: they are not installed.
    """
    try:
        importlib.import_module(EXPORTER)
        importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("opentelemetry", "google", "requests"):
            raise
        raise MissingExtraError("OpenTelemetry (opentelemetry-sdk, opentelemetry-exporter-otlp-proto-http)", "otel") from None
