"""Stacks of all threads on stderr when nothing has finished for far longer than usual.

Python's `faulthandler` writes them from a C thread that needs no lock of the interpreter. So it also works if a thread keeps
that lock (the GIL) and waits for another, when no Python code of the process can run. Nothing is ended: a run may just be slow.
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
"""A pause counts as a stall from so many times the longest pause before."""

FIRST_TIMES = 10.0
"""How much longer the first pause may be: models are loaded, compiled or downloaded in it."""

ARM_EVERY_S = 1.0
"""Seconds between two times that the alarm is set: it costs a thread."""


def stall_limit(longest_s: float | None, least_s: float) -> float:
    """Return the seconds without progress that count as a stall.

    Args:
        longest_s: the longest pause so far; None before the first progress.
        least_s: the limit for fast work.

    >>> stall_limit(None, 60), stall_limit(0.5, 60), stall_limit(10, 60)
    (600.0, 60, 200.0)
    """
    return least_s * FIRST_TIMES if longest_s is None else max(least_s, TIMES * longest_s)


class StallWatch:
    """Watches work that reports its progress; a context manager.

    Args:
        least_s: seconds without progress before stacks are written, at least.
        say: takes a sentence when work continues after a stall; None says nothing.
        number: the file descriptor that stacks are written to.
        clock: returns seconds.
        arm: has the stacks written after so many seconds; the default is `faulthandler`'s.
        disarm: forgets that.
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
        """Note that something finished."""
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
    """Return a descriptor for the same file that never blocks: setting the alarm again waits for a write on its way.

    None where the system cannot open it a second time.
    """
    try:
        return os.open(f"/dev/fd/{number}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
