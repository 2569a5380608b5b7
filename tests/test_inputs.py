"""Kinds of input: tensors, arrays and lists; named, in order, or alone; many rows, or one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from nograd import Signature, TensorSpec
from nograd.core.inputs import by_name, each_item, holds_tensors, one_row, stacked, to_host
from nograd.errors import SignatureError

TWO = Signature((TensorSpec("x", "float32", (2,)), TensorSpec("y", "float32", (2,)), TensorSpec("m", "int64", default=1)))
T = torch.ones(2)
A = np.ones(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [(T, True), (A, False), ([[1.0]], False), ([], False), ([T, T], True), ((A, T), True), ({"x": T}, True), ({"x": [T]}, True),
     ({"x": A}, False), ("text", False)],
)  # fmt: skip
def test_inputs_with_a_tensor_anywhere_are_tensors(inputs: Any, expected: bool) -> None:
    assert holds_tensors(inputs) is expected


def test_tensors_come_to_the_host_without_a_copy_and_bfloat16_bit_by_bit() -> None:
    tensor = torch.zeros(3, requires_grad=True)
    half = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)

    assert to_host({"x": (tensor,)})["x"][0].__array_interface__["data"][0] == tensor.data_ptr()
    assert to_host([half])[0].dtype == ml_dtypes.bfloat16
    assert to_host(half).tolist() == [1.5, -2.0]
    assert to_host("text") == "text"


def test_a_tuple_is_in_the_models_order_and_what_has_a_default_may_stay_away() -> None:
    assert by_name((A, T), TWO) == {"x": A, "y": T}
    assert by_name({"y": T, "x": A}, TWO) == {"x": A, "y": T}
    for inputs in (A, [A, A], (A, A, A, A)):
        with pytest.raises(SignatureError, match="the model takes 'x', 'y', 'm': give a tuple in this order, or a dict"):
            by_name(inputs, TWO)


@pytest.mark.parametrize(
    ("row", "expected"),
    [(T, A[None]), (A, A[None]), ([1, 2], [[1, 2]]), ("a", ["a"]), (3.0, [3.0]), (np.float32(3), np.array([3]))],
)
def test_a_row_becomes_inputs_of_one_row_and_lists_stay_without_a_dtype(row: Any, expected: Any) -> None:
    named = one_row({"x": (row,)})["x"][0]

    assert type(named) is type(expected)
    np.testing.assert_array_equal(named, expected)


def test_rows_of_one_kind_dtype_and_shape_are_stacked() -> None:
    assert stacked([{"x": T, "y": (1, "a")}] * 3)["x"].shape == (3, 2)
    assert stacked([{"x": T, "y": (1, "a")}] * 2)["y"] == ([1, 1], ["a", "a"])


@pytest.mark.parametrize(
    "rows",
    [
        [A, np.ones(3, np.float32)],
        [A, A.astype(np.float64)],  # would be stacked as float64, and an int row as a float one
        [A, [1.0, 1.0]],
        [{"x": A}, {"y": A}],
        [{"x": A}, {"x": A, "y": A}],
        [(A,), (A, A)],
    ],
)
def test_rows_that_differ_are_not_stacked(rows: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"differ|same shape|zip"):
        stacked(rows)


@pytest.mark.parametrize(("items", "kind"), [("text", "str"), ({"x": A}, "dict"), (5, "int")])
def test_one_item_or_a_dict_of_columns_is_not_taken_for_many_items(items: Any, kind: str) -> None:
    with pytest.raises(SignatureError, match=f"items is a {kind}; give a list or another iterable of items"):
        each_item(items)
