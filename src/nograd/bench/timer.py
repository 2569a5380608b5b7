"""A timer that is finer than the event loop's steps of a millisecond. At 1,000 requests per second, a millisecond is a whole
gap."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from math import modf

__all__ = ["Timer"]

_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_CLOCK_MONOTONIC = 1


class _TimerSpec(ctypes.Structure):
    """struct itimerspec of timerfd_settime(2): interval, then value, each in seconds and nanoseconds."""

    _fields_ = (("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long))


class Timer:
    """Call back once after a delay: a Linux timerfd, elsewhere the loop's own timer. It must be closed."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None)
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _CLOEXEC_NONBLOCK)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._expired)

    def set(self, delay_s: float) -> None:
        """Call back after a delay in seconds; replaces an earlier delay."""
        if self._file < 0:
            self._handle = self._loop.call_later(delay_s, self._callback)
            return
        part, whole = modf(max(delay_s, 1e-6))
        spec = _TimerSpec(0, 0, int(whole), int(part * 1e9))
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(spec), None)

    def _expired(self) -> None:
        os.read(self._file, 8)
        self._callback()

    def close(self) -> None:
        """Cancel the callback."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
