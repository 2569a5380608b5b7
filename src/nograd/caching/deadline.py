"""A socket whose reads and writes end by one point in time, together: a peer that sends a byte now and then is slow, too.

A socket's own time-out begins anew with each read, so that an answer in twenty pieces may take twenty of them.
"""

from __future__ import annotations

import socket
import time
from math import inf
from threading import local
from typing import Any

__all__ = ["Deadline", "timed"]


class Deadline(local):
    """When the calling thread's call must be over; every thread has its own."""

    until = inf
    """In seconds of `time.monotonic`."""

    def left(self, timeout_s: float | None) -> float | None:
        """Return the seconds that a read or write may take, whose socket allows `timeout_s`.

        Raises:
            TimeoutError: there are none left.
        """
        if self.until == inf or timeout_s == 0:  # 0 does not wait at all
            return timeout_s
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the call took longer than its time-out")
        return left_s if timeout_s is None else min(timeout_s, left_s)


class _TimedSocket:
    """Delegates to a socket, within a deadline."""

    def __init__(self, inner: socket.socket, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline
        self._timeout_s = inner.gettimeout()

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def recv(self, *args: Any) -> bytes:
        return self._timed().recv(*args)

    def recv_into(self, *args: Any) -> int:
        return self._timed().recv_into(*args)

    def sendall(self, data: bytes) -> None:
        self._timed().sendall(data)

    def _timed(self) -> socket.socket:
        self._inner.settimeout(self._deadline.left(self._timeout_s))
        return self._inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def timed(kind: Any, deadline: Deadline) -> Any:
    """Return a subclass of redis-py's connection class, whose sockets keep a deadline."""

    def connect(self: Any) -> _TimedSocket:
        return _TimedSocket(kind._connect(self), deadline)  # noqa: SLF001

    return type(f"Timed{kind.__name__}", (kind,), {"_connect": connect})
