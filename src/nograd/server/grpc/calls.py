"""What every call of gRPC passes: the door, and the access log."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote

import grpc

from nograd.errors import UnauthorizedError
from nograd.server.access import CLIENT_LEFT, Access, sentence
from nograd.server.grpc.health import HEALTH
from nograd.server.grpc.messages import SERVICE
from nograd.server.keys import Door
from nograd.server.served import ServedModel
from nograd.server.service import InferenceService
from nograd.server.timing import Timing
from nograd.server.tracing import Tracing, timing_for

__all__ = ["CODES", "Call", "Guard"]

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC's own limit of a message answers
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The code for each of `protocol.status_of`'s."""

TOLD = {**CODES, 200: grpc.StatusCode.OK, CLIENT_LEFT: grpc.StatusCode.CANCELLED}

PROBES = {"ServerLive": "/v2/health/live", "ServerReady": "/v2/health/ready"}
"""Methods that are HTTP's probes, which need no key."""


class Call:
    """One call of the protocol's service."""

    __slots__ = ("_begun", "_body", "_key", "_name", "_trace", "context", "model")

    def __init__(self, name: str, body: bytes, context: Any, tracing: Tracing | None = None) -> None:
        self._name = name
        self._body = body
        self.context = context
        self._key: str | None = None
        self._begun = time.monotonic()
        self.model: ServedModel | None = None
        """Which is asked, once that is known."""

        self._trace = None
        if tracing is not None:
            known = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": name}
            self._trace = tracing.begin(f"{SERVICE}/{name}", _headers(context.invocation_metadata()), known)

    def timing(self) -> Timing | None:
        """Return what the call's times are kept in; None where nobody wants them."""
        return timing_for(self._trace, asked=False)

    def enter(self, door: Door) -> None:
        """Come in with the API key of the call's metadata, where one is needed.

        Raises:
            UnauthorizedError: it has none, or another.
        """
        if not door.is_open:
            self._key = door.enter(_headers(self.context.invocation_metadata()), PROBES.get(self._name, self._name))

    def note(self, service: InferenceService, status: int, bytes_out: int = 0, error: Exception | None = None) -> None:
        """Tell the access log and the trace, where there are any."""
        model = self.model
        request_id = model.answered_id if model is not None and status != CLIENT_LEFT else None
        if self._trace is not None:
            name, said = (None if model is None else model.name), (None if error is None else sentence(error))
            more = {"rpc.grpc.status_code": TOLD[status].value[0]}
            self._trace.end(status, model=name, request_id=request_id, error=said, more=more)
        if service.access is None:
            return
        service.access.note(
            Access(
                time.time(),
                "grpc",
                self._name,
                f"/{SERVICE}/{self._name}",
                model.name if model is not None else None,
                request_id,
                status,
                time.monotonic() - self._begun,
                len(self._body),
                bytes_out,
                _address(self.context.peer()),
                self._key,
                None if error is None else sentence(error),
            )  # fmt: skip
        )


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses calls of other services than ours (reflection) without a key; ours refuse by themselves, health never does."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return what answers a call."""
        if details.method.split("/")[1] not in (SERVICE, HEALTH):
            try:
                self._service.door.enter(_headers(details.invocation_metadata), details.method)
            except UnauthorizedError as error:
                return _refusing(str(error))
        return await continuation(details)


def _refusing(said: str) -> Any:
    async def refuse(_requests: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, said)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a call's metadata as HTTP's headers are."""
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata or ()]


def _address(peer: str) -> str:
    """Return the address of what gRPC calls `ipv4:127.0.0.1:4711`, or `ipv6:%5B::1%5D:4711`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
