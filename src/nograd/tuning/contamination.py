"""Detect other load on the machine during a round, by the reference that runs in every round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["MAX_DISCARDS", "RoundWatch"]

FACTOR = 1.3
"""A reference this many times slower than in quiet rounds indicates other load."""

QUANTILE = 0.2
"""Share of rounds that are assumed to be quiet."""

WINDOW = 20
"""Number of past rounds for comparison. If a machine slows down twofold over 200 rounds, it slows down by 7 % over these."""

MAX_DISCARDS = 3
"""Maximum rounds to discard in a row. If the machine never gets quiet, a noisy answer is better than none."""


class RoundWatch:
    """Judge rounds, in order, by the time of the reference.

    A round is contaminated if the reference took more than 1.3 times the lower 20 % quantile of its last 20 times. These
    include the times of contaminated rounds and of the round itself. With up to five times that quantile is the smallest
    one, so a single quiet round among the first ones exposes the contaminated rounds after it. The very first round has
    nothing to compare with and is accepted; the statistics tolerate a few bad rounds, and no candidate is dropped because
    of one round.

    If CPU time is known, a round is also contaminated if the reference's share of the CPU was 1.3 times smaller than in
    quiet rounds (the mirrored quantile). This detects other load even while the machine gets faster.

    A fourth bad round in a row is accepted: the machine has become slower, so the earlier quiet rounds no longer count.
    """

    def __init__(self) -> None:
        self.discarded = 0
        """Number of discarded rounds."""

        self.is_noisy = False
        """True if a contaminated round had to be accepted."""

        self._in_a_row = 0
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._idle: deque[float] = deque(maxlen=WINDOW)

    def note(self, seconds: float, cpu_s: float | None = None) -> bool:
        """Return True to accept the round, False to discard it.

        Args:
            seconds: wall-clock time of the reference in the round.
            cpu_s: CPU time of the reference in the round; None if unknown.
        """
        is_calm = _is_calm(seconds, self._seconds)
        if cpu_s:
            is_calm &= _is_calm(seconds / cpu_s, self._idle)
        if not is_calm and self._in_a_row < MAX_DISCARDS:
            self._in_a_row += 1
            self.discarded += 1
            return False
        if not is_calm:
            self.is_noisy = True
            self._seconds, self._idle = (_last(past, MAX_DISCARDS) for past in (self._seconds, self._idle))
        self._in_a_row = 0
        return True


def _is_calm(value: float, past: deque[float]) -> bool:
    past.append(value)
    return value <= FACTOR * sorted(past)[int(QUANTILE * (len(past) - 1))]


def _last(past: Iterable[float], count: int) -> deque[float]:
    return deque(list(past)[-count:], maxlen=WINDOW)
