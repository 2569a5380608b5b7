"""A stderr that never blocks and never raises: a bounded queue of text, written by a thread.

A full disk, a closed pipe or a terminal that stopped reading must not change answers, exit codes or latency. `sys.stderr` is
therefore replaced while a command runs. Text that exceeds the queue is dropped and counted. The next written text is preceded
by the number of missing lines.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

__all__ = ["QueuedStderr", "queued_stderr"]

LIMIT_BYTES = 1 << 20
"""Maximum size of queued text, in bytes."""

CHUNK_BYTES = 1 << 16
"""Approximate size of one write, in bytes."""

CLOSE_S = 2.0
"""Maximum seconds for writing the last text: a stalled reader must not delay the exit."""


def _missing(lines: int) -> str:
    return f"nograd: {lines} lines are missing here: stderr was full, closed, or not read\n"


class QueuedStderr(io.TextIOBase):
    """A text stream whose `write` only appends to a queue.

    Args:
        put: writes bytes, blocking; raises OSError or ValueError on failure.
        is_terminal: result of `isatty`.
        number: file descriptor that `fileno` returns; None: there is none.
        limit_bytes: maximum size of queued text.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(
        self,
        put: Callable[[bytes], object],
        *,
        is_terminal: bool = False,
        number: int | None = None,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__()
        self._put, self._is_terminal, self._number, self._limit = put, is_terminal, number, limit_bytes
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._changed = threading.Condition()  # reentrant, because a signal handler may write, too
        self._ends = False
        self._writing = False
        self._missing = 0
        self._thread = threading.Thread(target=self._work, name="nograd-stderr", daemon=True)
        self._thread.start()
        self.dropped_lines = 0
        """Number of lines that were not written."""

        self.notice: Callable[[int], str] = _missing
        """Returns the line that reports the number of missing lines."""

    # -- stream interface

    def write(self, text: str) -> int:
        """Queue text; drop it if the queue is full."""
        if not isinstance(text, str):  # libraries call `write(b"")` to detect the type of a stream
            raise TypeError(f"stderr takes str, not {type(text).__name__}")
        with self._changed:
            if not text:
                return 0
            if self._bytes and self._bytes + len(text) > self._limit:
                self._drop(text)
            else:
                self._append(text)
        return len(text)

    def write_whole(self, text: str) -> None:
        """Queue text; wait for room without a limit. For threads that may block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + len(text) <= self._limit or self._ends)
            self._append(text)

    def flush(self) -> None:
        """Do nothing: printing must not wait for the reader."""

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._is_terminal

    def fileno(self) -> int:
        """Return the file descriptor."""
        if self._number is None:
            raise io.UnsupportedOperation("this stderr has no file descriptor")
        return self._number

    def writable(self) -> bool:
        """Return True."""
        return True

    # -- shutdown

    def drain(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait up to `timeout_s` until everything is written; return whether it is."""
        with self._changed:
            is_empty = self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout_s)
            return is_empty and not self._missing

    def end(self, timeout_s: float = CLOSE_S) -> bool:
        """Write the remaining text within `timeout_s` and end the thread; return whether everything was written."""
        is_written = self.drain(0.0 if self._ends else timeout_s)
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        if is_written:
            self._thread.join()
        return is_written

    # -- internals

    def _append(self, text: str) -> None:
        self._waiting.append(text)
        self._bytes += len(text)
        self._changed.notify_all()

    def _drop(self, text: str) -> None:
        lines = text.count("\n")
        self.dropped_lines += lines
        self._missing += lines

    def _work(self) -> None:
        while text := self._next():
            missing = self._missing
            notice = self.notice(missing) if missing else ""
            try:
                self._put((notice + text).encode(self.encoding, self.errors))
            except (OSError, ValueError):  # full or closed: try again with the next text
                with self._changed:
                    self._drop(text)
            else:
                with self._changed:
                    self._missing -= missing
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _next(self) -> str:
        """Return the text to write next; empty at the end."""
        pieces, size = [], 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            while self._waiting and size < CHUNK_BYTES:
                pieces.append(self._waiting.popleft())
                size += len(pieces[-1])
            self._bytes -= size
            self._writing = bool(pieces)
            self._changed.notify_all()
        return "".join(pieces)


@contextmanager
def queued_stderr() -> Iterator[QueuedStderr]:
    """Replace `sys.stderr` by a queued stream within this context; an existing queued stream is reused."""
    before = sys.stderr
    if isinstance(before, QueuedStderr):
        yield before
        return
    stream = _over(before)
    sys.stderr = stream
    try:
        yield stream
    finally:
        stream.end()
        sys.stderr = before


def _over(stream: TextIO | None) -> QueuedStderr:
    if stream is None:  # closed before Python started
        return QueuedStderr(_refuse)
    with suppress(OSError, ValueError):
        stream.flush()
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return QueuedStderr(lambda data: stream.write(data.decode()))
    return QueuedStderr(lambda data: _write_all(number, data), is_terminal=stream.isatty(), number=number)


def _refuse(_data: bytes) -> None:
    raise OSError("stderr is closed")


def _write_all(number: int, data: bytes) -> None:
    """Write bytes to a file descriptor without Python's buffers, so that nothing must be flushed at exit."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # another program made the pipe or terminal non-blocking
            select.select([], [number], [])
