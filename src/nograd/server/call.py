"""The record of one request. Every front creates one, fills it in and finishes it once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nograd.errors import NogradError
from nograd.server.http.request_options import NO_OPTIONS, RequestOptions
from nograd.server.telemetry.access_log import CLIENT_LEFT, Access
from nograd.server.telemetry.server_timing import Timing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nograd.server.models.served import ServedModel
    from nograd.server.models.service import InferenceService
    from nograd.server.telemetry.tracing import Trace, Value

__all__ = ["Call", "describe_to_client"]


class Call:
    """One request over HTTP or gRPC.

    Args:
        service: receives the access log line, the trace and the statistics.
        protocol: `http` or `grpc`.
        method: HTTP method, or name of the gRPC method.
        path: decoded path of the URL.
        options: options in the request's headers.
        client: address of the client, if known.
    """

    __slots__ = (
        "_service", "_trace", "begun", "bytes_in", "client", "error", "key", "method", "model", "options", "path", "protocol",
        "received", "request_id", "timing",
    )  # fmt: skip

    def __init__(
        self,
        service: InferenceService | None,
        protocol: str,
        method: str,
        path: str,
        *,
        options: RequestOptions = NO_OPTIONS,
        client: str | None = None,
    ) -> None:
        self._service = service
        self._trace: Trace | None = None
        self.protocol = protocol
        self.method = method
        self.path = path
        self.options = options
        self.client = client
        self.received = time.monotonic()
        """Arrival of its head, on the monotonic clock."""

        self.begun: float | None = None
        """Start of the model's work, after the body has arrived; None: no model worked on it."""

        self.key: str | None = None
        """Name of the API key, never the key."""

        self.model: ServedModel | None = None
        """Model of an infer call."""

        self.request_id: str | None = None
        """Id of the infer request: the client's, or one that the model assigned."""

        self.bytes_in: int | None = None
        self.error: Exception | None = None
        self.timing: Timing | None = None
        """Duration of each stage; None if neither the client nor a trace needs it."""

    def enter(self, headers: Iterable[tuple[bytes, bytes]], path: str) -> None:
        """Check the API key.

        Args:
            headers: headers with lower-case names.
            path: path that the key must open.

        Raises:
            UnauthorizedError: the request has no key, or an unknown one.
        """
        if self._service is not None:
            self.key = self._service.door.enter(headers, path)

    def trace(self, name: str, headers: Iterable[tuple[bytes, bytes]], attributes: Mapping[str, Value]) -> None:
        """Start a span for the request, if the service sends traces."""
        if self._service is not None and self._service.tracing is not None:
            self._trace = self._service.tracing.begin(name, headers, attributes)

    def measure(self) -> Timing | None:
        """Return the timing of the request, if the client or a sampled trace needs one."""
        trace = self._trace
        is_traced = trace is not None and trace.span.is_recording()
        if self.options.wants_timing or is_traced:
            self.timing = Timing(time.monotonic)
            if trace is not None and is_traced:
                trace.timing, self.timing.spent.owner = self.timing, trace
        return self.timing

    def finish(self, status: int, bytes_out: int = 0, attributes: Mapping[str, Value] | None = None) -> None:
        """Record the response in the model's statistics, the access log and the trace.

        Args:
            status: HTTP status, also for gRPC (`protocol.status_of`); `CLIENT_LEFT` if the client left.
            bytes_out: size of the response.
            attributes: attributes of the trace; default: those of HTTP.
        """
        now = time.monotonic()
        if self.model is not None and status != CLIENT_LEFT:
            self.model.record(status, now, 0.0 if self.begun is None else now - self.begun, self.error)
        if self._service is not None and self._service.access is not None:
            self._service.access.note(self._access(status, now, bytes_out))
        if self._trace is not None:
            name = None if self.model is None else self.model.name
            more = {"http.response.status_code": status} if attributes is None else attributes
            self._trace.end(status, model=name, request_id=self._id(status), error=self._sentence(), more=more)

    def _access(self, status: int, now: float, bytes_out: int) -> Access:
        return Access(
            time.time(), self.protocol, self.method, self.path, None if self.model is None else self.model.name,
            self._id(status), status, now - self.received, self.bytes_in, bytes_out, self.client, self.key, self._sentence(),
        )  # fmt: skip

    def _id(self, status: int) -> str | None:
        return None if status == CLIENT_LEFT else self.request_id

    def _sentence(self) -> str | None:
        return None if self.error is None else describe_to_client(self.error)


def describe_to_client(error: Exception) -> str:
    """Return the error message for a client. Foreign errors are named only by type: their text may contain others' data."""
    return str(error) if isinstance(error, NogradError) else type(error).__name__
