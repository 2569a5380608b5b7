"""How many requests are let in beside those that wait: more than the device should manage, until that went wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from nograd.batching.queue import Waiting

__all__ = ["Booking"]

OVERBOOKING = 1.5
"""Requests are let in as if the device were this much faster than predicted: some will be cancelled, or others be quicker."""

STRICT_GOALS = 20
"""After a request was given up, none is let in that should be late, for so many times the seconds that it was given."""


@dataclass(slots=True)
class Booking:
    """Takes the device for faster than predicted as long as nobody is given up: bursts are served that seem too long.

    Where the load stays above what the device can do, whoever is let in beyond that waits for nothing. So for a while after
    somebody was, a request is refused at once if it should be late in a batch as full as those before it.
    """

    strict_until: float = -inf
    """Seconds on the batcher's clock."""

    def wait_s(self, blocks: int, block_s: float, alone_s: float, now: float) -> tuple[float, float]:
        """Return the seconds that a request waits for those before it, and then those of its own run.

        Args:
            blocks: full batches before it.
            block_s: seconds of one, on all lanes together.
            alone_s: of the request's own run, if nobody joins it.
            now: seconds.
        """
        if now >= self.strict_until:
            return blocks * block_s / OVERBOOKING, alone_s
        return blocks * block_s, max(alone_s, block_s) if blocks else alone_s

    def given_up(self, late: Sequence[Waiting], now: float) -> None:
        """Note requests that were let in, and whose time ran out."""
        if late:
            self.strict_until = now + STRICT_GOALS * late[-1].slack
