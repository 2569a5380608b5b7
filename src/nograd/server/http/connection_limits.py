"""Limits and timeouts of one HTTP connection. Decisions are functions of values; time comes in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nograd.server.settings.definition import ServeConfig

__all__ = ["Activity", "Clock", "ConnectionLimits", "LimitVerdict", "Phase"]

PROGRESS_BYTES = 1 << 20
"""Bytes of a long answer that a client must read in each `send_timeout_s`."""


class Phase(IntEnum):
    """Part of a request that the connection reads."""

    IDLE = 0
    HEAD = 1
    BODY = 2
    DECLINED = 3
    """The rest of a head with an upgrade, which is parsed again without it."""


class LimitVerdict(IntEnum):
    """Result of checking a connection's timeouts."""

    KEEP = 0
    IDLE = 1
    """No request arrived within the keep-alive time."""

    HEAD = 2
    BODY = 3
    UNREAD = 4
    """The client does not read its answer."""


VERDICTS = {
    Phase.IDLE: LimitVerdict.IDLE,
    Phase.HEAD: LimitVerdict.HEAD,
    Phase.DECLINED: LimitVerdict.HEAD,
    Phase.BODY: LimitVerdict.BODY,
}


class Activity(NamedTuple):
    """Current activity of a connection."""

    phase: Phase
    messages: int
    """Number of requests since it was opened."""

    waits_for_us: bool
    """Whether the client must wait: an answer is due, or the server does not read at present."""

    unread_bytes: int
    """Bytes of answers that the client has not read yet."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections of one server, in bytes and seconds."""

    max_header_bytes: int
    max_headers: int
    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    send_timeout_s: float
    max_connections: int

    @classmethod
    def of(cls, config: ServeConfig) -> ConnectionLimits:
        """Return the limits of a server's settings."""
        return cls(
            config.max_header_bytes, config.max_headers, config.header_timeout_s, config.timeout_s,
            config.keep_alive_s, config.send_timeout_s, config.max_connections,
        )  # fmt: skip

    def of_phase(self, phase: Phase) -> float:
        """Return the maximum seconds of a phase."""
        if phase is Phase.IDLE:
            return self.keep_alive_s
        return self.body_timeout_s if phase is Phase.BODY else self.header_timeout_s


class Clock:
    """Measures the duration of a connection's current activity. It is checked about once a second, without cost per request."""

    __slots__ = ("_reading_since", "_seen", "_unread", "_writing_since")

    def __init__(self, now: float) -> None:
        self._seen: tuple[Phase, int, bool] | None = None
        self._reading_since = self._writing_since = now
        self._unread = 0

    def check(self, activity: Activity, now: float, limits: ConnectionLimits) -> LimitVerdict:
        """Check the timeouts, and store the activity for the next call."""
        unread = activity.unread_bytes
        is_excused = activity.waits_for_us or (unread > 0 and activity.phase is Phase.IDLE)
        reading = activity.phase, activity.messages, is_excused
        moved = reading != self._seen
        if moved:
            self._seen, self._reading_since = reading, now
        if moved or not unread or not self._unread or unread <= self._unread - PROGRESS_BYTES:
            self._unread, self._writing_since = unread, now
        if unread and now - self._writing_since >= limits.send_timeout_s:
            return LimitVerdict.UNREAD
        if is_excused or now - self._reading_since < limits.of_phase(activity.phase):
            return LimitVerdict.KEEP
        return VERDICTS[activity.phase]
