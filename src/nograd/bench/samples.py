"""Records of a load run: three times and an outcome per request, in columns that cost 26 bytes per request."""

from __future__ import annotations

from array import array
from http import HTTPStatus

__all__ = ["CLOSED", "MALFORMED", "REFUSED", "TIMED_OUT", "Samples", "name_of"]

TIMED_OUT, CLOSED, REFUSED, MALFORMED = -1, -2, -3, -4
"""Outcomes that are not an HTTP status."""

_NAMES = {
    TIMED_OUT: "timed out",
    CLOSED: "connection closed before the answer",
    REFUSED: "no connection",
    MALFORMED: "no HTTP",
}


def name_of(outcome: int) -> str:
    """Return an outcome in words, such as `503 Service Unavailable`."""
    if outcome in _NAMES:
        return _NAMES[outcome]
    try:
        return f"{outcome} {HTTPStatus(outcome).phrase}"
    except ValueError:
        return str(outcome)


class Samples:
    """Columns with one entry per ended request, in the order of their ends. Times are of one monotonic clock."""

    __slots__ = ("done", "due", "outcome", "received_bytes", "sent_bytes", "started")

    def __init__(self) -> None:
        self.due = array("d")
        """Due times."""

        self.started = array("d")
        """Times at which the generator handled the request; later than the due time if the generator is behind."""

        self.done = array("d")
        """Times at which the response was complete, or the request was given up."""

        self.outcome = array("h")
        """HTTP status, or one of the outcomes above."""

        self.sent_bytes = 0
        self.received_bytes = 0

    def __len__(self) -> int:
        return len(self.due)

    def add(self, due: float, started: float, done: float, outcome: int) -> None:
        """Record a request that has ended."""
        self.due.append(due)
        self.started.append(started)
        self.done.append(done)
        self.outcome.append(outcome)
