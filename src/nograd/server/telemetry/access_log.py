"""The access log: one line per request. The event loop only appends a record; a thread formats and writes lines.

At most LIMIT records are queued. If lines are written too slowly (a pipe that is not read), further records are dropped,
counted and reported: logging may lose lines, but never delays responses (docs/adr/0014).
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
"""Status in the log if the client disconnected before the response, as in nginx."""

LIMIT = 65536
"""Maximum number of queued records, about 30 MB."""

WRITE_EVERY_S = 0.25
"""Interval of writes, in seconds. Without requests there are no wake-ups."""

FLUSH_S = 5.0
"""Maximum seconds for writing the last lines at exit; a reader that stalls must not delay it."""


class Access(NamedTuple):
    """A request and its response."""

    at: float
    """Time of the response, in seconds since 1970."""

    protocol: str
    """`http` or `grpc`."""

    method: str
    path: str
    model: str | None
    request_id: str | None
    status: int
    """HTTP status, also for gRPC (`protocol.status_of`); 499 if the client disconnected."""

    seconds: float
    """Seconds from the request's head, or for infer calls its body, to the response."""

    bytes_in: int | None
    bytes_out: int
    client: str | None
    """Address of the client."""

    key: str | None
    """Name of the API key, never the key itself."""

    error: str | None
    """Error message sent to the client."""


class AccessLog:
    """Collects records in the event loop and writes them in a separate thread.

    Args:
        log_format: one of `config.FORMATS`.
        write: writes several complete lines; called in the thread.
        limit: maximum number of queued records.
    """

    def __init__(self, log_format: str, write: Callable[[str], object], *, limit: int = LIMIT) -> None:
        self._format = log_format
        self._write = write
        self._limit = limit
        self._pending: list[Access] = []
        self._batches: SimpleQueue[tuple[list[Access], int] | None] = SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._noted = 0
        self._written = 0  # written by the thread only, the others by the loop only: no lock
        self._untold = 0
        self.dropped = 0
        """Number of records dropped because the queue was full."""

        self._thread = threading.Thread(target=self._work, name="nograd-access-log", daemon=True)
        self._is_open = False

    def open(self) -> None:
        """Start the thread."""
        self._is_open = True
        self._thread.start()

    def note(self, access: Access) -> None:
        """Queue a record."""
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
        """Write the remaining records, and end the thread."""
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
            except (OSError, ValueError):  # stderr is closed or not read: serving continues
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
