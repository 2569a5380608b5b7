"""Reading a request's body: within the limit, decompressed, and with its tensors where numpy wants them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np

from nograd.errors import ProtocolError, TooLargeError, UnsupportedError
from nograd.server.http.asgi import ClientLeftError, Receive, Scope
from nograd.server.protocol.binary import MOST_DIGITS, tail_offset

__all__ = ["BinaryBody", "Room", "inflated", "read_body"]

ALIGNMENT = 64
"""The tensors behind the JSON begin at a multiple of this in memory: the first, and those behind whole ones, are not copied."""

SHORT_COMPRESSED = 512
"""Bytes of a compressed body up to which the event loop decompresses it: to half a megabyte at most."""

_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
"""zlib's `wbits` by content encoding; deflate means zlib's format."""

RAW_DEFLATE = -15
"""Deflate without zlib's header, as some clients have it."""


class BinaryBody(NamedTuple):
    """A body with `Inference-Header-Content-Length`."""

    json: bytes
    tail: memoryview
    """Writable, and nobody else's."""


class _Said(NamedTuple):
    """What a request says of its body."""

    encoding: bytes = b""
    offset: int | None = None
    """Where the tensors begin; None without `Inference-Header-Content-Length`."""

    length: int | None = None
    """Bytes of the body; None where it comes in chunks."""


_PLAIN = _Said()
_NAMES = frozenset((b"content-length", b"content-encoding", b"inference-header-content-length"))


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | BinaryBody:
    """Return a request's body.

    Args:
        scope: of the request.
        receive: gives its pieces.
        limit: bytes that it may have, both as sent and decompressed.

    Raises:
        TooLargeError: it is longer; no more than the limit was kept.
        UnsupportedError: it is compressed in a way that is not known.
        ProtocolError: it is not compressed as it says, or shorter than its JSON should be.
        ClientLeftError: the client left before its end.
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
    """Yield a body as it comes, until it is too long."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        piece: bytes = message.get("body", b"")
        size, more = size + len(piece), message.get("more_body", False)
        if size > limit:
            raise TooLargeError(f"the body has more than {limit} bytes, the most that this server takes")
        yield piece


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _with_header(said: _Said, name: bytes, value: bytes, limit: int) -> _Said:
    if name == b"inference-header-content-length":
        return said._replace(offset=tail_offset(value))
    if name == b"content-encoding":
        encoding = value.strip().lower()
        if encoding in (b"identity", b""):
            return said
        if encoding not in _WINDOW:
            raise UnsupportedError(
                f"content-encoding {value.decode('latin-1')!r} is not served; send gzip, deflate, or the body uncompressed"
            )
        return said._replace(encoding=encoding)
    if not value.isdigit():
        return said
    if len(value) > MOST_DIGITS or int(value) > limit:
        raise TooLargeError(f"the body has {value.decode('latin-1')} bytes; this server takes at most {limit}")
    return said._replace(length=int(value))


async def _parted(pieces: AsyncIterator[bytes], offset: int, length: int | None) -> BinaryBody:
    """Join a body as it comes, so that what is behind its JSON is aligned: the one copy.

    A length that the request tells is reserved, and takes memory only as it is filled; without one there is room for an
    eighth more, and the body moves when it outgrows that.
    """
    if length is not None:
        room = Room(offset, length)
        async for piece in pieces:
            room.add(piece)
        return room.body()
    start = -offset % ALIGNMENT
    grown = bytearray(start)
    async for piece in pieces:
        grown += piece
    return _body(memoryview(grown)[start:], offset)


class Room:
    """Memory for a body whose length was told; it takes memory only as it is filled. What is behind the JSON is aligned.

    Args:
        offset: bytes of the JSON, which come first.
        length: bytes of all.
    """

    __slots__ = ("_offset", "_whole", "filled")

    def __init__(self, offset: int, length: int) -> None:
        start = -offset % ALIGNMENT
        self._offset = offset
        self._whole = np.empty(start + length, np.uint8).data[start:]
        self.filled = 0

    def add(self, piece: bytes) -> None:
        """Take the next bytes: the one copy."""
        end = self.filled + len(piece)
        self._whole[self.filled : end] = piece
        self.filled = end

    def body(self) -> BinaryBody:
        """Return what has come.

        Raises:
            ProtocolError: that is less than its JSON should have.
        """
        return _body(self._whole[: self.filled], self._offset)


def _body(whole: memoryview, offset: int) -> BinaryBody:
    if offset > len(whole):
        raise ProtocolError(f"Inference-Header-Content-Length is {offset}; the body has {len(whole)} bytes")
    return BinaryBody(bytes(whole[:offset]), whole[offset:])


def inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a decompressed body.

    Args:
        body: as it came.
        encoding: gzip, x-gzip or deflate.
        limit: bytes that the result may have; no more are ever made.

    Raises:
        TooLargeError: it would have more.
        ProtocolError: the body is not in that encoding, or cut off.
    """
    window = _WINDOW[encoding]
    if encoding == b"deflate" and not _has_zlib_header(body):
        window = RAW_DEFLATE
    machine = zlib.decompressobj(window)
    try:
        found = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise ProtocolError(f"the body is not {encoding.decode()}, as content-encoding says: {error}") from None
    if len(found) > limit:
        raise TooLargeError(f"the body has more than {limit} bytes when decompressed, the most that this server takes")
    if not machine.eof:
        raise ProtocolError(f"the body, {encoding.decode()}, is cut off")
    if machine.unused_data:  # gzip allows several members; no client sends them, and millions of empty ones cost much time
        raise ProtocolError(f"the body has {len(machine.unused_data)} bytes behind the end of its {encoding.decode()}")
    return found


def _has_zlib_header(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 15 == 8 and (body[0] * 256 + body[1]) % 31 == 0
