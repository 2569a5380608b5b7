"""Inputs of a datatype that is not the model's: accepted where every value stays what it is, by every front alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nograd.core.tensors import Array, TensorSpec
from nograd.errors import ProtocolError
from nograd.server.grpc.messages import ModelInferRequest
from nograd.server.grpc.tensors import CONTENTS, read
from nograd.server.protocol.datatypes import numpy_dtype
from nograd.server.protocol.decoding import Decoder


def as_json(kind: str, values: Array, spec: TensorSpec) -> Array:
    import json

    given = {"name": "ids", "datatype": kind, "shape": list(values.shape), "data": values.ravel().tolist()}
    return np.asarray(Decoder((spec,))(json.dumps({"inputs": [given]}).encode()).inputs["ids"])


def as_binary(kind: str, values: Array, spec: TensorSpec) -> Array:
    import json

    octets = values.astype(numpy_dtype(kind)).tobytes()
    given: dict[str, Any] = {"name": "ids", "datatype": kind, "shape": list(values.shape)}
    given["parameters"] = {"binary_data_size": len(octets)}
    return np.asarray(Decoder((spec,))(json.dumps({"inputs": [given]}).encode(), memoryview(octets)).inputs["ids"])


def as_raw(kind: str, values: Array, spec: TensorSpec) -> Array:
    request = ModelInferRequest(raw_input_contents=[values.astype(numpy_dtype(kind)).tobytes()])
    request.inputs.add(name="ids", datatype=kind, shape=values.shape)
    return np.asarray(read(request, (spec,), None).inputs["ids"])


def as_typed(kind: str, values: Array, spec: TensorSpec) -> Array:
    if kind not in CONTENTS:
        pytest.skip(f"{kind} has no typed contents")
    request = ModelInferRequest()
    given = request.inputs.add(name="ids", datatype=kind, shape=values.shape)
    getattr(given.contents, CONTENTS[kind]).extend(values.ravel().tolist())
    return np.asarray(read(request, (spec,), None).inputs["ids"])


FRONTS = pytest.mark.parametrize("front", [as_json, as_binary, as_raw, as_typed])


@FRONTS
@pytest.mark.parametrize(
    ("kind", "wanted", "values"),
    [
        ("INT32", "int64", [-(2**31), 2**31 - 1]),
        ("UINT8", "int64", [0, 255]),
        ("UINT64", "int64", [0, 2**63 - 1]),
        ("INT64", "int32", [-(2**31), 7]),
        ("INT64", "uint8", [0, 255]),
        ("INT8", "uint64", [0, 127]),
        ("FP16", "float32", [0.099975586, 65504.0]),
        ("FP32", "float64", [0.10000000149011612, 3.0]),
    ],
)
def test_every_value_stays_what_it_is(front: Any, kind: str, wanted: str, values: list[float]) -> None:
    given = np.array([values], numpy_dtype(kind))

    found = front(kind, given, TensorSpec("ids", wanted, ("n",)))

    assert found.dtype == np.dtype(wanted)
    assert found.tolist() == given.tolist()


@FRONTS
@pytest.mark.parametrize(
    ("kind", "wanted", "value", "limits"),
    [
        ("INT64", "int32", 2**31, "int32 goes from -2147483648 to 2147483647"),
        ("UINT64", "int64", 2**63, "int64 goes from -9223372036854775808 to 9223372036854775807"),
        ("INT32", "uint64", -1, "uint64 goes from 0 to 18446744073709551615"),
        ("INT16", "uint8", 256, "uint8 goes from 0 to 255"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(front: Any, kind: str, wanted: str, value: int, limits: str) -> None:
    with pytest.raises(ProtocolError) as raised:
        front(kind, np.array([[1, value]], numpy_dtype(kind)), TensorSpec("ids", wanted, ("n",)))

    assert str(raised.value) == f"input 'ids' contains {value}; {limits}"


@FRONTS
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("FP64", "float32"), ("INT32", "float32"), ("FP32", "int64"), ("BOOL", "int64"), ("UINT8", "bool")],
)
def test_what_would_be_rounded_or_read_otherwise_is_refused(front: Any, kind: str, wanted: str) -> None:
    with pytest.raises(ProtocolError, match=f"input 'ids' has datatype {kind}; the model takes"):
        front(kind, np.array([[1]], numpy_dtype(kind)), TensorSpec("ids", wanted, ("n",)))


@FRONTS
def test_bfloat16_widens_to_float32_in_binary(front: Any) -> None:
    if front is as_json:
        pytest.skip("BF16 does not come as JSON")
    values = np.array([[1.5, -3.0]], numpy_dtype("BF16"))

    assert front("BF16", values, TensorSpec("ids", "float32", ("n",))).tolist() == [[1.5, -3.0]]
