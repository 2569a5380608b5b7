"""Comparing answers: what is measured, what fails, whatever the tolerance."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nograd.core.parity import EXACT, HALF, INT8, ParityReport, Tolerance, WorstRow, compare
from nograd.core.tensors import TensorSpec
from nograd.errors import ConfigError

LOOSE = Tolerance(min_cosine=-1)


def one(expected: Any, given: Any, tolerance: Tolerance = LOOSE, dtype: Any = np.float64) -> ParityReport:
    return compare([{"y": np.array(expected, dtype)}], [{"y": np.array(given, dtype)}], tolerance=tolerance)


MATRICES = hnp.arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))


@given(MATRICES)
def test_the_same_answers_pass_whatever_they_are(answers: Any) -> None:
    report = compare([{"y": answers}], [{"y": answers.copy()}], tolerance=Tolerance(1, 0, 0, 1))

    assert report.passed
    assert (report.max_abs, report.max_rel, report.worst) == (0, 0, ())
    assert report.agreement == (1 if answers.any() else None)


@given(MATRICES, MATRICES, st.integers(1, 3))
def test_runs_apart_are_measured_as_one_run(expected: Any, other: Any, cut: int) -> None:
    whole = compare([{"y": expected}], [{"y": other}], tolerance=EXACT)
    apart = compare([{"y": expected[:cut]}, {"y": expected[cut:]}], [{"y": other[:cut]}, {"y": other[cut:]}], tolerance=EXACT)

    assert apart == whole


@given(MATRICES, MATRICES, st.permutations(range(4)))
def test_the_order_of_rows_changes_no_verdict(expected: Any, other: Any, order: list[int]) -> None:
    before = compare([{"y": expected}], [{"y": other}], tolerance=INT8)
    after = compare([{"y": expected[order]}], [{"y": other[order]}], tolerance=INT8)

    assert (after.passed, after.max_abs, after.min_cosine) == (before.passed, before.max_abs, before.min_cosine)


def test_each_figure_is_what_its_name_says() -> None:
    report = one([[3, 4], [0, 10]], [[4, 3], [0, 10]])

    (output,) = report.outputs
    assert (output.max_abs, output.max_rel, output.agreement, output.num_nonfinite) == (1, 0.1, 0.5, 0)
    assert output.min_cosine == pytest.approx(24 / 25)
    assert output.mean_cosine == pytest.approx((24 / 25 + 1) / 2)
    assert report.worst == (WorstRow(0, "y", 1, output.min_cosine),)
    assert report.rows == 2


@pytest.mark.parametrize(
    ("tolerance", "failure"),
    [
        (Tolerance(min_cosine=0.97), "output 'y' has a row with cosine 0.960000; 0.97 is required"),
        (Tolerance(-1, max_rel=0.05), "output 'y' differs by 1.00e-01 of its largest value; 5.00e-02 is allowed"),
        (Tolerance(-1, max_abs=0.5), "output 'y' differs by 1.00e+00; 0.5 is allowed"),
        (Tolerance(-1, min_agreement=0.9), "output 'y' agrees in 50.00%; 90.00% is required"),
    ],
)
def test_what_is_outside_of_the_tolerance_is_one_sentence(tolerance: Tolerance, failure: str) -> None:
    report = one([[3, 4], [0, 10]], [[4, 3], [0, 10]], tolerance)

    assert report.failures == (failure,)
    assert not report.passed
    assert "FAILED over 2 rows" in str(report)
    assert "worst rows: 0 (y, cosine 0.9600)" in str(report)


@pytest.mark.parametrize("eager", [0.0, 1e-9, -3e-7])
def test_a_row_of_noise_is_in_no_cosine_and_no_agreement(eager: float) -> None:
    report = one([[1, 0], [eager, 0]], [[1, 0], [0, 1e-9]], Tolerance(1, min_agreement=1))
    (output,) = report.outputs

    assert report.passed
    assert (output.min_cosine, output.mean_cosine, output.agreement, output.num_noise_rows) == (1, 1, 1, 1)
    assert output.max_abs == pytest.approx(max(abs(eager), 1e-9))


@pytest.mark.parametrize(("tolerance", "allowed"), [(INT8, "2.00e-01"), (Tolerance(), "4.47e-02")])
def test_a_row_of_noise_is_judged_by_its_difference(tolerance: Tolerance, allowed: str) -> None:
    report = one([[10, 0], [0, 0]], [[10, 0], [0, 3]], tolerance)

    assert report.failures == (
        f"output 'y' differs by 3.00e-01 of its largest value in a row that is about zero in eager; {allowed} is allowed",
    )
    assert report.worst[0].row == 1
    assert one([[10, 0], [0, 0]], [[10, 0], [0, 3]], LOOSE).passed


def test_a_small_row_above_the_noise_has_a_direction() -> None:
    assert one([[1, 0], [1e-5, 0]], [[1, 0], [0, 1e-5]]).min_cosine == 0


@pytest.mark.parametrize(("difference", "passes"), [(1e-9, True), (1e-3, False)])
def test_an_output_that_is_all_zeros_is_held_to_an_absolute_difference(difference: float, passes: bool) -> None:
    for expected, given_ in (([[0, 0]], [[0, difference]]), ([[0], [0]], [[0], [difference]])):
        report = one(expected, given_, EXACT)
        assert report.passed is passes
        assert report.max_rel == (0 if passes else math.inf)
    assert one([[0, 0]], [[0, 0]]).min_cosine == 1


TOKENS = (TensorSpec("y", "float32", ("tokens",)),)


def test_tokens_of_several_lengths_agree_by_sign() -> None:
    expected = [{"y": np.array([[9, 1, -1], [9, -1, 0]], float)}, {"y": np.array([[9, 2]], float)}]
    given_ = [{"y": np.array([[9, -1, -1], [9, -1, 5]], float)}, {"y": np.array([[9, 2]], float)}]

    assert compare(expected, given_, tolerance=LOOSE).agreement == 6 / 7  # a zero has no sign


def test_a_specs_varying_length_makes_tokens_of_what_looks_like_classes() -> None:
    expected, given_ = [{"y": np.array([[9, 1, -1]], float)}], [{"y": np.array([[9, -1, 1]], float)}]

    assert compare(expected, given_, tolerance=LOOSE).agreement == 1
    assert compare(expected, given_, tolerance=LOOSE, outputs=TOKENS).agreement == pytest.approx(1 / 3)


def test_probabilities_of_tokens_have_no_agreement() -> None:
    expected = [{"y": np.array([[0.9, 0.1]])}]
    report = compare(expected, [{"y": np.array([[0.2, 0.1]])}], tolerance=Tolerance(-1, min_agreement=1), outputs=TOKENS)

    assert report.agreement is None
    assert report.passed
    assert report.to_json()["outputs"][0]["agreement"] is None
    assert str(report).splitlines()[1].endswith(" -")


@pytest.mark.parametrize(("name", "agreement"), [("logits", 0.75), ("last_hidden_state", None)])
def test_classes_of_tokens_agree_token_by_token(name: str, agreement: float | None) -> None:
    expected, given_ = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    expected[..., 0] = given_[..., 0] = 1
    given_[1, 1] = [0, 1, 0]

    assert compare([{name: expected}], [{name: given_}], tolerance=LOOSE).agreement == agreement


def test_huge_and_tiny_numbers_neither_overflow_nor_vanish() -> None:
    assert one([[1e300, 1e300]], [[1e300, 1e300]]).min_cosine == pytest.approx(1)
    assert one([[1e-300, 0]], [[0, 1e-300]]).min_cosine == 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_nan_or_infinity_on_one_side_fails_whatever_the_tolerance(wrong: float) -> None:
    assert one([[1, 2]], [[1, wrong]]).failures == (
        "output 'y' is NaN or infinite in 1 places where eager is not, or the reverse",
    )
    assert not one([[1, wrong]], [[1, 2]]).passed
    assert one([[1, wrong]], [[1, wrong]]).passed
    assert not one([[1, math.inf]], [[1, -math.inf]]).passed


def test_one_number_a_row_has_no_direction_and_is_held_to_a_relative_difference() -> None:
    assert one([[1.0], [2.0]], [[1.5], [2.0]], INT8).failures == (
        "output 'y' differs by 2.50e-01 of its largest value; 2.00e-01 is allowed",
    )
    assert one([[1.0], [2.0]], [[1.3], [2.0]], INT8).passed


def test_of_two_equal_classes_either_is_the_same_answer() -> None:
    assert one([[1, 1, 0]], [[0.9, 1, 0]]).agreement == 1
    assert one([[1, 1, 0]], [[0, 0, 1]]).agreement == 0


@pytest.mark.parametrize(("dtype", "agreement"), [(np.int64, 0.75), (np.uint8, 0.75), (bool, 1.0)])
def test_integers_and_booleans_agree_element_by_element(dtype: Any, agreement: float) -> None:
    assert one([[1, 2], [3, 4]], [[1, 2], [3, 5]], dtype=dtype).agreement == agreement


def test_large_integers_do_not_overflow() -> None:
    assert one([[0]], [[255]], dtype=np.uint8).max_abs == 255


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_compares_with_float32(dtype: Any) -> None:
    report = compare([{"y": np.ones((2, 3), np.float32)}], [{"y": np.ones((2, 3), dtype)}])

    assert report.passed


@pytest.mark.parametrize(
    ("expected", "given_", "failure"),
    [
        ({"y": np.ones((2, 3))}, {}, "output 'y' is missing"),
        ({"y": np.ones((2, 3))}, {"y": np.ones((2, 4))}, "output 'y' is [2, 4], expected [2, 3]"),
        ({"y": np.ones((2, 3))}, {"y": np.ones((2, 3), np.int64)}, "output 'y' is int64, expected float64"),
    ],
)
def test_another_shape_is_a_failure_and_the_rest_is_still_compared(expected: Any, given_: Any, failure: str) -> None:
    same = np.zeros((2, 1))

    report = compare([{**expected, "z": same}], [{**given_, "z": same}], tolerance=LOOSE)

    assert report.failures == (failure,)
    assert [output.name for output in report.outputs] == ["z"]


def test_nothing_compared_never_passes() -> None:
    x = {"y": np.ones((2, 3))}

    assert compare([x], [{"z": x["y"]}]).failures == (
        "output 'z' is not expected",
        "output 'y' is missing",
        "no output could be compared",
    )
    assert compare([x, x], [x]).failures == ("1 runs were given, 2 expected",)
    with pytest.raises(ConfigError, match="there are no answers to compare"):
        compare([], [])


def test_the_report_is_plain_json_without_nan() -> None:
    text = json.dumps(one([[0.0, 0]], [[1.0, 0]], HALF).to_json(), allow_nan=False)

    assert json.loads(text)["outputs"][0]["max_rel"] == "inf"
    assert json.loads(text)["passed"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_cosine": 1.5}, "min_cosine is 1.5; it must be from -1 to 1"),
        ({"max_rel": -1}, "max_rel is -1; it must be 0 or more"),
        ({"max_abs": math.nan}, "max_abs is nan; it must be 0 or more"),
        ({"min_agreement": 2}, "min_agreement is 2; it must be from 0 to 1"),
    ],
)
def test_a_tolerance_out_of_range_is_told(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tolerance(**options)
