"""Whether something else kept the machine busy while a round was measured, told by the reference that runs in every round."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ["MAX_DISCARDS", "RoundWatch"]

FACTOR = 1.3
"""How many times slower than when all is quiet a reference is that tells of a neighbour."""

QUANTILE = 0.2
"""The share of rounds that is taken to be quiet."""

WINDOW = 20
"""Rounds that are looked back on. A machine that slowly gets twice as slow over 200 rounds gets 7 % slower over these."""

MAX_DISCARDS = 3
"""Rounds thrown away in a row, at most: where it never gets quiet, a noisy answer is better than none."""


class RoundWatch:
    """Judges rounds, one after the other, by the time that the reference took.

    A round is contaminated where the reference took more than 1.3 times the lower 20 % quantile of its last 20 times, those
    of contaminated rounds and its own among them. Up to five times that quantile is the smallest: of the first rounds one
    quiet one is enough to tell the others after it. The very first has nothing to be compared with and is taken; the
    statistics bear a few bad rounds, and no candidate is dropped by one round.

    Where CPU time is known, a round is contaminated also where the reference got a share of the CPU that is 1.3 times
    smaller than it gets when all is quiet (the mirrored quantile). That sees a neighbour while a machine gets faster.

    A fourth bad round in a row is taken: the machine has become slower, and what was quiet before no longer counts.
    """

    def __init__(self) -> None:
        self.discarded = 0
        """Rounds that were thrown away."""

        self.is_noisy = False
        """A round had to be taken though it was contaminated."""

        self._in_a_row = 0
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._idle: deque[float] = deque(maxlen=WINDOW)

    def note(self, seconds: float, cpu_s: float | None = None) -> bool:
        """Return whether to take the round in which the reference took this long; False: throw it away.

        Args:
            seconds: what the reference took, by the wall clock.
            cpu_s: what CPU time it used meanwhile, where known.
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
