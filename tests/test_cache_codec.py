from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.caching.codec import CorruptValueError, decode, encode, seal, unseal
from nograd.core.tensors import Array
from nograd.errors import UnsupportedError

DTYPES = [np.dtype(name) for name in ("bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64")]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))),
        max_size=3,
    )
)
def test_what_is_encoded_is_decoded(batch: dict[str, Array]) -> None:
    found = decode(encode(batch))
    assert list(found) == list(batch)
    for name, array in batch.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
        assert not found[name].flags.writeable
        assert found[name].ctypes.data % 16 == 0 or not array.size


def test_bfloat16_and_strides() -> None:
    array = np.arange(12).astype("bfloat16").reshape(3, 4)[::2, ::-1]
    found = decode(encode({"x": array}))["x"]
    assert found.dtype.name == "bfloat16"
    assert np.array_equal(found, array)


def test_text_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="output 'label' contains object; only numbers are cached"):
        encode({"label": np.array(["a"], object)})


def test_nothing_but_the_value_is_kept_alive() -> None:
    batch = np.zeros((1000, 4))
    assert len(encode({"x": batch[:1]})) < 100


@given(st.binary(max_size=80))
def test_garbage_is_told(garbage: bytes) -> None:
    with pytest.raises(CorruptValueError):
        decode(garbage)
    with pytest.raises(CorruptValueError):
        unseal(b"key", garbage)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_a_header_that_lies_is_told(garbage: bytes, at: int) -> None:
    value = encode({"output": np.arange(6.0).reshape(2, 3)})
    damaged = value[:at] + garbage + value[at + len(garbage) :]
    try:
        found = decode(damaged)
    except CorruptValueError:
        return
    assert all(array.nbytes <= len(damaged) for array in found.values())


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:30] + b"?" + b[31:], lambda b: b"N" + b]
)
def test_a_seal_tells_what_was_changed(change) -> None:  # type: ignore[no-untyped-def]
    sealed = seal(b"key", encode({"x": np.arange(8.0)}))
    assert decode(unseal(b"key", sealed))["x"].tolist() == list(range(8))
    with pytest.raises(CorruptValueError):
        unseal(b"key", change(sealed))
    with pytest.raises(CorruptValueError):
        unseal(b"another key", sealed)


def test_another_version_is_not_read() -> None:
    sealed = bytearray(seal(b"key", encode({"x": np.ones(1)})))
    sealed[6] = 2
    with pytest.raises(CorruptValueError, match="not sealed in format 1"):
        unseal(b"key", bytes(sealed))
    value = bytearray(encode({"x": np.ones(1)}))
    value[2] = 2
    with pytest.raises(CorruptValueError, match="not of format 1"):
        decode(bytes(value))


def test_objects_cannot_be_smuggled_in() -> None:
    value = encode({"x": np.ones(1, np.int16)}).replace(b"int16", b"O\0\0\0\0")
    with pytest.raises(CorruptValueError):
        decode(value)
