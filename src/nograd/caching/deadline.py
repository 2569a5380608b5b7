"""Sockets with one timeout per response: a peer that sends single bytes slowly exceeds it, too.

The timeout of a socket itself restarts with each read, so a response in twenty pieces could take twenty timeouts.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["timed"]

T = TypeVar("T")


class _TimedSocket:
    """All reads between two writes share one timeout, which starts with the write; the first read uses the socket's own
    timeout.
    """

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._written_at = 0.0
        self._is_first = True
        self.settimeout, self.gettimeout = inner.settimeout, inner.gettimeout

    def sendall(self, data: bytes) -> None:
        self._written_at = time.monotonic()
        self._is_first = True
        self._inner.sendall(data)

    def recv(self, *args: Any) -> bytes:
        if self._is_first:
            self._is_first = False
            return self._inner.recv(*args)
        return self._in_time(self._inner.recv, args)

    def recv_into(self, *args: Any) -> int:
        if self._is_first:
            self._is_first = False
            return self._inner.recv_into(*args)
        return self._in_time(self._inner.recv_into, args)

    def _in_time(self, read: Callable[..., T], args: tuple[Any, ...]) -> T:
        timeout_s = self.gettimeout()
        if not timeout_s:  # it waits for ever, or not at all
            return read(*args)
        left_s = self._written_at + timeout_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the answer took longer than its time-out")
        self.settimeout(left_s)
        try:
            return read(*args)
        finally:
            self.settimeout(timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def timed(kind: Any) -> Any:
    """Return a subclass of one of redis-py's connection classes, whose sockets are timed so."""

    def connect(self: Any) -> _TimedSocket:
        return _TimedSocket(kind._connect(self))  # noqa: SLF001

    return type(f"Timed{kind.__name__}", (kind,), {"_connect": connect})
