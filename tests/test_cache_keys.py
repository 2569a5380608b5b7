from __future__ import annotations

import subprocess
import sys
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.caching import Keys
from nograd.errors import SignatureError


def f32(values: Any) -> Any:
    """An array of float32."""
    return np.array(values, np.float32)


KEYS = Keys("model")


def key(array: Any, name: str = "x") -> bytes:
    (found,) = KEYS.of_rows({name: array[None]})
    return found


def test_how_an_array_lies_in_memory_makes_no_difference() -> None:
    plain = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    wide = np.zeros((2, 3, 8), np.float32)
    wide[:, :, ::2] = plain
    for same in (np.asfortranarray(plain), wide[:, :, ::2], plain.copy(), plain.astype(">f4"), plain[::-1].copy()[::-1]):
        assert KEYS.of_rows({"x": same}) == KEYS.of_rows({"x": plain})
        assert KEYS.of_batch({"x": same}) == KEYS.of_batch({"x": plain})


def test_a_row_has_the_key_that_it_has_alone_and_batches_have_keys_of_their_own() -> None:
    batch = {"a": np.arange(6).reshape(3, 2), "b": np.array([1.0, 2.0, 3.0])}
    alone = [KEYS.of_rows({name: array[row : row + 1] for name, array in batch.items()})[0] for row in range(3)]
    assert KEYS.of_rows(batch) == alone
    assert len(set(alone)) == 3
    assert KEYS.of_batch({name: array[:1] for name, array in batch.items()}) not in alone


def test_the_order_of_inputs_makes_no_difference() -> None:
    a, b = np.array([1, 2]), np.array([3, 4])
    assert KEYS.of_rows({"a": a, "b": b}) == KEYS.of_rows({"b": b, "a": a})
    assert KEYS.of_rows({"a": a, "b": b}) != KEYS.of_rows({"a": b, "b": a})


NAN = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f32([0.0]), f32([-0.0])),
        (NAN[:1], NAN[1:]),
        (f32([1]), np.array([1])),
        (np.array([1], np.int32), np.array([1], np.int64)),
        (np.array([1], np.int64), np.array([1], np.uint64)),
        (np.zeros(2, np.float16), np.zeros(2, "bfloat16")),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros((2, 3)), np.zeros(6)),
        (np.zeros(0), np.zeros((0, 1))),
        (np.array(["ab", "c"], object), np.array(["a", "bc"], object)),
        (np.array(["\u00e9"], object), np.array(["e\u0301"], object)),
        (np.array([b"ab"], object), np.array(["b'ab'"], object)),
        (np.array([b"ab"], object), np.array(["ab"], object)),
    ],
)
def test_what_may_change_the_answer_changes_the_key(one: Any, other: Any) -> None:
    assert key(one) != key(other)
    assert key(one) == key(one.copy())


def test_names_fingerprint_outputs_and_parameters_change_the_key() -> None:
    x = np.zeros(2)
    makers = [
        KEYS,
        Keys("other"),
        Keys("model", outputs=["a"]),
        Keys("model", outputs=["b"]),
        Keys("model", outputs=["a", "b"]),
    ]
    makers += [
        Keys("model", parameters={"top": 1}),
        Keys("model", parameters={"top": "1"}),
        Keys("model", parameters={"pot": 1}),
    ]
    found = [maker.of_rows({"x": x[None]})[0] for maker in makers]
    assert len({*found, key(x, "y"), KEYS.of_text("x")}) == len(found) + 2
    assert Keys("model", outputs=["a", "b"]).of_text("t") == Keys("model", outputs=["b", "a"]).of_text("t")


def test_parameters_are_known_by_their_content_not_by_how_they_are_printed() -> None:
    long = np.zeros(5000)
    other = long.copy()
    other[2500] = 1
    precise = 1.0 + 1e-12
    values = [long, other, np.array([1.0]), np.array([precise]), [1.0], (1.0,), {"a": 1}, {"a": True}]
    assert len({Keys("model", parameters={"p": value}).of_text("x") for value in values}) == len(values)
    assert Keys("model", parameters={"p": long}).of_text("x") == Keys("model", parameters={"p": long.copy()}).of_text("x")
    assert Keys("model", parameters={"a": 1, "b": 2}).of_text("x") == Keys("model", parameters={"b": 2, "a": 1}).of_text("x")


def test_what_is_neither_text_nor_numbers_has_no_key() -> None:
    with pytest.raises(SignatureError, match="the array contains int; keys are made from numbers, strings and bytes"):
        key(np.array([1], object))


@given(st.lists(arrays.arrays(np.int8, arrays.array_shapes(max_dims=3, max_side=3), elements=st.integers(0, 2)), max_size=6))
def test_keys_are_equal_exactly_where_arrays_are(found: list[Any]) -> None:
    for one in found:
        for other in found:
            assert (key(one) == key(other)) == (one.shape == other.shape and np.array_equal(one, other))


@given(st.lists(st.text(max_size=3), max_size=6))
def test_keys_of_texts_are_equal_exactly_where_texts_are(texts: list[str]) -> None:
    assert len({KEYS.of_text(text) for text in texts}) == len(set(texts))


def test_half_a_surrogate_pair_has_a_key_too() -> None:
    assert KEYS.of_text("\ud800") != KEYS.of_text("\ud801")


def test_another_process_makes_the_same_keys() -> None:
    code = "from nograd.caching import Keys; import numpy; print(Keys('model').of_rows({'x': numpy.ones((1, 2))})[0].hex())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key(np.ones(2)).hex()
