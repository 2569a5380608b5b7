"""OpenTelemetry traces: a span per infer request with its stages as children, and a span per batch.

Spans are created here and sent by a thread of the SDK (its batch processor). A slow or missing collector costs spans and log
lines, but never delays responses. OpenTelemetry is imported only if traces are enabled.
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
"""Path of OTLP over HTTP on the collector."""

CARRIED = (b"traceparent", b"tracestate")

FLUSH_S = 5.0
"""Maximum seconds for sending the last spans at exit."""

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""Module and logger of the exporter."""

TALKERS = (EXPORTER, "opentelemetry.sdk._shared_internal")
"""Loggers of the exporter and the span processor. If a future SDK renames the second, its messages are only less limited."""

COMPLAIN_EVERY_S = 60.0
"""Seconds in which these loggers repeat a message once, so that a missing collector does not fill the log."""


class Tracing:
    """Creates and sends spans.

    Args:
        provider: provider of OpenTelemetry's SDK; it samples and exports. `close` shuts it down.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("nograd", __version__)
        self._carrier = TraceContextTextMapPropagator()
        self._seldom = _RepeatFilter()
        for name in TALKERS:
            logging.getLogger(name).addFilter(self._seldom)

    def begin(self, name: str, headers: Headers, attributes: Mapping[str, Value]) -> Trace:
        """Start the trace of a request.

        Args:
            name: name of the span, from a small set.
            headers: request headers with lower-case names; `traceparent` contains the parent span.
            attributes: initial attributes, available to samplers.
        """
        from opentelemetry.trace import SpanKind

        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in CARRIED}
        now_ns = time.time_ns()
        span = self._tracer.start_span(
            name, self._carrier.extract(carried), SpanKind.SERVER, attributes=attributes, start_time=now_ns
        )
        return Trace(self._tracer, span, now_ns - int(time.monotonic() * 1e9))

    def close(self) -> None:
        """Send the remaining spans within FLUSH_S, and shut down."""
        ending = threading.Thread(target=self._provider.shutdown, name="nograd-traces-end", daemon=True)
        ending.start()
        ending.join(FLUSH_S)
        for name in TALKERS:
            logging.getLogger(name).removeFilter(self._seldom)


class _RepeatFilter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(COMPLAIN_EVERY_S)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._repeats.left_out(str(record.msg), record.created) is not None


class Trace:
    """The spans of one request.

    Args:
        tracer: creates spans.
        span: span of the request.
        epoch_ns: nanoseconds since 1970 at time 0 of the monotonic clock.
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
            status: HTTP status for any protocol; 499 if the client disconnected.
            model: the requested model.
            request_id: id of the response.
            error: error message sent to the client.
            more: attributes of the protocol.
        """
        from opentelemetry.trace import Status, StatusCode

        span = self.span
        if not span.is_recording():
            return
        attributes = {"nograd.model": model, "nograd.request.id": request_id, **more}
        if status >= 400:
            attributes["error.type"] = str(status)
        span.set_attributes({name: value for name, value in attributes.items() if value is not None})
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, error))
        if self.timing is not None:
            self._add_stages(self.timing)
        span.end()

    def _add_stages(self, timing: Timing) -> None:
        """Create a span for each stage, and set further attributes."""
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
    """Create the span of a finished batch: child of its first sampled request, linked to all of them."""
    traces = [each.owner for each in record.spent if isinstance(each.owner, Trace)]
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
    """Create the exporter of traces to a collector; None if the address is empty.

    The SDK's environment variables apply: OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS.

    Args:
        url: address of the collector for OTLP over HTTP, without `/v1/traces`.

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
        MissingExtraError: the packages are not installed.
    """
    try:
        importlib.import_module(EXPORTER)
        importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("opentelemetry", "google", "requests"):
            raise
        raise MissingExtraError("OpenTelemetry (opentelemetry-sdk, opentelemetry-exporter-otlp-proto-http)", "otel") from None
