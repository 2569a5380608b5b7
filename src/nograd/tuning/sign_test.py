"""What can be said of a median by counting: a sequential test, and a range. Whatever the noise looks like; pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import comb, log
from statistics import median

from nograd.errors import ConfigError
from nograd.report.figures import Figure

__all__ = ["log_evidence", "median_figure", "successes_needed"]


def log_evidence(successes: int, trials: int) -> float:
    """Return the logarithm of the evidence that something happens in more than half of all cases.

    It is the likelihood ratio of a probability p, spread evenly over (1/2, 1], against p = 1/2:
    `2 * integral p^k (1 - p)^(n - k) dp / 2^-n`, which is `sum_(j <= k) C(n + 1, j) / ((n + 1) C(n, k))`. Where p is 1/2 or
    less the ratio never rises on average, so by Ville's inequality it ever reaches `1 / alpha` with probability alpha at most,
    however often one looks and whenever one stops (Ramdas, Grunwald, Vovk, Shafer, "Game-theoretic statistics and safe
    anytime-valid inference", Statistical Science, 2023).

    Args:
        successes: cases in which it happened.
        trials: all cases.
    """
    return log(sum(comb(trials + 1, j) for j in range(successes + 1))) - log((trials + 1) * comb(trials, successes))


@lru_cache(maxsize=4096)
def successes_needed(trials: int, alpha: float) -> int:
    """Return the fewest successes whose evidence reaches `1 / alpha`; `trials + 1` where all are not enough.

    Args:
        trials: cases so far.
        alpha: probability of being wrong, over all times that one looks.
    """
    below, ways, needed = 2 ** (trials + 1) - 1, 1, trials + 1  # for as many successes as trials; then one fewer in each turn
    while needed and log(below) - log((trials + 1) * ways) >= -log(alpha):
        needed -= 1
        below -= comb(trials + 1, needed)
        ways = comb(trials, needed - 1) if needed else 1
    return needed


def median_figure(values: Iterable[float], *, confidence: float = 0.95) -> Figure:
    """Return the median, and the range between two of the values that holds the true median.

    The range is as narrow as the sign test allows (David, Nagaraja, Order Statistics, 2003, 7.1). With five values or fewer
    there is none at 95 %: it is then from the smallest to the largest, and five of them hold the median with 94 %. It is meant
    for a number of values that was fixed beforehand: a description, nothing to stop by.

    Args:
        values: one or more, in any order.
        confidence: least probability that the range holds the true median.

    Raises:
        ConfigError: there is no value.
    """
    found = sorted(values)
    if not found:
        raise ConfigError("there is no value to take a median of; give one at least")
    outside = _num_outside(len(found), confidence)
    return Figure(median(found), found[outside], found[-1 - outside], len(found))


@lru_cache(maxsize=4096)
def _num_outside(count: int, confidence: float) -> int:
    """Return how many values at each end may lie outside of the range."""
    tail, log_limit = 0, log((1 - confidence) / 2) + count * log(2)
    for outside in range(count // 2 + 1):
        tail += comb(count, outside)
        if log(tail) > log_limit:
            return max(outside - 1, 0)
    return 0  # not reached: half of all are more than any tail
