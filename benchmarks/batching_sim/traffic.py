"""Cost curves, arrivals and goals of the comparison; times in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nograd import CostCurve
from nograd.batching import Waiting

__all__ = ["CURVES", "GOALS", "LOADS", "Curve", "Point", "noisy", "points", "requests"]

MINILM_ONE_THREAD = (0.0235, 0.029, 0.039, 0.052, 0.0573, 0.0625, 0.0678, 0.073, 0.0819, 0.0908, 0.0996, 0.1085, 0.1174, 0.1263,
                     0.1351, 0.144, *(0.144 + (0.217 - 0.144) / 16 * k for k in range(1, 17)))  # fmt: skip
"""Eager MiniLM, 16 tokens, one thread, measured at 1, 2, 3, 4, 8, 16 and 32 rows (batching.md, section 1)."""


@dataclass(frozen=True)
class Curve:
    """Seconds by rows."""

    name: str
    times: tuple[float, ...]

    @property
    def max_rows(self) -> int:
        return len(self.times)

    def seconds(self, rows: int) -> float:
        return self.times[rows - 1]

    @property
    def capacity(self) -> float:
        """Requests per second, at most."""
        return max(rows / seconds for rows, seconds in enumerate(self.times, 1))

    def measured(self) -> CostCurve:
        return CostCurve(tuple(range(1, self.max_rows + 1)), self.times)


def _line(name: str, fixed_ms: float, row_ms: float, max_rows: int = 32) -> Curve:
    return Curve(name, tuple((fixed_ms + row_ms * rows) / 1000 for rows in range(1, max_rows + 1)))


CURVES = (
    _line("gpu", 5, 0.25),
    _line("even", 5, 1),
    _line("cpu", 2, 8),
    Curve("minilm", MINILM_ONE_THREAD),
    Curve("tiles of 8", tuple(0.004 * (1 + (rows - 1) // 8) + 0.002 for rows in range(1, 33))),
)
GOALS: tuple[tuple[float, ...], ...] = ((4.0,), (10.0,), (30.0,), (4.0, 10.0, 40.0))
"""In times of a single row; the last mixes three."""

LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.3)
"""Shares of the capacity."""


@dataclass(frozen=True)
class Point:
    """One point of the grid."""

    curve: Curve
    goals: tuple[float, ...]
    bursts: bool
    load: float
    seed: int

    @property
    def goal_s(self) -> float:
        """The median goal."""
        return sorted(self.goals)[len(self.goals) // 2] * self.curve.seconds(1)


def points() -> Iterator[Point]:
    """Return the grid: 5 curves, 4 goals, Poisson and bursty arrivals, 8 loads."""
    for index, curve in enumerate(CURVES):
        for goals in GOALS:
            for bursts in (False, True):
                for load in LOADS:
                    yield Point(curve, goals, bursts, load, seed=int(1000 * load) + index)


def requests(point: Point, count: int) -> list[Waiting]:
    """Return Poisson arrivals, or arrivals with 3 times the mean rate for a fifth of the time and half of it else."""
    rng = np.random.default_rng(point.seed)
    rate = point.load * point.curve.capacity
    goals = rng.choice(np.array(point.goals) * point.curve.seconds(1), count)
    times = _bursts(rng, rate, count) if point.bursts else np.cumsum(rng.exponential(1 / rate, count)).tolist()
    return [Waiting(1, when, when + goal) for when, goal in zip(times, goals.tolist(), strict=True)]


def _bursts(rng: np.random.Generator, rate: float, count: int) -> list[float]:
    times: list[float] = []
    now, high, until = 0.0, False, rng.exponential(0.8)
    while len(times) < count:
        gap = rng.exponential(1 / (rate * (3.0 if high else 0.5)))
        if now + gap > until:
            now, high = until, not high
            until = now + rng.exponential(0.2 if high else 0.8)
        else:
            now += gap
            times.append(now)
    return times


def noisy(curve: Curve, seed: int) -> Callable[[int, int], float]:
    """Return the device: log-normal noise of 5 %, and one run in 500 that takes three times as long."""
    rng = np.random.default_rng(seed)
    factors: list[float] = []

    def seconds(rows: int, longest: int) -> float:  # noqa: ARG001
        if not factors:
            found = np.exp(rng.normal(-0.00125, 0.05, 4096))
            found[rng.random(4096) < 0.002] *= 3
            factors.extend(found.tolist())
        return curve.seconds(rows) * factors.pop()

    return seconds
