"""The timeouts of all connections of a server, enforced about once a second, so that a request needs no timer of its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from typing import Any

from nograd.server.http.connection import Connection
from nograd.server.http.connection_limits import LimitVerdict
from nograd.server.telemetry.logs import event

__all__ = ["ConnectionWatch"]

LONGEST_STEP_S = 2.0
"""Maximum seconds between two valid checks: if the event loop was busy for longer, clients could not be served."""

REASONS = {
    LimitVerdict.IDLE: "idle",
    LimitVerdict.HEAD: "incomplete headers",
    LimitVerdict.BODY: "incomplete body",
    LimitVerdict.UNREAD: "response not read",
}


class ConnectionWatch:
    """Closes connections whose clients take too long.

    Args:
        connections: the open connections; the set changes while the server runs.
    """

    def __init__(self, connections: Collection[Any]) -> None:
        self._connections = connections
        self._last = self._now = 0.0

    def look(self, now: float) -> None:
        """Enforce the timeouts; `now` is in seconds of a monotonic clock."""
        self._now += min(now - self._last, LONGEST_STEP_S)
        self._last = now
        closed: Counter[LimitVerdict] = Counter()
        for connection in list(self._connections):
            if isinstance(connection, Connection):
                closed[connection.enforce_timeouts(self._now)] += 1
        for verdict, reason in REASONS.items():
            if closed[verdict]:
                level = logging.DEBUG if verdict is LimitVerdict.IDLE else logging.INFO
                event("connections_timed_out", level, connections=closed[verdict], reason=reason)
