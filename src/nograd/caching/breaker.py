"""A circuit breaker: after a failure, calls are skipped for a while. Pure: callers pass the time."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Breaker"]


@dataclass(slots=True)
class Breaker:
    """Calls pass while the breaker is closed. A failure opens it, and for `period_s` no call passes. After that, one trial
    call passes, and other calls are skipped until its result is known. A successful call closes the breaker.
    """

    period_s: float = 5.0
    _opened_at: float | None = None
    _trying_since: float | None = None

    @property
    def is_open(self) -> bool:
        """True from a failure until the next success."""
        return self._opened_at is not None

    def may_call(self, now: float) -> bool:
        """Return whether a call may be made at `now`. If so, the caller must report its success or failure.

        A trial without a report within a period (its thread may have died) is abandoned.
        """
        if self._opened_at is None:
            return True
        if now - max(self._opened_at, self._trying_since or self._opened_at) < self.period_s:
            return False
        self._trying_since = now
        return True

    def succeeded(self) -> None:
        """Record a successful call."""
        self._opened_at = self._trying_since = None

    def failed(self, now: float) -> None:
        """Record a failed call or a timeout."""
        self._opened_at, self._trying_since = now, None
