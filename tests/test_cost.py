"""CostCurve: never decreasing, bounded by what was measured, silent beyond it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import CostCurve
from nograd.errors import ConfigError

TIMES = st.dictionaries(st.integers(1, 64), st.lists(st.floats(1e-6, 10), min_size=1, max_size=3), min_size=1)


@given(TIMES)
def test_a_fitted_curve_never_decreases_and_stays_within_its_samples(samples: dict[int, list[float]]) -> None:
    curve = CostCurve.fit(samples)
    times = [curve(size) for size in range(1, curve.max_size + 1)]
    every = [seconds for found in samples.values() for seconds in found]

    assert all(a <= b + 1e-12 for a, b in pairwise(times))
    assert min(every) - 1e-12 <= times[0] <= times[-1] <= max(every) + 1e-12
    assert curve.knee() in samples


@given(TIMES)
def test_a_curve_through_times_that_rise_already_goes_through_them(samples: dict[int, list[float]]) -> None:
    rising = dict(zip(sorted(samples), sorted(found[0] for found in samples.values()), strict=True))

    curve = CostCurve.fit({size: [seconds] for size, seconds in rising.items()})

    assert dict(zip(curve.sizes, curve.seconds, strict=True)) == rising


def test_a_fit_takes_medians_and_the_mean_of_neighbours_that_are_out_of_order() -> None:
    assert CostCurve.fit({4: [9.0, 5.0, 1.0], 1: [3.0], 2: [1.0]}) == CostCurve((1, 2, 4), (2.0, 2.0, 5.0))


def test_a_curve_is_linear_between_its_sizes_and_does_not_answer_beyond_them() -> None:
    curve = CostCurve((2, 4), (0.01, 0.03))

    assert [round(curve(size), 4) for size in (1, 2, 3, 4)] == [0.01, 0.01, 0.02, 0.03]
    for size in (0, 5):
        with pytest.raises(ConfigError, match=f"size is {size} rows; the curve was measured from 1 to 4"):
            curve(size)


@pytest.mark.parametrize(
    ("seconds", "knee"),
    [
        ((0.01, 0.02, 0.04), 1),  # rows cost the same in any batch: the best batch is one row
        ((0.04, 0.04, 0.04), 4),  # starting is all that costs
        ((0.02, 0.0201, 0.04), 2),  # 99.5 % of the rate of 4 rows
    ],
)
def test_the_knee_is_the_smallest_size_that_reaches_99_percent_of_the_best_rate(seconds: tuple[float, ...], knee: int) -> None:
    assert CostCurve((1, 2, 4), seconds).knee() == knee


def test_what_waits_drains_in_batches_of_the_knee() -> None:
    curve = CostCurve((1, 2), (0.02, 0.03))

    assert [curve.drain_s(size) for size in (0, 1, 2, 5)] == pytest.approx([0, 0.03, 0.03, 0.09])


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ((), (), "a cost curve has 0 sizes and 0 times; it needs one time per size"),
        ((1, 2), (1.0,), "a cost curve has 2 sizes and 1 times; it needs one time per size"),
        ((1, 1), (1.0, 1.0), "sizes of a cost curve are (1, 1); they must be at least 1 and increase"),
        ((0,), (1.0,), "sizes of a cost curve are (0,); they must be at least 1 and increase"),
        ((1,), (0.0,), "times of a cost curve are (0.0,); they must be finite and above 0 s"),
        ((1, 2), (2.0, 1.0), "times of a cost curve are (2.0, 1.0); they must not decrease (see CostCurve.fit)"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(sizes: tuple[int, ...], seconds: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CostCurve(sizes, seconds)

    assert str(caught.value) == message


@pytest.mark.parametrize("times", [[], [float("nan"), 1.0, 2.0], [1.0, -1.0, 1.0], [float("inf")]])
def test_a_fit_refuses_every_time_that_is_none_even_one_that_the_median_would_hide(times: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"times of size 2 are \[.*\]; they must be one or more, each finite and above 0 s"):
        CostCurve.fit({2: times})
