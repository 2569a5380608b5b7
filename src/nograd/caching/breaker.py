"""A circuit breaker: after a failure nobody is kept waiting again for a while. Pure: the time is given."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Breaker"]


@dataclass(slots=True)
class Breaker:
    """Closed, calls pass. After a failure it is open for `period_s`: no call passes. Then one call may try; the others wait for
    what comes of it without being made, and its success closes the breaker."""

    period_s: float = 5.0
    _opened_at: float | None = None
    _trying_since: float | None = None

    @property
    def is_open(self) -> bool:
        """True from a failure to the next success."""
        return self._opened_at is not None

    def may_call(self, now: float) -> bool:
        """Whether a call may be made at `now`; who is told so must tell what came of it.

        A trial that nobody reported within a period (its thread may have died) is given up.
        """
        if self._opened_at is None:
            return True
        if now - max(self._opened_at, self._trying_since or self._opened_at) < self.period_s:
            return False
        self._trying_since = now
        return True

    def succeeded(self) -> None:
        """Note that a call returned."""
        self._opened_at = self._trying_since = None

    def failed(self, now: float) -> None:
        """Note that a call failed or timed out."""
        self._opened_at, self._trying_since = now, None
