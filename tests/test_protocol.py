"""The Open Inference Protocol's codec: bytes to arrays and back. Letters and numbers as in the acceptance checklist."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import TensorSpec
from nograd.errors import (
    ConfigError,
    DeadlineError,
    ItemError,
    MethodError,
    ModelError,
    ModelNotFoundError,
    NogradError,
    OverloadedError,
    ProtocolError,
    SignatureError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from nograd.server.protocol.datatypes import require_outputs, tensor_metadata
from nograd.server.protocol.decoding import Decoder, decode
from nograd.server.protocol.encoding import encode
from nograd.server.protocol.request import InferRequest
from nograd.server.protocol.statuses import status_of
from tests.fakes import DATATYPES, Site, echoing, tensor

SPECS = {name: TensorSpec("t", dtype, ("n",)) for name, dtype in DATATYPES.items()}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def decoded(datatype: str, shape: list[Any], data: Any) -> Any:
    """The array that one input `t` becomes."""
    return decode(body(tensor("t", datatype, shape, data)), [SPECS[datatype]]).inputs["t"]


def refusal(request: bytes, *specs: TensorSpec) -> str:
    with pytest.raises(ProtocolError) as raised:
        decode(request, specs or [SPECS["FP32"]])
    return str(raised.value)


# -- requests


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_i1_flat_and_nested_data_are_the_same_rows(datatype: str, data: list[Any]) -> None:
    def made(value: Any) -> Any:
        if isinstance(value, list):
            return [made(each) for each in value]
        return {"BOOL": value % 2 == 0, "BYTES": f"text {value}"}.get(datatype, value)

    array = decoded(datatype, [2, 3], made(data))

    assert array.dtype == (object if datatype == "BYTES" else DATATYPES[datatype])
    assert array.tolist() == made([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("shape", "data", "said"),
    [
        ([2, 2], [[1, 2], [3]], "ragged"),
        ([2, 2], [[1, 2], 3], "ragged"),
        ([2, 2], [[1, 2], [[3], 4]], "ragged"),
        ([4], [[1, 2], [3, 4]], "ragged"),
        ([2, 2], [1, 2, 3], "so 4 elements; its data has 3"),
        ([2, 2], [1, 2, 3, 4, 5], "so 4 elements; its data has 5"),
        ([2], [], "so 2 elements; its data has 0"),
        ([], [1, 2], "so 1 elements; its data has 2"),
        ([-1, 2], [1, 2], "sizes are 0 or more"),
        ([-1, -2], [1, 2], "sizes are 0 or more"),
        ([1.5, 2], [1, 2, 3], "shape"),
        ([True, 2], [1, 2], "shape"),
        ([None], [1], "shape"),
        ("2", [1, 2], "shape"),
        ([10**30], [1], "shape"),
        ([0, 2**62, 2**62], [], "'t'"),
        ([0, 2**63], [], "'t'"),
        ([1] * 70, [1], "'t'"),
        ([2], None, "must be a list of numbers"),
        ([2], 5, "must be a list of numbers"),
        ([2], {"a": 1}, "must be a list of numbers"),
        ([2], "AAAA", "must be a list of numbers"),
    ],
)
def test_i1_i2_data_that_does_not_fill_its_shape_is_refused_by_name(shape: Any, data: Any, said: str) -> None:
    message = refusal(body(tensor("t", "FP32", shape, data)))

    assert said in message
    assert "Expected" not in message or "shape" in message


@pytest.mark.parametrize("shape", [[], [0], [0, 4], [2, 0]])
def test_i2_a_shape_without_rows_reaches_the_signature_which_refuses_it(shape: list[int]) -> None:
    with Site({"m": echoing(SPECS["FP32"])}) as site:
        reply = site.infer("m", tensor("t", "FP32", shape, [1.0][: math.prod(shape)]))

    assert reply.status == 400
    assert "'t'" in reply.error


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("UINT8", [256], "contains 256; UINT8 goes from 0 to 255"),
        ("UINT8", [-1], "contains -1; UINT8 goes from 0 to 255"),
        ("INT8", [1, -129], "contains -129; INT8 goes from -128 to 127"),
        ("INT64", [2**63], "contains 9223372036854775808; INT64 goes from"),
        ("UINT64", [2**64], "UINT64"),
        ("INT32", [1.5], "must be a list of integers"),
        ("INT32", ["1"], "must be a list of integers"),
        ("INT32", [True], "must be a list of integers"),
        ("INT32", [None], "must be a list of integers"),
        ("FP32", ["1.5"], "must be a list of numbers"),
        ("FP32", [False], "must be a list of numbers"),
        ("FP32", [1e39], "out of range of FP32, whose maximum is 3.40282e+38"),
        ("FP16", [70000], "out of range of FP16, whose maximum is 65504"),
        ("BOOL", [1], "must be a list of true and false"),
        ("BYTES", [1], "must be a list of strings"),
        ("BYTES", [b"".decode(), None], "must be a list of strings"),
    ],
)
def test_i5_a_value_that_is_not_the_datatypes_is_refused_by_name(datatype: str, data: list[Any], said: str) -> None:
    message = refusal(body(tensor("t", datatype, [len(data)], data)), SPECS[datatype])

    assert message.startswith(("input 't' ", "the data of input 't'"))
    assert said in message


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "01", "0x1", "1.", "+1"])
def test_i5_a_number_that_json_does_not_have_is_refused(literal: str) -> None:
    request = f'{{"inputs": [{{"name": "t", "shape": [1], "datatype": "FP64", "data": [{literal}]}}]}}'

    assert refusal(request.encode(), SPECS["FP64"])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_i5_int64_survives_exactly(values: list[int]) -> None:
    array = decoded("INT64", [len(values)], values)

    assert array.tolist() == values
    assert json.loads(encode("m", "1", "id", {"t": array}))["outputs"][0]["data"] == values


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, 2**64 - 1])
def test_i5_uint64_survives_exactly(value: int) -> None:
    assert decoded("UINT64", [1], [value]).tolist() == [value]


def test_i3_an_unknown_datatype_is_refused_with_the_known_ones() -> None:
    message = refusal(body(tensor("t", "FLOAT", [1], [1])))

    assert message.startswith("input 't' has datatype 'FLOAT'; datatypes are ")
    assert all(name in message for name in DATATYPES)


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"FP32", "FP16", "BF16"}))
def test_i3_a_datatype_that_is_not_the_models_is_refused(datatype: str) -> None:
    assert refusal(body(tensor("t", datatype, [1], [1]))) == f"input 't' has datatype {datatype}; the model takes FP32"


def test_i4_bf16_needs_binary() -> None:
    with pytest.raises(ProtocolError, match="input 't' is BF16, which must be binary"):
        decode(body(tensor("t", "BF16", [1], [1])), [TensorSpec("t", "bfloat16")])


def test_b2_binary_data_without_bytes_behind_the_json_is_refused() -> None:
    binary = {"name": "t", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    with pytest.raises(ProtocolError, match="input 't' has binary_data_size 4; the body has 0 bytes for it"):
        decode(body(binary), [SPECS["FP32"]])


@pytest.mark.parametrize("text", ["", "plain", "Zürich 漢字 🙂", "null", 'quote " and \\ and \n', "\u0000"])
def test_i6_text_survives_exactly(text: str) -> None:
    array = decoded("BYTES", [1], [text])

    assert array.tolist() == [text]
    assert json.loads(encode("m", "1", "id", {"t": array}))["outputs"][0]["data"] == [text]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (body(), "inputs is empty; the model takes 't'"),
        (body(tensor("u", "FP32", [1], [1])), "unknown input 'u'; the model takes 't'"),
        (body(tensor("T", "FP32", [1], [1])), "unknown input 'T'; the model takes 't'"),
        (body(*[tensor("t", "FP32", [1], [1])] * 2), "input 't' is given twice"),
        (body({"name": "t", "datatype": "FP32", "shape": [1]}), "input 't' has no data"),
        (body({"name": "t", "datatype": "FP32", "data": [1]}), "shape"),
        (body({"name": "t", "shape": [1], "data": [1]}), "datatype"),
        (body({"datatype": "FP32", "shape": [1], "data": [1]}), "name"),
        (body(tensor("t", "FP32", [1], [1]), id=5), "id"),
        (body(tensor("t", "FP32", [1], [1]), outputs=[{}]), "name"),
        (b"{}", "inputs"),
        (b"[]", "object"),
        (b"null", "object"),
    ],
)
def test_i7_what_is_missing_or_unknown_is_named(request_: bytes, said: str) -> None:
    assert said in refusal(request_)


def test_i8_outputs_are_asked_for_in_any_order_and_none_or_empty_means_all() -> None:
    one = tensor("t", "FP32", [1], [1])

    assert decode(body(one, outputs=[{"name": "b"}, {"name": "a"}]), [SPECS["FP32"]]).outputs == ("b", "a")
    assert decode(body(one, outputs=[]), [SPECS["FP32"]]).outputs == ()
    assert decode(body(one, outputs=None), [SPECS["FP32"]]).outputs == ()
    with pytest.raises(ProtocolError, match="unknown output 'c'; the model returns 'a', 'b'"):
        require_outputs(("a", "c"), [TensorSpec("a", "float32"), TensorSpec("b", "float32")])


def test_i11_unknown_parameters_are_no_error() -> None:
    parameters = {"sequence_id": 5, "priority": 1, "binary_data_output": True, "triton_x": "y", "mine": 0.5}
    one = {**tensor("t", "FP32", [1], [1]), "parameters": {"content_type": "np"}}

    request = decode(
        body(one, parameters=parameters, outputs=[{"name": "o", "parameters": {"binary_data": False}}]), [SPECS["FP32"]]
    )

    assert (request.outputs, request.timeout_s) == (("o",), None)


@pytest.mark.parametrize(("timeout", "timeout_s"), [(0, None), (1, 1e-6), (2_500_000, 2.5)])
def test_i12_the_timeout_parameter_is_in_microseconds(timeout: int, timeout_s: float | None) -> None:
    request = decode(body(tensor("t", "FP32", [1], [1]), parameters={"timeout": timeout}, id="a"), [SPECS["FP32"]])

    assert request == InferRequest(request.inputs, (), "a", timeout_s)


@pytest.mark.parametrize("timeout", [-1, 0.5, "1s"])
def test_i12_any_other_timeout_is_refused(timeout: Any) -> None:
    message = refusal(body(tensor("t", "FP32", [1], [1]), parameters={"timeout": timeout}))

    assert message == f"parameters.timeout is {timeout!r}; it must be a whole number of microseconds, 0 for none"


DEEP = 100_000


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"inputs": ' + b"[" * DEEP,
        b'{"inputs": [{"name": "t", "shape": [1], "datatype": "FP32", "data": ' + b"[" * DEEP + b"]" * DEEP + b"}]}",
        b'{"a": ' * DEEP,
        b'{"id": ' + b"[" * DEEP,
        b'{"parameters": ' + b'{"a":' * DEEP,
    ],
    ids=["inputs", "data", "objects", "id", "parameters"],
)
def test_i13_a_depth_bomb_is_a_refusal(bomb: bytes) -> None:
    assert refusal(bomb)


@pytest.mark.parametrize(
    "request_", [b"", b"\xff\xfe", '{"inputs"'.encode("utf-16"), b'{"inputs": [\xff]}', b'{"id": "\\ud800", "inputs": []}']
)
def test_i13_bytes_that_are_not_utf8_json_are_a_refusal(request_: bytes) -> None:
    assert refusal(request_).startswith(("the body is not an inference request: ", "inputs is empty"))


# -- answers


def test_o1_o2_an_answer_is_flat_row_major_json() -> None:
    strided = np.arange(12, dtype=np.int32).reshape(2, 6)[:, ::2]

    answer = json.loads(encode("m", "3", "abc", {"a": strided, "b": np.array([True]), "c": np.zeros((1, 0), np.float32)}))

    assert answer == {
        "model_name": "m",
        "model_version": "3",
        "id": "abc",
        "outputs": [
            {"name": "a", "datatype": "INT32", "shape": [2, 3], "data": [0, 2, 4, 6, 8, 10]},
            {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
            {"name": "c", "datatype": "FP32", "shape": [1, 0], "data": []},
        ],
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_o3_nan_and_infinity_are_an_error_and_never_invalid_json(bad: float, dtype: str) -> None:
    with pytest.raises(ModelError, match="output 'y' contains NaN or infinity, which JSON does not support"):
        encode("m", "1", "i", {"x": np.zeros(1, np.float32), "y": np.array([[1, bad]], dtype)})


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_o4_float32_comes_back_as_it_was_in_its_shortest_digits(values: list[float]) -> None:
    array = decoded("FP32", [len(values)], values)
    text = encode("m", "1", "i", {"t": array})
    again = np.array(json.loads(text)["outputs"][0]["data"], dtype=np.float32)

    assert array.tobytes() == np.array(values, np.float32).tobytes() == again.tobytes()


def test_o4_float32_is_not_widened() -> None:
    assert b'"data":[0.1]' in encode("m", "1", "i", {"t": np.array([0.1], np.float32)})


def test_an_output_that_the_protocol_has_no_name_for_is_an_error_of_ours() -> None:
    with pytest.raises(NogradError, match="output 'y' is complex64"):
        encode("m", "1", "i", {"y": np.array([1j], np.complex64)})


def test_metadata_has_minus_one_for_rows_and_for_what_varies() -> None:
    assert tensor_metadata([TensorSpec("x", "int64", ("tokens", 3))]) == [
        {"name": "x", "datatype": "INT64", "shape": [-1, -1, 3]}
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProtocolError(""), 400), (SignatureError(""), 400), (ItemError("", 0), 400), (ConfigError(""), 400),
        (ModelNotFoundError(""), 404), (MethodError("", ("GET",)), 405), (TooLargeError(""), 413),
        (ModelError(""), 500), (ValueError(""), 500), (UnsupportedError(""), 501),
        (OverloadedError(""), 503), (UnavailableError(""), 503), (DeadlineError(""), 504),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_every_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status


FLOATS = [TensorSpec("t", "float32", ("n",)), TensorSpec("u", "float32", ("n",))]


@pytest.mark.parametrize(
    "request_body",
    [
        body(tensor("t", "FP32", [2, 2], [1, 2.5, -3, 1e38])),
        body(tensor("u", "FP32", [1], [1]), tensor("t", "FP32", [1], [2]), outputs=[{"name": "b"}], id="7"),
        body(tensor("t", "FP32", [2, 2], [[1, 2], [3, 4]]), parameters={"timeout": 5}),
        body(tensor("t", "FP32", [2], [1, 2]), parameters={"timeout": 5_000_000}),
        body(tensor("t", "FP32", [0], [])),
        body(tensor("t", "FP32", [2], [3e38, 3e38])),
    ],
    ids=["flat", "two", "nested", "timeout", "empty", "long vector"],
)
def test_the_short_way_reads_what_the_long_way_reads(request_body: bytes) -> None:
    short, long = Decoder(FLOATS)(request_body), decode(request_body, FLOATS)

    assert short[1:] == long[1:]
    assert list(short.inputs) == list(long.inputs)
    for name, array in long.inputs.items():
        assert short.inputs[name].dtype == np.float32
        assert short.inputs[name].tolist() == array.tolist()


@pytest.mark.parametrize(
    "request_body",
    [
        b"{",
        b"",
        body(),
        body(tensor("v", "FP32", [1], [1])),
        body(tensor("t", "FP64", [1], [1])),
        body(tensor("t", "FP32", [2], [1])),
        body(tensor("t", "FP32", [-1], [1])),
        body(tensor("t", "FP32", [1], [1e39])),
        body(tensor("t", "FP32", [1], ["a"])),
        body(tensor("t", "FP32", [1], [True])),
        body(tensor("t", "FP32", [1], [1]), tensor("t", "FP32", [1], [1])),
        body(tensor("t", "FP32", [1], [1]), parameters={"timeout": -1}),
    ],
)
def test_the_short_way_refuses_what_the_long_way_refuses(request_body: bytes) -> None:
    with pytest.raises(ProtocolError) as short:
        Decoder(FLOATS)(request_body)
    assert str(short.value) == refusal(request_body, *FLOATS)


# -- values that only a hostile client sends: refused in linear time, without repeating them


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([1] * 64 + [4], "input 't' has a shape of 65 dimensions; at most 64 are allowed"),
        ([2**62] * 60_000, "input 't' has a shape of 60000 dimensions"),
        ([10**4000] * 3, "input 't' has a size of a number of more than 1,000 digits in its shape"),
        ([2**63, 1], "input 't' has a size of 9223372036854775808 in its shape; sizes are at most 9223372036854775807"),
        ([10**4000, -1], "a number of more than 1,000 digits"),
    ],
)
def test_i2_a_shape_that_no_array_has_is_refused_before_anything_is_computed(shape: list[int], said: str) -> None:
    message = refusal(body(tensor("t", "FP32", shape, [1, 2, 3, 4])))

    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize("timeout", [2**63, 10**4000, -(10**4000), "9" * 5000])
def test_i12_a_timeout_beyond_all_clocks_is_refused(timeout: object) -> None:
    message = refusal(body(tensor("t", "FP32", [1], [1]), parameters={"timeout": timeout}))

    assert message.startswith("parameters.timeout is ")
    assert len(message) < 300


@pytest.mark.parametrize("data", [[[]] * 1000, [[[1]], [[2]]], [[1, 2], [3, []]]])
def test_i1_lists_that_do_not_nest_as_the_shape_does_are_refused_before_they_are_made(data: Any) -> None:
    assert refusal(body(tensor("t", "FP32", [2, 2], data))).startswith("input 't' is ragged")


def test_null_means_that_an_optional_field_is_not_set() -> None:
    plain = {"inputs": [tensor("t", "FP32", [1], [1])], "outputs": [{"name": "y"}]}
    nulls = {
        "id": None,
        "parameters": None,
        "inputs": [{**tensor("t", "FP32", [1], [1]), "parameters": None}],
        "outputs": [{"name": "y", "parameters": None}],
    }
    named = {"timeout": None, "priority": None, "binary_data_output": None, "mine": None}

    with_null = {**tensor("t", "FP32", [1], [1]), "parameters": {"mine": None}}
    for request in (nulls, {**plain, "parameters": named}, {**plain, "inputs": [with_null]}):
        found, expected = (decode(json.dumps(each).encode(), [SPECS["FP32"]]) for each in (request, plain))
        assert (found[1:], found.inputs["t"].tolist()) == (expected[1:], expected.inputs["t"].tolist())


def test_nan_in_an_answer_to_nan_is_the_client_s() -> None:
    nan, fine = np.array([np.nan], np.float32), np.array([1.0], np.float32)

    with pytest.raises(ProtocolError, match="output 'y' contains NaN or infinity, like input 'x'"):
        encode("m", "1", "id", {"y": nan}, {"x": nan})
    with pytest.raises(ModelError, match="output 'y' contains NaN or infinity"):
        encode("m", "1", "id", {"y": nan}, {"x": fine})
