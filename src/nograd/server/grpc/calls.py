"""Records, API keys and status codes of gRPC calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import unquote

import grpc

from nograd.errors import UnauthorizedError
from nograd.server.call import Call
from nograd.server.grpc.health import HEALTH
from nograd.server.grpc.messages import SERVICE
from nograd.server.models.service import InferenceService
from nograd.server.telemetry.access_log import CLIENT_LEFT

__all__ = ["CODES", "KeyInterceptor", "begin_call", "enter_call", "finish_call"]

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # equals the code of gRPC's own message limit
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""HTTP status of `protocol.status_of` -> gRPC code."""

STATUS_CODES = {**CODES, 200: grpc.StatusCode.OK, CLIENT_LEFT: grpc.StatusCode.CANCELLED}

PROBES = {"ServerLive": "/v2/health/live", "ServerReady": "/v2/health/ready"}
"""Methods that correspond to HTTP health probes, which need no key."""


def begin_call(service: InferenceService, method: str, body: bytes, context: Any, *, traced: bool = False) -> Call:
    """Return the record of a call; `traced` starts a span for it if the service sends traces."""
    call = Call(service, "grpc", method, f"/{SERVICE}/{method}", client=_address(context.peer()))
    call.bytes_in = len(body)
    if traced and service.tracing is not None:
        known = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
        call.trace(f"{SERVICE}/{method}", _headers(context.invocation_metadata()), known)
    return call


def enter_call(call: Call, service: InferenceService, context: Any) -> None:
    """Check the API key in a call's metadata.

    Raises:
        UnauthorizedError: the call has no key, or an unknown one.
    """
    if not service.door.is_open:
        call.enter(_headers(context.invocation_metadata()), PROBES.get(call.method, call.method))


def finish_call(call: Call, status: int, bytes_out: int = 0) -> None:
    """Finish a call's record with an HTTP status."""
    call.finish(status, bytes_out, {"rpc.grpc.status_code": STATUS_CODES[status].value[0]})


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Rejects calls of other services (reflection) without a key. The protocol's service checks keys itself; health needs
    none.
    """

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return the handler of a call."""
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
    """Convert a call's metadata to HTTP headers."""
    return [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata or ()]


def _address(peer: str) -> str:
    """Return the address in gRPC's peer names, such as `ipv4:127.0.0.1:4711` or `ipv6:%5B::1%5D:4711`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
