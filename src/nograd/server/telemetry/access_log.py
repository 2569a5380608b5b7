"""The access log: what every request was answered. A request only appends a tuple; a thread makes lines and writes them.

At most LIMIT accesses are held. Where lines are not taken as fast as requests come (a pipe that nobody reads), the rest is
dropped, counted and told: a log may cost lines, never answers (docs/adr/0014).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from nograd.server.telemetry.logs import line_of

__all__ = ["CLIENT_LEFT", "Access", "AccessLog"]

CLIENT_LEFT = 499
"""The status in the log where the client left before its answer, as nginx has it."""

LIMIT = 65536
"""Accesses that wait to be written, at most: about 30 MB."""

WRITE_EVERY_S = 0.25
"""Seconds for which accesses are gathered into one write. Without requests nothing wakes up."""

FLUSH_S = 5.0
"""Seconds that the last lines may take when the server ends: whoever does not read them may not keep it."""


class Access(NamedTuple):
    """One request and its answer."""

    at: float
    """When it was answered, in seconds since 1970."""

    protocol: str
    """`http` or `grpc`."""

    method: str
    path: str
    model: str | None
    request_id: str | None
    status: int
    """HTTP's, for gRPC too: `protocol.status_of`; 499 where the client left."""

    seconds: float
    """From its head, or body where it is an infer call, to its answer."""

    bytes_in: int | None
    bytes_out: int
    client: str | None
    """Address of the other end."""

    key: str | None
    """Name of the API key, never the key."""

    error: str | None
    """What the client was told."""


class AccessLog:
    """Takes accesses in the event loop, and writes them in a thread of its own.

    Args:
        log_format: one of `config.FORMATS`.
        write: takes several whole lines; called in the thread.
        limit: accesses that wait, at most.
    """

    def __init__(self, log_format: str, write: Callable[[str], object], *, limit: int = LIMIT) -> None:
        self._format = log_format
        self._write = write
        self._limit = limit
        self._pending: list[Access] = []
        self._batches: SimpleQueue[tuple[list[Access], int] | None] = SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._noted = 0
        self._written = 0  # by the thread only, as the others by the loop only: no lock
        self._untold = 0
        self.dropped = 0
        """Accesses that were not written, for there was no room."""

        self._thread = threading.Thread(target=self._work, name="nograd-access-log", daemon=True)
        self._is_open = False

    def open(self) -> None:
        """Start the thread."""
        self._is_open = True
        self._thread.start()

    def note(self, access: Access) -> None:
        """Have one access written, soon."""
        if self._noted - self._written >= self._limit:
            self.dropped += 1
            self._untold += 1
            return
        self._noted += 1
        self._pending.append(access)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._hand_over)

    def _hand_over(self) -> None:
        self._timer = None
        batch, self._pending = self._pending, []
        untold, self._untold = self._untold, 0
        if self._is_open and (batch or untold):
            self._batches.put((batch, untold))

    def close(self) -> None:
        """Write what is left, and end the thread."""
        if not self._is_open:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._is_open = False
        self._batches.put(None)
        self._thread.join(FLUSH_S)

    # -- in the thread

    def _work(self) -> None:
        while (handed := self._batches.get()) is not None:
            batch, untold = handed
            lines = [_line(self._format, access) for access in batch]
            if untold:
                fields = {"lines": untold, "reason": f"{self._limit} wait to be written already"}
                lines.append(line_of(self._format, time.time(), "warning", "access_log_dropped", fields))
            try:
                self._write("".join([f"{line}\n" for line in lines]))
            except (OSError, ValueError):  # nobody reads stderr any more, or it is closed: answers go on
                self.dropped += len(batch)
            self._written += len(batch)


def _line(log_format: str, access: Access) -> str:
    level = "error" if access.status >= 500 and access.status not in (503, 504) else "info"
    fields = {
        "protocol": access.protocol,
        "method": access.method,
        "path": access.path,
        "model": access.model,
        "id": access.request_id,
        "status": access.status,
        "ms": round(access.seconds * 1000, 3),
        "bytes_in": access.bytes_in,
        "bytes_out": access.bytes_out,
        "client": access.client,
        "key": access.key,
        "error": access.error,
    }
    return line_of(log_format, access.at, level, "access", fields)
