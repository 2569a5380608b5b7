"""What a server asks of the others that answer at its address: worker processes of one machine, or replicas of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["Peers"]


class Peers(Protocol):
    """The others, as one of them sees them."""

    @property
    def described(self) -> Mapping[str, Any]:
        """Which one this is, and what is known of all: for the live page."""
        ...

    async def metrics(self, own: bytes) -> bytes:
        """Return the metrics of all that tell theirs, each labelled.

        Args:
            own: this one's.
        """
        ...

    async def snapshot(self, own: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what the live page shows: of one and the same, wherever the question arrived.

        Args:
            own: returns this one's.
        """
        ...
