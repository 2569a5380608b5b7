"""stderr that never blocks and never raises: a bounded queue of text, and a thread that writes it.

A log on a full disk, a closed pipe or a terminal that stopped reading must not change an answer, an exit code, or the time of
either. So `sys.stderr` is replaced while a command runs. Text that finds no room in the queue is dropped and counted; when text
is written again, a line says how many lines are missing.
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
"""Text that waits to be written, in bytes, at most."""

CHUNK_BYTES = 1 << 16
"""Text of one write, in bytes, about."""

CLOSE_S = 2.0
"""Time that the last text may take when the command ends, in seconds: a reader that stalls may not hold up the exit."""


def _missing(lines: int) -> str:
    return f"nograd: {lines} lines are missing here: stderr was full, closed, or not read\n"


class QueuedStderr(io.TextIOBase):
    """A text stream whose `write` only appends to a queue.

    Args:
        put: writes bytes, blocking; raises OSError or ValueError if it cannot.
        is_terminal: what `isatty` returns.
        number: the file descriptor that `fileno` returns; None: there is none.
        limit_bytes: text that waits, at most.
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
        self._changed = threading.Condition()  # its lock may be taken twice by one thread: a signal handler may write, too
        self._ends = False
        self._writing = False
        self._missing = 0
        self._thread = threading.Thread(target=self._work, name="nograd-stderr", daemon=True)
        self._thread.start()
        self.dropped_lines = 0
        """Lines that were not written."""

        self.notice: Callable[[int], str] = _missing
        """Makes the line that says how many lines are missing."""

    # -- a text stream

    def write(self, text: str) -> int:
        """Queue text; if there is no room, drop it."""
        if not isinstance(text, str):  # libraries try `write(b"")` to find out what a stream takes
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
        """Queue text; wait for room as long as it takes. For threads that may wait."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes or self._bytes + len(text) <= self._limit or self._ends)
            self._append(text)

    def flush(self) -> None:
        """Return at once: printing does not wait for the reader."""

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

    # -- the end

    def drain(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until everything is written, a limited time; return whether it is."""
        with self._changed:
            is_empty = self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout_s)
            return is_empty and not self._missing

    def end(self, timeout_s: float = CLOSE_S) -> bool:
        """Write what is left, a limited time, and end the thread; return whether all of it was written."""
        is_written = self.drain(0.0 if self._ends else timeout_s)
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        if is_written:
            self._thread.join()
        return is_written

    # -- inside

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
            except (OSError, ValueError):  # full or closed: the next text is tried again
                with self._changed:
                    self._drop(text)
            else:
                with self._changed:
                    self._missing -= missing
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _next(self) -> str:
        """Return the text to write next; nothing at the end."""
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
    """Replace `sys.stderr` by a queue over it for as long as the context lasts; one that is there already is used."""
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
    """Write bytes to a file descriptor, past Python's own buffers, of which nothing is left to flush at the exit."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # another program has made the pipe or terminal non-blocking
            select.select([], [number], [])
