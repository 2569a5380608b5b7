"""HTTP as bytes on a socket: what no client library would send, and answers read strictly."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

WAIT_S = 60.0
"""An answer that is not there by then never comes; a server that is that slow has failed, too."""


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to a server."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), timeout=WAIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        """Send bytes, each piece by itself; a server that has closed takes no more, which is its right."""
        try:
            for piece in pieces:
                self._socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> Answer | None:
        """Return the next answer; None where the server has closed. Half an answer is an error.

        Raises:
            TimeoutError: none came.
        """
        try:
            line = self._stream.readline()
            if not line:
                return None
            version, status, _ = line.split(b" ", 2)
            assert version == b"HTTP/1.1", line
            headers = dict(self._headers())
            body = self._stream.read(int(headers["content-length"])) if "content-length" in headers else self._stream.read()
        except ConnectionResetError:
            return None
        assert len(body) == int(headers.get("content-length", len(body))), "half an answer"
        return Answer(int(status), headers, body)

    def _headers(self) -> Iterable[tuple[str, str]]:
        while line := self._stream.readline().rstrip(b"\r\n"):
            name, _, value = line.partition(b":")
            yield name.decode("latin-1").lower(), value.strip().decode("latin-1")

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def request(path: str, body: bytes, *headers: bytes, method: bytes = b"POST") -> bytes:
    """Return a whole request, with its right length."""
    head = [b"%b %b HTTP/1.1" % (method, path.encode()), b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def cut(message: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the message in pieces, cut at these places."""
    at = [0, *sorted({place % (len(message) + 1) for place in places}), len(message)]
    return [message[start:end] for start, end in pairwise(at) if end > start]
