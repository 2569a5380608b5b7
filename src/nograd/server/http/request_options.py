"""Options that the headers of a request carry: deadline, request id, accepted encodings, timing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nograd.errors import ProtocolError

__all__ = ["ACCEPT_ENCODING", "DEADLINE", "NO_OPTIONS", "REQUEST_ID", "TIMING", "RequestOptions", "parse_options"]

DEADLINE = b"x-envoy-expected-rq-timeout-ms"
"""Timeout of the caller, in milliseconds. Envoy, Istio and KServe's gateways send it with every request."""

REQUEST_ID = b"x-request-id"

ACCEPT_ENCODING = b"accept-encoding"

TIMING = b"x-server-timing"
"""Any value requests a `Server-Timing` header in the response. Timing adds overhead, so it is opt-in."""

LONGEST_ID = 256

_MOST_DIGITS = 12


class RequestOptions(NamedTuple):
    """Options of one request, from its headers."""

    accept_encoding: bytes | None = None
    """`Accept-Encoding`."""

    request_id: bytes = b""
    """`X-Request-Id`, which the response repeats; empty if absent or not printable."""

    deadline: bytes | None = None
    wants_timing: bool = False
    """True if the response gets a `Server-Timing` header."""

    @property
    def timeout_s(self) -> float | None:
        """Timeout in seconds; None without a deadline header.

        Raises:
            ProtocolError: the header is not a whole number of milliseconds, 1 or more.
        """
        given = self.deadline
        if given is None:
            return None
        if not given.isdigit() or len(given) > _MOST_DIGITS or not int(given):
            value, name = given.decode("latin-1"), DEADLINE.decode()
            raise ProtocolError(f"{name} is {value!r}; it is a whole number of milliseconds, 1 or more")
        return int(given) / 1000

    @property
    def echoed(self) -> tuple[tuple[bytes, bytes], ...]:
        """Response headers that repeat request headers."""
        return ((REQUEST_ID, self.request_id),) if self.request_id else ()


NO_OPTIONS = RequestOptions()


def parse_options(headers: Iterable[tuple[bytes, bytes]]) -> RequestOptions:
    """Return the options of a request; header names are in lower case."""
    options = NO_OPTIONS
    for name, value in headers:
        if name == ACCEPT_ENCODING:
            known = options.accept_encoding
            options = options._replace(accept_encoding=value if known is None else known + b"," + value)
        elif name == REQUEST_ID:
            options = options._replace(request_id=value if _is_printable(value) else b"")
        elif name == DEADLINE:
            options = options._replace(deadline=value.strip())
        elif name == TIMING:
            options = options._replace(wants_timing=True)
    return options


def _is_printable(value: bytes) -> bool:
    return len(value) <= LONGEST_ID and all(32 < octet < 127 for octet in value)
