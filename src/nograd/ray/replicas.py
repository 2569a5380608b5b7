"""How many replicas: what may be said, and when there are to be more or fewer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from nograd.errors import ConfigError

__all__ = ["Load", "Replicas", "goal_s", "spare_percent", "wanted"]

LARGEST_GOAL_S = 1.0
GOAL_SHARE = 0.1
"""Of the time that a request has, what it may spend behind others before there are to be more replicas."""

FASTEST = 2.0
"""Times the replicas there are, at most, in one step: a backlog says that there are too few, and not how many too few."""

BUSY = 0.7
"""Share of its time that a replica may compute if there is one fewer; above, queues grow long by chance alone."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many there may be."""

    least: int
    most: int | None = None
    """None: as many as the cluster has room for."""

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise ValueError(f"{self.least} to {self.most}")

    @classmethod
    def parse(cls, text: str) -> Replicas:
        """Return what a text says: a number, `auto`, or `LEAST-MOST`.

        >>> Replicas.parse("3"), Replicas.parse("auto"), Replicas.parse("2-8")
        (Replicas(least=3, most=3), Replicas(least=1, most=None), Replicas(least=2, most=8))

        Raises:
            ConfigError: it says something else.
        """
        if text == "auto":
            return cls(1)
        first, dash, last = text.partition("-")
        try:
            return cls(int(first), int(last if dash else first))
        except ValueError:
            raise ConfigError(f"replicas is {text!r}; it must be a number, 'auto', or least and most, such as 2-8") from None

    def bounds(self, room: int) -> tuple[int, int]:
        """Return the least and the most, on a cluster that has room for so many now.

        >>> Replicas(1).bounds(4), Replicas(2, 8).bounds(4)
        ((1, 4), (2, 8))
        """
        return self.least, max(self.least, room) if self.most is None else self.most


def spare_percent(most: int, room: int) -> int:
    """Return by how much the replicas may be exceeded while they are replaced: by one, where there is always room for it.

    Of more than a hundred, one in a hundred: Ray Serve takes whole percents, and rounds up what they come to.

    >>> [spare_percent(most, room=4) for most in (1, 3, 4)]
    [100, 33, 0]
    """
    percent = max(1, 100 // most)
    return percent if room >= most + ceil(percent * most / 100) else 0


def goal_s(timeout_s: float) -> float:
    """Return the seconds of backlog above which there are to be more replicas.

    >>> goal_s(30.0), goal_s(2.0)
    (1.0, 0.2)
    """
    return min(LARGEST_GOAL_S, GOAL_SHARE * timeout_s)


@dataclass(frozen=True, slots=True)
class Load:
    """Of one replica, in the mean of the last seconds."""

    backlog_s: float
    """What waits there should take so long."""

    busy: float
    """Share of its time that it computed, 0 to 1."""


def wanted(loads: Sequence[Load], goal_s: float) -> int:
    """Return how many replicas there should be.

    More where requests wait longer than the goal, in proportion, twice as many at most. One fewer where nobody waits as long as
    half of the goal, and the others would still have time to spare. The backlog counts seconds: a long text and a short one are
    both one request, and ten cached ones are no work at all.

    Args:
        loads: of the replicas that told theirs; at least one.
        goal_s: seconds of backlog that are well.

    >>> wanted([Load(3.0, 1.0), Load(1.0, 1.0)], goal_s=1.0)
    4
    >>> wanted([Load(0.0, 0.5), Load(0.1, 0.4)], goal_s=1.0)
    2
    >>> wanted([Load(0.0, 0.3), Load(0.0, 0.2)], goal_s=1.0)
    1
    """
    count = len(loads)
    backlog_s = sum(load.backlog_s for load in loads) / count
    if backlog_s > goal_s:
        return ceil(count * min(FASTEST, backlog_s / goal_s))
    if count > 1 and backlog_s < goal_s / 2 and sum(load.busy for load in loads) / (count - 1) < BUSY:
        return count - 1
    return count
