"""Counting: evidence that stays valid while one looks, and ranges that hold the median."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb, exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.errors import ConfigError
from nograd.report.figures import Figure
from nograd.tuning.sign_test import log_evidence, median_figure, successes_needed


@pytest.mark.parametrize(
    ("successes", "trials", "evidence"),
    [(0, 0, 1), (1, 1, 3 / 2), (0, 1, 1 / 2), (2, 2, 7 / 3), (1, 2, 4 / 6), (11, 11, 4095 / 12), (10, 11, 4083 / 132)],
)
def test_evidence_is_what_integration_by_hand_gives(successes: int, trials: int, evidence: float) -> None:
    assert exp(log_evidence(successes, trials)) == pytest.approx(evidence)


def test_evidence_is_the_integral_that_it_is_said_to_be() -> None:
    steps = 20_000
    middles = [0.5 + (i + 0.5) / steps / 2 for i in range(steps)]
    integral = sum(p**20 * (1 - p) ** 10 for p in middles) / steps / 2

    assert exp(log_evidence(20, 30)) == pytest.approx(2 * integral * 2**30, rel=1e-6)


@pytest.mark.parametrize(("probability", "most"), [(0.5, 1 + 1e-9), (0.4, 0.5), (0.1, 0.2)])
def test_evidence_is_one_on_average_for_a_fair_coin_and_less_for_a_lower_one(probability: float, most: float) -> None:
    average = sum(comb(20, k) * probability**k * (1 - probability) ** (20 - k) * exp(log_evidence(k, 20)) for k in range(21))

    assert average <= most
    if probability == 0.5:
        assert average == pytest.approx(1)


def test_ten_candidates_need_eleven_rounds_that_all_say_the_same() -> None:
    assert successes_needed(10, 0.05 / 10) == 11  # all ten are not enough
    assert successes_needed(11, 0.05 / 10) == 11
    assert successes_needed(0, 0.05) == 1


@given(st.integers(0, 120), st.floats(1e-6, 0.5))
def test_the_fewest_successes_are_enough_and_one_fewer_is_not(trials: int, alpha: float) -> None:
    needed = successes_needed(trials, alpha)

    assert trials < 2 * needed <= 2 * trials + 2
    assert needed > trials or log_evidence(needed, trials) >= -log(alpha)
    assert log_evidence(needed - 1, trials) < -log(alpha)


def test_one_round_more_never_takes_away_more_than_one_success() -> None:
    needed = [successes_needed(trials, 0.005) for trials in range(11, 500)]

    assert all(0 <= after - before <= 1 for before, after in pairwise(needed))


def test_thousands_of_rounds_do_not_overflow() -> None:
    assert 1500 < successes_needed(3000, 0.005) < 1650
    assert log_evidence(3000, 3000) == pytest.approx(3001 * log(2) - log(3001))


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_a_fair_coin_that_is_looked_at_after_each_of_400_throws_is_ever_called_unfair_at_most_with_alpha(alpha: float) -> None:
    still, crossed = {0: 1.0}, 0.0  # exact: the probability of each count that has not crossed yet
    for throws in range(1, 401):
        after: dict[int, float] = {}
        for heads, probability in still.items():
            for found in (heads, heads + 1):
                after[found] = after.get(found, 0) + probability / 2
        needed = successes_needed(throws, alpha)
        crossed += sum(probability for heads, probability in after.items() if heads >= needed)
        still = {heads: probability for heads, probability in after.items() if heads < needed}

    assert alpha / 10 < crossed <= alpha


@pytest.mark.parametrize(
    ("values", "figure"),
    [
        ([7], Figure(7, 7, 7, 1)),
        ([3, 1], Figure(2, 1, 3, 2)),
        ([5, 1, 4, 2, 3], Figure(3, 1, 5, 5)),
        ([6, 5, 4, 3, 2, 1], Figure(3.5, 1, 6, 6)),
        (range(8), Figure(3.5, 0, 7, 8)),
        (range(9), Figure(4, 1, 7, 9)),  # 1 - 2 * 10 / 512 = 96.1 %
        (range(100), Figure(49.5, 39, 60, 100)),  # the 40th and the 61st, as tables of the sign test have it
    ],
)
def test_a_median_comes_with_the_narrowest_range_that_holds_it(values: list[float], figure: Figure) -> None:
    assert median_figure(values) == figure


@pytest.mark.parametrize("count", [6, 7, 20, 77, 1500])
def test_the_range_holds_the_median_with_95_percent_and_a_narrower_one_does_not(count: int) -> None:
    figure = median_figure(range(count))

    def covered(outside: int) -> Fraction:
        return 1 - Fraction(2 * sum(comb(count, j) for j in range(outside + 1)), 2**count)

    assert (figure.low, figure.high) == (figure.low, count - 1 - figure.low)
    assert covered(int(figure.low)) >= Fraction(95, 100) > covered(int(figure.low) + 1)


def test_a_few_values_that_are_far_off_do_not_move_a_median_out_of_the_rest() -> None:
    figure = median_figure([1.0] * 8 + [3.0, inf])

    assert (figure.median, figure.low, figure.high) == (1, 1, 3)


def test_a_median_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the median needs a value; give at least one"):
        median_figure([])
