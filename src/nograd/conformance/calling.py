"""Call gRPC methods: one function sends a message and returns the result. No generated code: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from nograd.errors import MissingExtraError, ModelLoadError

__all__ = ["Call", "CallResult", "calling"]


@dataclass(frozen=True, slots=True)
class CallResult:
    """Result of a gRPC call."""

    code: str
    """gRPC status code, such as OK or NOT_FOUND."""

    details: str = ""
    body: bytes = b""
    """Serialized response message."""

    @property
    def text(self) -> str:
        """Status code and details, shortened."""
        return f"{self.code}: {' '.join(self.details.split())[:160]}" if self.details else self.code


Call: TypeAlias = Callable[[str, bytes], CallResult]
"""Method path and message -> result. The function never raises for an error of the server."""


@contextmanager
def calling(address: str, timeout_s: float) -> Iterator[Call]:
    """Return a function that calls a server, over a connection without TLS.

    Args:
        address: host and port.
        timeout_s: maximum seconds of one call.

    Raises:
        MissingExtraError: grpcio is not installed.
        ModelLoadError: no gRPC server answers at the address.
    """
    try:
        import grpc

        import nograd.server.grpc.messages  # noqa: F401  the items need it
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "google"):
            raise
        raise MissingExtraError("gRPC (grpcio, protobuf)", "grpc") from None

    def call(path: str, body: bytes) -> CallResult:
        # a unary call and a stream of one message are equal on the wire, and reflection is a stream
        answers: Any = channel.stream_stream(path)(iter([body]), timeout=timeout_s)
        try:
            first = next(answers, b"")
            for _ in answers:
                pass
        except grpc.RpcError as error:
            return CallResult(error.code().name, error.details() or "")
        return CallResult("OK", body=first)

    channel = grpc.insecure_channel(address, [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")])
    with channel:
        try:
            grpc.channel_ready_future(channel).result(timeout_s)
        except grpc.FutureTimeoutError:
            raise ModelLoadError(f"nothing answers gRPC at {address} within {timeout_s:g} s") from None
        yield call
