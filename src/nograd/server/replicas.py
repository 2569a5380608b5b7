"""The interface to the other processes at a server's address: workers of one machine, or replicas of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["PeerView"]


class PeerView(Protocol):
    """One process's view of the others."""

    @property
    def described(self) -> Mapping[str, Any]:
        """This process's identity and the state of all, for the live page."""
        ...

    async def metrics(self, own: bytes) -> bytes:
        """Return the metrics of all reachable processes, each with a label.

        Args:
            own: metrics of this process.
        """
        ...

    async def snapshot(self, own: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return the live page's data of one fixed process, regardless of the process that received the request.

        Args:
            own: returns the data of this process.
        """
        ...
