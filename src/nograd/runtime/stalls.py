"""Stack traces of all threads on stderr if there is no progress for much longer than usual.

Python's `faulthandler` writes them from a C thread without the GIL. It therefore works even if a thread holds the GIL and waits
for another, so that no Python code can run. Nothing is ended: a run may just be slow.
"""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["StallWatch", "stall_limit"]

TIMES = 20.0
"""A pause counts as a stall if it exceeds the longest earlier pause by this factor."""

FIRST_TIMES = 10.0
"""Additional factor for the first pause, in which models are loaded, compiled or downloaded."""

ARM_EVERY_S = 1.0
"""Minimum seconds between two settings of the alarm, because each starts a thread."""


def stall_limit(longest_s: float | None, least_s: float) -> float:
    """Return the seconds without progress that count as a stall.

    Args:
        longest_s: longest pause so far; None before the first progress.
        least_s: minimum limit, for fast work.

    >>> stall_limit(None, 60), stall_limit(0.5, 60), stall_limit(10, 60)
    (600.0, 60, 200.0)
    """
    return least_s * FIRST_TIMES if longest_s is None else max(least_s, TIMES * longest_s)


class StallWatch:
    """Watches work that reports progress; a context manager.

    Args:
        least_s: minimum seconds without progress before stacks are written.
        say: called with a message when work continues after a stall; None: no message.
        number: file descriptor for the stacks.
        clock: returns the time in seconds.
        arm: schedules writing the stacks after a number of seconds; default: `faulthandler`.
        disarm: cancels it.
    """

    def __init__(
        self,
        least_s: float,
        *,
        say: Callable[[str], object] | None = None,
        number: int = 2,
        clock: Callable[[], float] = time.monotonic,
        arm: Callable[[float, int], object] | None = None,
        disarm: Callable[[], object] = faulthandler.cancel_dump_traceback_later,
    ) -> None:
        self._least_s, self._say, self._clock = least_s, say, clock
        self._arm, self._disarm = arm or _dump_later, disarm
        self._number = number
        self._own: int | None = None
        self._longest_s: float | None = None
        self._last = self._armed_at = clock()

    def __enter__(self) -> Self:
        self._own = _unblocked(self._number)
        self._last = self._clock()
        self._set()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._disarm()
        if self._own is not None:
            os.close(self._own)

    def progressed(self) -> None:
        """Record progress."""
        now = self._clock()
        pause_s = now - self._last
        if self._say is not None and pause_s > stall_limit(self._longest_s, self._least_s):
            self._say(f"work continues after {pause_s:.0f} s without progress; the stacks of all threads are above")
        self._longest_s = max(self._longest_s or 0.0, pause_s)
        self._last = now
        if now - self._armed_at >= ARM_EVERY_S:
            self._set()

    def _set(self) -> None:
        self._armed_at = self._last
        self._arm(stall_limit(self._longest_s, self._least_s), self._number if self._own is None else self._own)


def _dump_later(seconds: float, number: int) -> None:
    faulthandler.dump_traceback_later(seconds, file=number)


def _unblocked(number: int) -> int | None:
    """Return a non-blocking descriptor for the same file, because setting the alarm waits for a write in progress.

    None if the system cannot open the file again.
    """
    try:
        return os.open(f"/dev/fd/{number}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
