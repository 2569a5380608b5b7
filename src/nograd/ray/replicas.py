"""The number of replicas: valid settings, and the decision for more or fewer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from nograd.errors import ConfigError

__all__ = ["ReplicaLoad", "Replicas", "goal_s", "spare_percent", "wanted_replicas"]

LARGEST_GOAL_S = 1.0
GOAL_SHARE = 0.1
"""Share of a request's timeout that it may wait for others before replicas are added."""

FASTEST = 2.0
"""Maximum growth factor in one step: a backlog shows that there are too few replicas, not how many too few."""

BUSY = 0.7
"""Maximum busy share of a replica after removing one. Above it, queues grow long by chance alone."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """Limits of the number of replicas."""

    least: int
    most: int | None = None
    """None: as many as the cluster has room for."""

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise ValueError(f"{self.least} to {self.most}")

    @classmethod
    def parse(cls, text: str) -> Replicas:
        """Return the limits in a text: a number, `auto`, or `LEAST-MOST`.

        >>> Replicas.parse("3"), Replicas.parse("auto"), Replicas.parse("2-8")
        (Replicas(least=3, most=3), Replicas(least=1, most=None), Replicas(least=2, most=8))

        Raises:
            ConfigError: the text has none of these forms.
        """
        if text == "auto":
            return cls(1)
        first, dash, last = text.partition("-")
        try:
            return cls(int(first), int(last if dash else first))
        except ValueError:
            raise ConfigError(f"replicas is {text!r}; it must be a number, 'auto', or least and most, such as 2-8") from None

    def bounds(self, room: int) -> tuple[int, int]:
        """Return the least and the most replicas, on a cluster with room for `room` replicas now.

        >>> Replicas(1).bounds(4), Replicas(2, 8).bounds(4)
        ((1, 4), (2, 8))
        """
        return self.least, max(self.least, room) if self.most is None else self.most


def spare_percent(most: int, room: int) -> int:
    """Return the percentage of additional replicas during a replacement: one replica, if there is always room for it.

    With more than a hundred replicas it is 1 %: Ray Serve takes whole percents, and rounds their result up.

    >>> [spare_percent(most, room=4) for most in (1, 3, 4)]
    [100, 33, 0]
    """
    percent = max(1, 100 // most)
    return percent if room >= most + ceil(percent * most / 100) else 0


def goal_s(timeout_s: float) -> float:
    """Return the seconds of backlog above which replicas are added.

    >>> goal_s(30.0), goal_s(2.0)
    (1.0, 0.2)
    """
    return min(LARGEST_GOAL_S, GOAL_SHARE * timeout_s)


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Load of one replica, averaged over the last seconds."""

    backlog_s: float
    """Estimated seconds of the waiting work."""

    busy: float
    """Share of its time that the replica computed, 0 to 1."""


def wanted_replicas(loads: Sequence[ReplicaLoad], goal_s: float) -> int:
    """Return the number of replicas that there should be.

    If requests wait longer than the goal, the number grows in proportion, at most twofold. It falls by one if requests wait
    less than half of the goal, and the remaining replicas would still have time to spare. The backlog is in seconds,
    because a long text and a short one are both one request, and ten cached ones are no work at all.

    Args:
        loads: loads of the replicas that reported one; at least one.
        goal_s: acceptable seconds of backlog.

    >>> wanted_replicas([ReplicaLoad(3.0, 1.0), ReplicaLoad(1.0, 1.0)], goal_s=1.0)
    4
    >>> wanted_replicas([ReplicaLoad(0.0, 0.5), ReplicaLoad(0.1, 0.4)], goal_s=1.0)
    2
    >>> wanted_replicas([ReplicaLoad(0.0, 0.3), ReplicaLoad(0.0, 0.2)], goal_s=1.0)
    1
    """
    count = len(loads)
    backlog_s = sum(load.backlog_s for load in loads) / count
    if backlog_s > goal_s:
        return ceil(count * min(FASTEST, backlog_s / goal_s))
    if count > 1 and backlog_s < goal_s / 2 and sum(load.busy for load in loads) / (count - 1) < BUSY:
        return count - 1
    return count
