"""Test a median by counting: a sequential test and a range. No shape of the noise is assumed; pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import comb, log
from statistics import median

from nograd.errors import ConfigError
from nograd.report.figures import Figure

__all__ = ["log_evidence", "median_figure", "successes_needed"]


def log_evidence(successes: int, trials: int) -> float:
    """Return the logarithm of the evidence that an event happens in more than half of all cases.

    The evidence is the likelihood ratio of a probability p, spread evenly over (1/2, 1], against p = 1/2: `2 * integral p^k
    (1 - p)^(n - k) dp / 2^-n`, which is `sum_(j <= k) C(n + 1, j) / ((n + 1) C(n, k))`. If p is 1/2 or less, the ratio
    never rises on average. By Ville's inequality it then ever reaches `1 / alpha` with probability alpha at most, however
    often it is checked and whenever the test stops (Ramdas, Grunwald, Vovk, Shafer, "Game-theoretic statistics and safe
    anytime-valid inference", Statistical Science, 2023).

    Args:
        successes: cases in which the event happened.
        trials: all cases.
    """
    return log(sum(comb(trials + 1, j) for j in range(successes + 1))) - log((trials + 1) * comb(trials, successes))


@lru_cache(maxsize=4096)
def successes_needed(trials: int, alpha: float) -> int:
    """Return the minimum number of successes whose evidence reaches `1 / alpha`; `trials + 1` if even `trials` do not.

    Args:
        trials: number of cases so far.
        alpha: probability of an error, over all checks together.
    """
    below, ways, needed = 2 ** (trials + 1) - 1, 1, trials + 1  # starts with as many successes as trials; each step removes one
    while needed and log(below) - log((trials + 1) * ways) >= -log(alpha):
        needed -= 1
        below -= comb(trials + 1, needed)
        ways = comb(trials, needed - 1) if needed else 1
    return needed


def median_figure(values: Iterable[float], *, confidence: float = 0.95) -> Figure:
    """Return the median, and the range between two of the values that contains the true median.

    The range is as narrow as the sign test allows (David, Nagaraja, Order Statistics, 2003, 7.1). No range of five or fewer
    values reaches 95 %: it then extends from the smallest to the largest value, and with five of them contains the median
    with 94 %. It requires a number of values that was fixed in advance: it is descriptive and must not decide when to stop.

    Args:
        values: one or more values, in any order.
        confidence: minimum probability that the range contains the true median.

    Raises:
        ConfigError: there is no value.
    """
    found = sorted(values)
    if not found:
        raise ConfigError("the median needs a value; give at least one")
    outside = _num_outside(len(found), confidence)
    return Figure(median(found), found[outside], found[-1 - outside], len(found))


@lru_cache(maxsize=4096)
def _num_outside(count: int, confidence: float) -> int:
    """Return the number of values at each end that may be outside the range."""
    tail, log_limit = 0, log((1 - confidence) / 2) + count * log(2)
    for outside in range(count // 2 + 1):
        tail += comb(count, outside)
        if log(tail) > log_limit:
            return max(outside - 1, 0)
    return 0  # not reached: half of all values are more than any tail
