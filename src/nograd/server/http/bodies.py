"""Reading a request's body: size limit, decompression, and alignment of binary tensors for numpy."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np

from nograd.errors import ProtocolError, TooLargeError, UnsupportedError
from nograd.server.http.asgi import ClientLeftError, Receive, Scope
from nograd.server.protocol.binary import MOST_DIGITS, tail_offset

__all__ = ["BinaryBody", "BodyBuffer", "inflated", "read_body"]

ALIGNMENT = 64
"""Alignment of the binary tensors in memory, in bytes, so that aligned ones are not copied."""

SHORT_COMPRESSED = 512
"""Bytes of a compressed body up to which the event loop decompresses it: to half a megabyte at most."""

_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's `wbits` by content encoding; deflate means zlib's format."""

RAW_DEFLATE = -15
"""Deflate without zlib's header, which some clients send."""


class BinaryBody(NamedTuple):
    """A body with `Inference-Header-Content-Length`."""

    json: bytes
    tail: memoryview
    """Writable, and not used elsewhere."""


class _BodyHeaders(NamedTuple):
    """The headers of a request that describe its body."""

    encoding: bytes = b""
    offset: int | None = None
    """Offset of the tensors; None without `Inference-Header-Content-Length`."""

    length: int | None = None
    """Bytes of the body; None for a chunked body."""


_PLAIN = _BodyHeaders()
_NAMES = frozenset((b"content-length", b"content-encoding", b"inference-header-content-length"))


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | BinaryBody:
    """Return a request's body.

    Args:
        scope: scope of the request.
        receive: returns the pieces of the body.
        limit: maximum bytes, both compressed and decompressed.

    Raises:
        TooLargeError: the body exceeds the limit.
        UnsupportedError: the content encoding is not supported.
        ProtocolError: the body does not match its content encoding, or is shorter than the announced JSON.
        ClientLeftError: the client disconnected before the end of the body.
    """
    said = _PLAIN
    for name, value in scope["headers"]:
        if name in _NAMES:
            said = _with_header(said, name, value, limit)
    if said.offset is not None and not said.encoding:
        return await _parted(_pieces(receive, limit), said.offset, said.length)
    pieces = [piece async for piece in _pieces(receive, limit)]
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if said.encoding:
        del pieces
        is_long = len(body) > SHORT_COMPRESSED
        body = (
            await asyncio.to_thread(inflated, body, said.encoding, limit) if is_long else inflated(body, said.encoding, limit)
        )
    return body if said.offset is None else await _parted(_one(body), said.offset, len(body))


async def _pieces(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; raise if it is too long."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        piece: bytes = message.get("body", b"")
        size, more = size + len(piece), message.get("more_body", False)
        if size > limit:
            raise TooLargeError(f"the body has more than {limit} bytes, the limit of this server (--max-body-bytes)")
        yield piece


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _with_header(said: _BodyHeaders, name: bytes, value: bytes, limit: int) -> _BodyHeaders:
    if name == b"inference-header-content-length":
        return said._replace(offset=tail_offset(value))
    if name == b"content-encoding":
        encoding = value.strip().lower()
        if encoding in (b"identity", b""):
            return said
        if encoding not in _WINDOW:
            raise UnsupportedError(
                f"content-encoding {value.decode('latin-1')!r} is not supported; send gzip, deflate, or an uncompressed body"
            )
        return said._replace(encoding=encoding)
    if not value.isdigit():
        return said
    if len(value) > MOST_DIGITS or int(value) > limit:
        raise TooLargeError(
            f"the body has {value.decode('latin-1')} bytes; the limit of this server is {limit} (--max-body-bytes)"
        )
    return said._replace(length=int(value))


async def _parted(pieces: AsyncIterator[bytes], offset: int, length: int | None) -> BinaryBody:
    """Join a body's pieces with a single copy, so that the bytes after its JSON are aligned.

    Memory for an announced length is reserved, and used only as it is filled. Without a length, the buffer grows by an eighth
    when it is full.
    """
    if length is not None:
        room = BodyBuffer(offset, length)
        async for piece in pieces:
            room.add(piece)
        return room.body()
    start = -offset % ALIGNMENT
    grown = bytearray(start)
    async for piece in pieces:
        grown += piece
    return _body(memoryview(grown)[start:], offset)


class BodyBuffer:
    """Buffer for a body of known length, with aligned bytes after the JSON. It uses memory only as it is filled.

    Args:
        offset: bytes of the JSON at the start.
        length: bytes of the whole body.
    """

    __slots__ = ("_offset", "_whole", "filled")

    def __init__(self, offset: int, length: int) -> None:
        start = -offset % ALIGNMENT
        self._offset = offset
        self._whole = np.empty(start + length, np.uint8).data[start:]
        self.filled = 0

    def add(self, piece: bytes) -> None:
        """Copy the next bytes into the buffer."""
        end = self.filled + len(piece)
        self._whole[self.filled : end] = piece
        self.filled = end

    def body(self) -> BinaryBody:
        """Return the received body.

        Raises:
            ProtocolError: it is shorter than the announced JSON.
        """
        return _body(self._whole[: self.filled], self._offset)


def _body(whole: memoryview, offset: int) -> BinaryBody:
    if offset > len(whole):
        raise ProtocolError(f"Inference-Header-Content-Length is {offset}; the body has {len(whole)} bytes")
    return BinaryBody(bytes(whole[:offset]), whole[offset:])


def inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a decompressed body.

    Args:
        body: the compressed body.
        encoding: gzip, x-gzip or deflate.
        limit: maximum bytes of the result; no more are produced.

    Raises:
        TooLargeError: the result would exceed the limit.
        ProtocolError: the body is not in that encoding, or truncated.
    """
    window = _WINDOW[encoding]
    if encoding == b"deflate" and not _has_zlib_header(body):
        window = RAW_DEFLATE
    machine = zlib.decompressobj(window)
    try:
        found = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"the body is not {encoding.decode()}, contrary to its content-encoding: {error}") from None
    if len(found) > limit:
        raise TooLargeError(
            f"the body has more than {limit} bytes when decompressed, the limit of this server (--max-body-bytes)"
        )
    if not machine.eof:
        raise ProtocolError(f"the {encoding.decode()} body is truncated")
    if machine.unused_data:  # gzip allows several members; no client sends them, and millions of empty ones take much time
        raise ProtocolError(f"the body has {len(machine.unused_data)} bytes after the end of its {encoding.decode()} data")
    return found


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 15 == 8 and (body[0] * 256 + body[1]) % 31 == 0
