"""When requests of an open loop arrive, whatever became of those before them. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from math import isfinite
from typing import Literal, TypeAlias, get_args

from nograd.errors import ConfigError

__all__ = ["KINDS", "Arrivals", "arrivals"]

Arrivals: TypeAlias = Literal["poisson", "uniform"]

KINDS: tuple[Arrivals, ...] = get_args(Arrivals)
"""`poisson`: as many independent users make them. `uniform`: as a clock makes them."""


def arrivals(kind: Arrivals, rate: float, seed: int = 0) -> Iterator[float]:
    """Yield times of arrival without end, in seconds from the beginning.

    >>> from itertools import islice
    >>> list(islice(arrivals("uniform", 4.0), 3))
    [0.25, 0.5, 0.75]

    Args:
        kind: how they are spread.
        rate: arrivals a second, on average.
        seed: of the random ones.

    Raises:
        ConfigError: there is no such kind, or the rate is not above 0.
    """
    if kind not in KINDS:
        raise ConfigError(f"arrivals is {kind!r}; it must be {' or '.join(KINDS)}")
    if not (isfinite(rate) and rate > 0):
        raise ConfigError(f"rate is {rate}; it must be above 0, finite")
    return _poisson(rate, random.Random(seed)) if kind == "poisson" else (number / rate for number in count(1))  # noqa: S311


def _poisson(rate: float, source: random.Random) -> Iterator[float]:
    at = 0.0
    while True:
        at += source.expovariate(rate)
        yield at
