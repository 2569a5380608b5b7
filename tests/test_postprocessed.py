"""The contract of `postprocess`: keys, types and ranks are those of its first answer, and no value is lost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from nograd.errors import ModelError
from nograd.predictors.postprocessed import AnswerFields


@pytest.mark.parametrize(
    ("value", "dtype", "data"),
    [
        (np.str_("a"), "object", "a"),
        (np.bytes_(b"ab"), "object", "ab"),
        (np.array([["a", "bc"]]), "object", [["a", "bc"]]),
        (np.array(["a", b"b"], dtype=object), "object", ["a", "b"]),
        (torch.tensor([[1.5]], dtype=torch.bfloat16), "float32", [[1.5]]),
        (np.array([0.5], ml_dtypes.float8_e4m3fn), "float32", [0.5]),
        (np.float16(0.5), "float16", 0.5),
        ({"a": np.float32(0.5), "b": np.array([1, 2])}, "object", '{"a":0.5,"b":[1,2]}'),
        ([torch.tensor(1), torch.tensor(2)], "int64", [1, 2]),
        (["a", None], "object", '["a",null]'),
    ],
)
def test_every_kind_of_value_has_one_tensor(value: Any, dtype: str, data: Any) -> None:
    answer = {"field": value}
    column = AnswerFields.of(answer).columns([answer, answer])["field"]

    assert column.dtype == dtype
    assert column.tolist() == [data, data]


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        (1, 0.5, "'answer' of postprocess's answer is float64; in its first answer it was int64"),
        (1, True, "is bool; in its first answer it was int64"),
        (0.5, "n/a", "is text; in its first answer it was float64"),
        ("a", None, "is a list or dict; in its first answer it was text"),
        (np.zeros(2), np.zeros((2, 1)), "is float64 of rank 2; in its first answer it was float64 of rank 1"),
        (np.array(["a"]), "a", "is text; in its first answer it was text of rank 1"),
        (np.zeros(2, "float32"), torch.zeros(2, dtype=torch.float64), "is float64 of rank 1"),
        ({"a": 1}, {}, "key 'a' is missing in an answer of postprocess; its first answer had 'a'"),
        ({"a": 1}, {"a": 1, "b": None}, "key 'b' is new in an answer of postprocess; its first answer had 'a'"),
        ({"a": 1}, 1, "postprocess returned a int; its first answer was a dict"),
        ("a", {"a": 1}, "postprocess returned a dict; its first answer was no dict"),
        (np.zeros(2), np.zeros(3), r"the shapes of 'answer' in postprocess's answers differ in one request: \[2\] and \[3\]"),
    ],
)
def test_a_row_that_is_not_like_the_first_names_its_field(first: Any, later: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        AnswerFields.of(first).columns([first, later])


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([object()]), np.datetime64("2026-01-01"), 1j, 2**70, b"\xff"])
def test_a_value_that_nograd_does_not_send_is_its_limit_and_not_the_users_exception(value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        AnswerFields.of({"field": value})

    assert "'field' of postprocess's answer" in str(caught.value)
    assert "raised" not in str(caught.value)


def test_whole_numbers_fit_into_floats_and_lists_of_any_length_into_json() -> None:
    assert AnswerFields.of(0.5).columns([0.5, 2])["answer"].tolist() == [0.5, 2.0]
    assert AnswerFields.of([]).columns([[], [1, 2], None])["answer"].tolist() == ["[]", "[1,2]", "null"]
    with pytest.raises(ModelError, match="is int64"):
        AnswerFields.of(0.5).columns([2**60])
