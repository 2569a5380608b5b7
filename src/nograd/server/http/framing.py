"""Framing of requests: rules that llhttp leaves to its users, and sizes of heads and chunks."""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from nograd.server.http.early_refusals import RefusedError

__all__ = ["ChunkOverhead", "check_framing", "head_size", "head_without_upgrade"]

LINE_BYTES = 4
"""Bytes of a header line in addition to name and value: colon, space, CR, LF."""

CHUNK_BYTES = 20
"""Maximum bytes that frame one chunk without extensions: 16 digits, and CR LF twice."""

HTTP_1 = ("1.1", "1.0")


def head_size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Return the size of a head in bytes, or slightly less."""
    return len(url) + sum(len(name) + len(value) + LINE_BYTES for name, value in headers)


def check_framing(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether the body is chunked.

    llhttp rejects Content-Length together with Transfer-Encoding, two lengths, bare LF and CR, folded headers, and a space
    before a colon.

    Raises:
        RefusedError: the end of the request is ambiguous, or it is for a proxy.
    """
    if version not in HTTP_1:
        raise RefusedError(505, f"the request is in HTTP/{version}; send HTTP/1.1")
    if method == b"CONNECT":
        raise RefusedError(501, "CONNECT is for proxies; this server is not a proxy")
    codings = [value.strip() for name, value in headers if name == b"transfer-encoding"]
    if not codings:
        return False
    if version == "1.0":
        raise RefusedError(400, "an HTTP/1.0 request has Transfer-Encoding; send Content-Length, or HTTP/1.1")
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        given = b", ".join(codings).decode("latin-1")
        raise RefusedError(400, f"Transfer-Encoding is {given!r}; the only one that this server reads is chunked")
    return True


def head_without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the head of a request that was parsed, without its `Upgrade`."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    return b"%b %b HTTP/%b\r\n%b\r\n" % (parser.get_method(), url, parser.get_http_version().encode(), b"".join(lines))


class ChunkOverhead:
    """Counts the bytes of a chunked body that are neither data nor plain framing: extensions and trailers."""

    __slots__ = ("_is_begun", "total")

    def __init__(self) -> None:
        self.total = 0
        self._is_begun = False

    def add(self, size: int) -> None:
        """Count a piece of the connection; the first piece is not counted, because it also contains the head."""
        self.total = max(0, self.total + size) if self._is_begun else 0
        self._is_begun = True

    def subtract(self, size: int) -> None:
        """Subtract data of the piece."""
        self.total -= size

    def begin_chunk(self) -> None:
        """Subtract the plain framing of one chunk."""
        self.total -= CHUNK_BYTES
