"""Requests that are rejected before a handler runs: the exception, and the bytes of its response."""

from __future__ import annotations

from collections.abc import Iterable

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from nograd.server.http.replies import JSON, Headers

__all__ = ["RefusedError", "refusal_of"]

UNREADABLE_URL = (httptools.HttpParserInvalidURLError, UnicodeDecodeError)


class RefusedError(Exception):
    """A request that the connection rejects; the connection is closed after the response.

    Args:
        status: status of the response.
        sentence: message for the client.
        headers: headers of the response in addition to content type and length.
    """

    def __init__(self, status: int, sentence: str, headers: Headers = ()) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers

    @property
    def body(self) -> bytes:
        """Body of the response, JSON."""
        return orjson.dumps({"error": str(self)})

    def response(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the whole response; `default_headers` are added to every response."""
        body = self.body
        headers = (*default_headers, (b"content-type", JSON), (b"content-length", b"%d" % len(body)), *self.headers)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b%bconnection: close\r\n\r\n%b" % (STATUS_LINE[self.status], lines, body)


def refusal_of(error: httptools.HttpParserError) -> RefusedError | None:
    """Return the error for bytes that httptools rejects; None if the error comes from the server's own callbacks."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
    if isinstance(cause, RefusedError):
        return cause
    if isinstance(cause, UNREADABLE_URL):
        return RefusedError(400, "the request's URL cannot be parsed; send an absolute path in ASCII")
    if cause is not None:
        return None
    return RefusedError(400, f"the bytes on this connection are not a valid HTTP/1.1 request: {error}")
