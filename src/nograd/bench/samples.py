"""What a load run records of each request: three times and an outcome, in columns that cost 26 bytes a request."""

from __future__ import annotations

from array import array
from http import HTTPStatus

__all__ = ["CLOSED", "MALFORMED", "REFUSED", "TIMED_OUT", "Samples", "name_of"]

TIMED_OUT, CLOSED, REFUSED, MALFORMED = -1, -2, -3, -4
"""Outcomes that are no HTTP status."""

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
    """Columns, one entry for each request that has ended, in the order of their ends. Times are of one monotonic clock."""

    __slots__ = ("done", "due", "outcome", "received_bytes", "sent_bytes", "started")

    def __init__(self) -> None:
        self.due = array("d")
        """When it should have been sent."""

        self.started = array("d")
        """When the generator came to it: later than it was due where the generator is behind."""

        self.done = array("d")
        """When its answer was complete, or it was given up."""

        self.outcome = array("h")
        """An HTTP status, or one of this file's."""

        self.sent_bytes = 0
        self.received_bytes = 0

    def __len__(self) -> int:
        return len(self.due)

    def add(self, due: float, started: float, done: float, outcome: int) -> None:
        """Note a request that has ended."""
        self.due.append(due)
        self.started.append(started)
        self.done.append(done)
        self.outcome.append(outcome)
