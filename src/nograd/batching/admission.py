"""Admission: overbook beyond the predicted capacity until a request is dropped. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from nograd.batching.queue import Waiting

__all__ = ["Overbooking"]

OVERBOOKING = 1.5
"""Admission assumes that the device is faster than predicted by this factor: some requests will be cancelled or run faster."""

STRICT_GOALS = 20
"""After a request was dropped, overbooking is off for this many times its time limit."""


@dataclass(slots=True)
class Overbooking:
    """Overbooks while no request is dropped, so that bursts are served that seem too long.

    If the load stays above the capacity, overbooked requests wait in vain. After a request was dropped, requests are therefore
    rejected immediately for a while if they would be late in a batch as full as those before it.
    """

    strict_until: float = -inf
    """Seconds on the batcher's clock."""

    def wait_s(self, blocks: int, block_s: float, alone_s: float, now: float) -> tuple[float, float]:
        """Return the seconds that a request waits for earlier requests, and the seconds of its own run.

        Args:
            blocks: full batches before it.
            block_s: seconds per batch, over all lanes.
            alone_s: seconds of the request's own run without other requests.
            now: time in seconds.
        """
        if now >= self.strict_until:
            return blocks * block_s / OVERBOOKING, alone_s
        return blocks * block_s, max(alone_s, block_s) if blocks else alone_s

    def given_up(self, late: Sequence[Waiting], now: float) -> None:
        """Record admitted requests that were dropped."""
        if late:
            self.strict_until = now + STRICT_GOALS * late[-1].slack
