"""Batches and signatures: checked, joined, parted, cut back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import Signature, TensorSpec
from nograd.core.tensors import concat, cut_back, num_rows, split
from nograd.errors import SignatureError

X = Signature((TensorSpec("x", "float32", (4,)),))
TEXT = Signature((TensorSpec("text", "bytes"),))
SCALARS = Signature((TensorSpec("x", "float32"),))
IDS = Signature(
    (TensorSpec("ids", "int64", ("tokens",)), TensorSpec("mask", "int64", ("tokens",), default=1)), max_sizes={"tokens": 9}
)

MOVIES = Signature(
    (TensorSpec("frames", "float32", ("length", "height")),), max_sizes={"length": 30}, min_sizes={"length": 4, "height": 7}
)


def ones(*shape: int) -> Any:
    return np.ones(shape, dtype=np.float32)


def ints(*shape: int) -> Any:
    return np.ones(shape, dtype=np.int64)


@pytest.mark.parametrize(
    ("signature", "batch", "message"),
    [
        (X, {"y": ones(2, 4)}, "unknown input 'y'; the model takes 'x'"),
        (X, {}, "input 'x' is missing; the model takes 'x'"),
        (X, {"x": ints(8, 3)}, "input 'x' is int64 [8, 3]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(2, 3)}, "input 'x' is float32 [2, 3]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(4)}, "input 'x' is float32 [4]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(0, 4)}, "input 'x' has no rows; a batch must have at least 1"),
        (X, {"x": [[1, 2, 3, 4], [1, 2]]}, "input 'x' is a ragged list: its rows differ in length; give rows of equal length"),
        (X, {"x": [["a", "b", "c", "d"]]}, "input 'x' is text [1, 4]; the model takes float32 [rows, 4]"),
        (X, {"x": 5.0}, "input 'x' is float32 []; the model takes float32 [rows, 4]"),
        (X, {"x": []}, "input 'x' is float32 [0]; the model takes float32 [rows, 4]"),
        (X, {"x": [[None] * 4]}, "input 'x' is object [1, 4]; the model takes float32 [rows, 4]"),
        (X, {"x": ones(2, 4) > 0}, "input 'x' is bool [2, 4]; the model takes float32 [rows, 4]"),
        (SCALARS, {"x": np.array(1.0, np.float32)}, "input 'x' is float32 []; the model takes float32 [rows]"),
        (TEXT, {"text": "a"}, "input 'text' is text []; the model takes text [rows]"),
        (TEXT, {"text": ["a", 5]}, "input 'text' contains int; the model takes text"),
        (TEXT, {"text": np.array(["a", None])}, "input 'text' contains NoneType; the model takes text"),
        (TEXT, {"text": [["a"], ["b", "c"]]},
         "input 'text' is a ragged list: its rows differ in length; give rows of equal length"),
        (X, {"x": np.full((1, 4), 1e39)}, "input 'x' contains 1e+39; float32 goes to 3.40282e+38"),
        (IDS, {"ids": [[1.0, float("nan")]]}, "input 'ids' is float64 [1, 2]; the model takes int64 [rows, tokens]"),
        (IDS, {"ids": ints(2, 3), "mask": ints(2, 4)}, "input 'mask' has 4 tokens, input 'ids' has 3; they must agree"),
        (IDS, {"ids": ints(2, 3), "mask": ints(1, 3)}, "input 'mask' has 1 rows, input 'ids' has 2; they must agree"),
        (IDS, {"ids": ints(1, 10)}, "input 'ids' has 10 tokens; the model takes 1 to 9"),
        (IDS, {"ids": ints(1, 0)}, "input 'ids' has 0 tokens; the model takes 1 to 9"),
        (MOVIES, {"frames": ones(1, 3, 7)}, "input 'frames' has 3 length; the model takes 4 to 30"),
        (MOVIES, {"frames": ones(1, 31, 7)}, "input 'frames' has 31 length; the model takes 4 to 30"),
        (MOVIES, {"frames": ones(1, 4, 6)}, "input 'frames' has 6 height; the model takes at least 7"),
    ],
)  # fmt: skip
def test_a_bad_input_is_told_in_one_sentence(signature: Signature, batch: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        signature.check(batch)

    assert str(caught.value) == message


def test_sizes_at_both_limits_are_accepted() -> None:
    assert [MOVIES.check({"frames": ones(1, length, 7)})["frames"].shape for length in (4, 30)] == [(1, 4, 7), (1, 30, 7)]
    assert MOVIES.describe_sizes() == "length 4 to 30, height at least 7"
    assert (IDS.describe_sizes(), X.describe_sizes()) == ("tokens 1 to 9", "")


def test_the_allowed_size_is_the_nearest_one() -> None:
    assert [MOVIES.allowed_size("length", wanted) for wanted in (1, 4, 17, 30, 31)] == [4, 4, 17, 30, 30]
    assert [MOVIES.allowed_size("height", wanted) for wanted in (1, 7, 1000)] == [7, 7, 1000]


def test_numbers_change_their_width_but_not_their_kind() -> None:
    small = Signature((TensorSpec("i", "int8", (1,)),))

    assert X.check({"x": np.ones((1, 4), dtype=np.float64)})["x"].dtype == np.float32
    assert X.check({"x": [[1, 2, 3, 4]]})["x"].tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert small.check({"i": np.array([[127]])})["i"].dtype == np.int8
    with pytest.raises(SignatureError, match="input 'i' contains 300; int8 goes from -128 to 127"):
        small.check({"i": np.array([[300]])})
    with pytest.raises(SignatureError, match="input 'h' contains 70000; float16 goes to 65504"):
        Signature((TensorSpec("h", "float16"),)).check({"h": [70000]})


def test_infinity_and_nan_are_floating_values_like_any_other() -> None:
    checked = X.check({"x": np.array([[np.inf, -np.inf, np.nan, 1.0]])})["x"]

    np.testing.assert_array_equal(checked, np.array([[np.inf, -np.inf, np.nan, 1.0]], np.float32))


def test_text_is_strings_in_any_container() -> None:
    for given_text in (["a", "bc"], np.array(["a", "bc"]), np.array(["a", "bc"], dtype=object), ("a", "bc")):
        checked = TEXT.check({"text": given_text})["text"]
        assert (checked.dtype, checked.tolist()) == (np.dtype(object), ["a", "bc"])


def test_arrays_that_fit_are_not_copied_and_others_become_contiguous() -> None:
    fits, strided, big_endian = ones(3, 4), ones(4, 3).T, ones(3, 4).astype(">f4")

    assert X.check({"x": fits})["x"] is fits
    for array in (strided, big_endian):
        checked = X.check({"x": array})["x"]
        assert checked.flags.c_contiguous
        assert checked.dtype.isnative
        np.testing.assert_array_equal(checked, array)


def test_an_input_with_a_default_is_filled_in_with_the_others_shape() -> None:
    checked = IDS.check({"ids": [[5, 6, 7]]})

    assert checked["mask"].tolist() == [[1, 1, 1]]
    assert IDS.sizes_of(checked) == (3,)


def test_bfloat16_is_a_dtype_like_any_other() -> None:
    signature = Signature((TensorSpec("x", "bfloat16", (1,)),))

    assert signature.check({"x": [[1.5]]})["x"].dtype == ml_dtypes.bfloat16


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 11), st.integers(0, 11))
def test_a_batch_is_taken_exactly_when_its_sizes_agree_and_are_within_bounds(r: int, s: int, t: int, u: int) -> None:
    batch = {"ids": ints(r, t), "mask": ints(s, u)}
    fits = r == s and t == u and r > 0 and 0 < t <= 9

    try:
        checked = IDS.check(batch)
    except SignatureError:
        assert not fits
    else:
        assert fits
        assert checked == batch
        assert IDS.check_layouts({name: ("int32", array.shape) for name, array in batch.items()}) == {"rows": r, "tokens": t}


def test_layouts_are_checked_where_arrays_are_out_of_reach() -> None:
    assert IDS.check_layouts({"ids": ("int64", (2, 5))}) == {"rows": 2, "tokens": 5}
    with pytest.raises(SignatureError, match=r"input 'ids' is float32 \[2, 5\]; the model takes int64 \[rows, tokens\]"):
        IDS.check_layouts({"ids": ("float32", (2, 5))})


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


def test_one_part_is_joined_and_parted_without_a_copy() -> None:
    part = {"x": ones(2, 4)}

    assert concat([part], X.inputs) is part
    assert split(part, [2])[0] is part


def test_only_what_follows_a_length_is_cut_back() -> None:
    specs = [TensorSpec("steps", "float32", ("tokens", 3)), TensorSpec("last", "float32", (3,))]
    outputs = {"steps": ones(2, 7, 3), "last": ones(2, 3)}

    cut = cut_back(outputs, specs, {"tokens": 5, "height": 1})

    assert cut["steps"].shape == (2, 5, 3)
    assert cut["last"] is outputs["last"]


def test_an_empty_batch_has_no_rows_to_count() -> None:
    with pytest.raises(SignatureError, match="the batch contains no arrays"):
        num_rows({})
