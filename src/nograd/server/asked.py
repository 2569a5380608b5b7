"""What the headers of a request ask for, beside its body. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nograd.errors import ProtocolError

__all__ = ["ACCEPTED", "DEADLINE", "PLAIN", "REQUEST_ID", "TIMING", "Asked", "asked_of"]

DEADLINE = b"x-envoy-expected-rq-timeout-ms"
"""How long the caller waits, in milliseconds. Envoy, and with it Istio and KServe's gateways, sends it with every request."""

REQUEST_ID = b"x-request-id"

ACCEPTED = b"accept-encoding"

TIMING = b"x-server-timing"
"""Whoever sends it, with whatever value, is told in `Server-Timing` where the time went."""

LONGEST_ID = 256

_MOST_DIGITS = 12


class Asked(NamedTuple):
    """What a request's headers ask for."""

    accepts: bytes | None = None
    """`Accept-Encoding`."""

    request_id: bytes = b""
    """`X-Request-Id`, for the answer; empty where it is none that can be sent back."""

    deadline: bytes | None = None
    times: bool = False
    """Whether to tell where the time went."""

    @property
    def timeout_s(self) -> float | None:
        """Seconds that the caller waits, where it says so.

        Raises:
            ProtocolError: it does not say so in milliseconds.
        """
        given = self.deadline
        if given is None:
            return None
        if not given.isdigit() or len(given) > _MOST_DIGITS or not int(given):
            told, name = given.decode("latin-1"), DEADLINE.decode()
            raise ProtocolError(f"{name} is {told!r}; it is a whole number of milliseconds, 1 or more")
        return int(given) / 1000

    @property
    def echoed(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of the answer that repeat what the client sent."""
        return ((REQUEST_ID, self.request_id),) if self.request_id else ()


PLAIN = Asked()


def asked_of(headers: Iterable[tuple[bytes, bytes]]) -> Asked:
    """Return what headers ask for; their names are in small letters."""
    asked = PLAIN
    for name, value in headers:
        if name == ACCEPTED:
            asked = asked._replace(accepts=value if asked.accepts is None else asked.accepts + b"," + value)
        elif name == REQUEST_ID:
            asked = asked._replace(request_id=value if _is_printable(value) else b"")
        elif name == DEADLINE:
            asked = asked._replace(deadline=value.strip())
        elif name == TIMING:
            asked = asked._replace(times=True)
    return asked


def _is_printable(value: bytes) -> bool:
    return len(value) <= LONGEST_ID and all(32 < octet < 127 for octet in value)
