"""Batches and signatures: checked, joined, parted, cut back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import CostCurve, Signature, TensorSpec
from nograd.errors import ConfigError, SignatureError
from nograd.tensors import concat, cut_back, num_rows, split

X = Signature((TensorSpec("x", "float32", (4,)),))
IDS = Signature(
    (TensorSpec("ids", "int64", ("tokens",)), TensorSpec("mask", "int64", ("tokens",), default=1)), max_sizes={"tokens": 9}
)


def ones(*shape: int) -> Any:
    return np.ones(shape, dtype=np.float32)


def ints(*shape: int) -> Any:
    return np.ones(shape, dtype=np.int64)


@pytest.mark.parametrize(
    ("signature", "batch", "message"),
    [
        (X, {"y": ones(2, 4)}, "there is no input 'y'; the model takes 'x'"),
        (X, {}, "input 'x' is missing; the model takes 'x'"),
        (X, {"x": ints(8, 3)}, "input 'x' is int64 [8, 3]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(2, 3)}, "input 'x' is float32 [2, 3]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(4)}, "input 'x' is float32 [4]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(0, 4)}, "input 'x' has no rows; a batch holds at least 1"),
        (X, {"x": [[1, 2, 3, 4], [1, 2]]}, "input 'x' is a ragged list: its rows differ in length; give rows of one length"),
        (X, {"x": [["a", "b", "c", "d"]]}, "input 'x' is text [1, 4]; the model takes float32 [rows, 4]"),
        (X, {"x": np.full((1, 4), 1e39)}, "input 'x' holds 1e+39; float32 goes to 3.40282e+38"),
        (IDS, {"ids": [[1.0, float("nan")]]}, "input 'ids' is float64 [1, 2]; the model takes int64 [rows, tokens]"),
        (IDS, {"ids": ints(2, 3), "mask": ints(2, 4)}, "input 'mask' has 4 tokens, input 'ids' has 3; they must agree"),
        (IDS, {"ids": ints(2, 3), "mask": ints(1, 3)}, "input 'mask' has 1 rows, input 'ids' has 2; they must agree"),
        (IDS, {"ids": ints(1, 10)}, "input 'ids' has 10 tokens; the model takes at most 9"),
        (IDS, {"ids": ints(1, 0)}, "input 'ids' has 0 tokens; the model takes at least 1"),
    ],
)  # fmt: skip
def test_a_bad_input_is_told_in_one_sentence(signature: Signature, batch: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        signature.check(batch)

    assert str(caught.value) == message


def test_numbers_change_their_width_but_not_their_kind() -> None:
    small = Signature((TensorSpec("i", "int8", (1,)),))

    assert X.check({"x": np.ones((1, 4), dtype=np.float64)})["x"].dtype == np.float32
    assert X.check({"x": [[1, 2, 3, 4]]})["x"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert small.check({"i": np.array([[127]])})["i"].dtype == np.int8
    with pytest.raises(SignatureError, match="input 'i' holds 300; int8 goes from -128 to 127"):
        small.check({"i": np.array([[300]])})


def test_arrays_that_fit_are_not_copied_and_others_become_contiguous() -> None:
    fits, strided = ones(3, 4), ones(4, 3).T

    assert X.check({"x": fits})["x"] is fits
    assert X.check({"x": strided})["x"].flags.c_contiguous


def test_an_input_with_a_default_is_filled_in_with_the_others_shape() -> None:
    checked = IDS.check({"ids": [[5, 6, 7]]})

    assert checked["mask"].tolist() == [[1, 1, 1]]
    assert IDS.sizes_of(checked) == (3,)


def test_bfloat16_is_a_dtype_like_any_other() -> None:
    signature = Signature((TensorSpec("x", "bfloat16", (1,)),))

    assert signature.check({"x": [[1.5]]})["x"].dtype == ml_dtypes.bfloat16


PARTS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=6)


@given(PARTS)
def test_what_was_joined_and_padded_comes_apart_and_is_cut_back_unchanged(shapes: list[tuple[int, int]]) -> None:
    spec = TensorSpec("ids", "int64", ("tokens",), pad_value=-1)
    parts = [{"ids": np.full(shape, number)} for number, shape in enumerate(shapes)]

    joined = concat(parts, [spec])
    apart = split(joined, [rows for rows, _ in shapes])

    assert joined["ids"].shape == (sum(rows for rows, _ in shapes), max(tokens for _, tokens in shapes))
    for part, piece, (rows, tokens) in zip(parts, apart, shapes, strict=True):
        assert num_rows(piece) == rows
        assert (piece["ids"][:, tokens:] == -1).all()
        np.testing.assert_array_equal(cut_back(piece, [spec], {"tokens": tokens})["ids"], part["ids"])


TIMES = st.dictionaries(st.integers(1, 64), st.lists(st.floats(1e-6, 10), min_size=1, max_size=3), min_size=1)


@given(TIMES)
def test_a_fitted_curve_never_decreases_and_stays_within_its_samples(samples: dict[int, list[float]]) -> None:
    curve = CostCurve.fit(samples)
    times = [curve(size) for size in range(1, curve.max_size + 1)]
    every = [seconds for found in samples.values() for seconds in found]

    assert all(a <= b + 1e-12 for a, b in pairwise(times))
    assert min(every) - 1e-12 <= times[0] <= times[-1] <= max(every) + 1e-12
    assert curve.knee() in samples


def test_a_curve_is_linear_between_its_sizes_and_does_not_answer_beyond_them() -> None:
    curve = CostCurve((2, 4), (0.01, 0.03))

    assert [round(curve(size), 4) for size in (1, 2, 3, 4)] == [0.01, 0.01, 0.02, 0.03]
    assert curve.knee() == 2
    assert curve.drain_s(5) == pytest.approx(0.03)
    with pytest.raises(ConfigError, match="size is 5 rows; the curve was measured from 1 to 4"):
        curve(5)


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [((), ()), ((1, 1), (1.0, 1.0)), ((1, 2), (2.0, 1.0)), ((1,), (0.0,)), ((0,), (1.0,)), ((1, 2), (1.0,))],
)
def test_a_curve_that_cannot_be_is_refused(sizes: tuple[int, ...], seconds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        CostCurve(sizes, seconds)
