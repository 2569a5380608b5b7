"""The spot check runs little, and tells how many times as long as the curve says a run takes."""

from __future__ import annotations

import pytest

from nograd.bundle.recalibration import measure_slowdown, scale_curve, sizes_to_try
from nograd.core.cost import CostCurve

CURVE = CostCurve((1, 8, 32), (0.01, 0.02, 0.08))
"""The knee is at 8 rows."""


class Machine:
    """Takes so many times as long as the curve says; the first run more."""

    def __init__(self, factor: float, first_s: float = 0.0, *, own: int = 1, of_many: float = 1.0) -> None:
        self.now, self.runs = 0.0, list[int]()
        self._factor, self._first_s, self._own, self._of_many = factor, first_s, own, of_many

    def run(self, rows: int) -> None:
        first = self._first_s if not self.runs else 0.0
        self.runs.append(rows)
        self.now += first + CURVE.extended(rows * self._own) * self._factor * (self._of_many if rows > 1 else 1.0)

    def check(self) -> float:
        return measure_slowdown(self.run, CURVE, self._own, clock=lambda: self.now)


def test_one_row_and_the_knee_are_run_five_times_after_a_first_run() -> None:
    machine = Machine(1.0, first_s=0.01)

    assert machine.check() == pytest.approx(1.0)
    assert machine.runs == [1, *[1] * 5, *[8] * 5]


@pytest.mark.parametrize("factor", [0.1, 0.9, 3.0])
def test_the_factor_is_what_runs_take(factor: float) -> None:
    assert Machine(factor).check() == pytest.approx(factor)


def test_sizes_that_differ_are_weighed_alike() -> None:
    assert Machine(1.0, of_many=4.0).check() == pytest.approx(2.0)


@pytest.mark.parametrize("factor", [1.0, 4.0, 8.0, 12.0, 20.0])
def test_no_more_than_three_tenths_of_a_second_are_spent(factor: float) -> None:
    machine = Machine(factor)

    assert machine.check() == pytest.approx(factor)
    assert machine.now <= 0.3


def test_a_first_run_that_takes_too_long_is_the_only_one() -> None:
    machine = Machine(100.0)

    assert machine.check() == pytest.approx(100.0)
    assert machine.runs == [1]


def test_where_the_curve_counts_tokens_rows_are_reckoned_in_them() -> None:
    assert sizes_to_try(CURVE, 1) == [1, 8]
    assert sizes_to_try(CURVE, 4) == [1, 2]
    assert sizes_to_try(CURVE, 20) == [1]
    machine = Machine(2.0, own=4)
    assert machine.check() == pytest.approx(2.0)
    assert set(machine.runs) == {1, 2}


def test_a_scaled_curve_keeps_its_sizes() -> None:
    assert scale_curve(CURVE, 2.0) == CostCurve((1, 8, 32), (0.02, 0.04, 0.16))
