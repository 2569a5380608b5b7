"""Arrival times of an open loop, independent of earlier responses. Pure functions."""

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
"""`poisson`: like many independent users. `uniform`: at equal intervals."""


def arrivals(kind: Arrivals, rate: float, seed: int = 0) -> Iterator[float]:
    """Yield arrival times without end, in seconds from the start.

    >>> from itertools import islice
    >>> list(islice(arrivals("uniform", 4.0), 3))
    [0.25, 0.5, 0.75]

    Args:
        kind: distribution of the arrivals.
        rate: mean arrivals per second.
        seed: random seed for `poisson`.

    Raises:
        ConfigError: the kind is unknown, or the rate is not above 0.
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
