"""Predicted seconds: the measured curve, followed by one scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import CostCurve
from nograd.batching.tracking import RowCost, Scale, TokenCost

CURVE = CostCurve((1, 2, 4, 8), (1.0, 1.2, 2.0, 4.0))

ratios = st.lists(st.floats(0.001, 1000), max_size=60)


@given(ratios)
def test_p11_whatever_is_seen_longer_batches_take_longer_and_the_scale_stays_in_bounds(seen: list[float]) -> None:
    cost = RowCost(CURVE, 8)
    for ratio in seen:
        cost.observe(4, 2.0 * ratio)

    predicted = [cost.seconds(rows) for rows in range(1, 9)]
    assert predicted == sorted(predicted)
    assert 1 / 20 <= cost.scale.value <= 20
    assert all(1.05 * cost.expected(rows) <= cost.seconds(rows) * 1.0001 for rows in range(1, 9))
    assert all(cost.seconds(rows) <= 1.3001 * cost.expected(rows) for rows in range(1, 9))


def test_a_device_that_got_slower_is_followed_and_one_straggler_is_not() -> None:
    cost = RowCost(CURVE, 8)
    for _ in range(100):
        cost.observe(4, 4.0)
    assert cost.expected(1) == pytest.approx(2.0, rel=0.01)

    before = cost.expected(1)
    cost.observe(4, 400.0)
    assert cost.expected(1) < 1.03 * before


def test_a_steady_device_is_predicted_with_the_smallest_margin_and_a_jumpy_one_with_more() -> None:
    steady, jumpy = Scale(), Scale()
    for turn in range(200):
        steady.observe(1.0)
        jumpy.observe(0.8 if turn % 2 else 1.2)

    assert steady.factor == pytest.approx(1.05, rel=0.01)
    assert jumpy.factor > 1.25


@given(st.floats(0.01, 10), st.integers(1, 8))
def test_the_largest_batch_in_a_budget_is_the_largest(budget: float, most: int) -> None:
    cost = RowCost(CURVE, 8)

    found = cost.largest(budget, most)

    assert found == max(rows for rows in range(most + 1) if rows == 0 or cost.seconds(rows) <= budget)


@given(st.floats(0.01, 5))
def test_the_batch_that_carries_a_rate_is_the_smallest_that_does(rate: float) -> None:
    cost = RowCost(CURVE, 8)

    able = [rows for rows in range(1, cost.knee + 1) if rows / cost.expected(rows) >= rate]

    assert cost.carrying(rate) == min(able, default=cost.knee)


def test_without_a_curve_nothing_takes_time_and_nothing_is_learnt() -> None:
    rows, tokens = RowCost(None, 8), TokenCost(None)
    rows.observe(4, 2.0)
    tokens.observe(4, 2.0)

    assert (rows.seconds(8), rows.knee, tokens.seconds(99), tokens.overhead) == (0.0, 8, 0.0, 48.0)


def test_padded_elements_cost_a_fixed_price_and_each_its_own() -> None:
    cost = TokenCost(CostCurve((10, 100, 1000), (0.0096, 0.024, 0.168), unit="tokens"))

    assert cost.expected(500) == pytest.approx(0.088)
    assert cost.overhead == pytest.approx(50)
    for _ in range(50):
        cost.observe(500, 0.176)
    assert cost.expected(500) == pytest.approx(0.176, rel=0.02)
