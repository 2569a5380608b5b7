"""Limits of one request, and long bodies that are decoded in slices and in threads."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import numpy as np
import orjson
import pytest

from nograd import Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch
from nograd.errors import NogradError, ProtocolError, TooLargeError
from nograd.server.grpc.messages import ModelInferRequest
from nograd.server.grpc.tensors import read
from nograd.server.models import served
from nograd.server.protocol import decoding, json_arrays, long_data, long_texts
from nograd.server.protocol.decoding import decode
from nograd.server.protocol.encoding import encode
from nograd.server.protocol.long_data import LONG_DATA, hollow, mark
from nograd.server.protocol.request_limits import RequestLimits
from tests.fakes import Fake, Site, tensor
from tests.test_service import lengths, text_model, texts

VARYING = TensorSpec("x", "float32", ("n",))
LIMITS = RequestLimits(rows=4, elements=10, text_chars=5)


def request(data: str, shape: list[int], *, datatype: str = "FP32") -> bytes:
    return f'{{"id":"a","inputs":[{{"data":{data},"name":"x","datatype":"{datatype}","shape":{shape}}}]}}'.encode()


# -- limits


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (tensor("x", "FP32", [5, 1], [1] * 5), "has 5 rows; a request may have at most 4 (max_request_rows)"),
        (tensor("x", "FP32", [2, 6], [1] * 12), "has 12 elements; a request may have at most 10 (max_request_elements)"),
        (tensor("x", "FP32", [2**40, 2], "unread"), "rows; a request may have at most 4"),
    ],
)
def test_too_many_rows_or_elements_are_refused_before_the_data_is_read(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TooLargeError) as refused:
        decode(json.dumps({"inputs": [given]}).encode(), [VARYING], None, LIMITS)
    assert said in str(refused.value)


def test_a_text_beyond_the_limit_is_refused_with_its_position() -> None:
    text = TensorSpec("text", "bytes")
    body = json.dumps({"inputs": [tensor("text", "BYTES", [2], ["short", "longer"])]}).encode()
    with pytest.raises(TooLargeError, match=r"a text of 6 characters, item 1; a text may have at most 5 \(max_text_chars\)"):
        decode(body, [text], None, LIMITS)
    raw = (6).to_bytes(4, "little") + b"longer"
    with pytest.raises(TooLargeError, match="item 0"):
        decode(b"", [text], memoryview(raw), LIMITS)


def test_grpc_has_the_same_limits() -> None:
    given = {"name": "x", "datatype": "FP32", "shape": [5, 1], "contents": {"fp32_contents": [1.0] * 5}}
    message = ModelInferRequest(model_name="m", inputs=[given])
    with pytest.raises(TooLargeError, match="max_request_rows"):
        read(message, [VARYING], None, LIMITS)


def test_the_server_refuses_with_413_before_anything_is_tokenized() -> None:
    seen: list[str] = []

    def preprocess(text: str) -> Any:
        seen.append(text)
        return {"letters": np.ones(max(1, len(text)), np.int64)}

    predictor = Predictor(lengths(), preprocess=preprocess, sample=["ab"])
    with Site({"m": predictor}, max_queue_rows=8, max_text_chars=3) as site:
        seen.clear()
        assert site.infer("m", texts(*"abcdefghi")).status == 413
        assert site.infer("m", texts("a", "abcd")).status == 413
        assert seen == []
        assert site.infer("m", texts("abc")).status == 200
    with Site({"m": predictor}, max_queue_rows=8, max_request_rows=2) as site:
        assert "at most 2 (max_request_rows)" in site.infer("m", texts("a", "b", "c")).error


# -- long bodies


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of some kilobytes are cut."""
    monkeypatch.setattr(long_data, "SLICE", 1000)


def outcome(body: bytes, spec: TensorSpec) -> Any:
    """Return the array of a request, or the kind of its refusal."""
    try:
        array = decode(body, [spec]).inputs["x"]
    except NogradError as error:
        return type(error)
    return array.dtype, array.shape, array.tobytes()


@pytest.mark.parametrize(("dtype", "datatype"), [("float32", "FP32"), ("int64", "INT64"), ("uint8", "UINT8"), ("bool", "BOOL")])
@pytest.mark.parametrize("shape", [[30_000], [1, 30_000], [300, 100], [30, 10, 100]])
@pytest.mark.parametrize("is_nested", [True, False])
def test_long_data_is_what_json_says(dtype: str, datatype: str, shape: list[int], is_nested: bool) -> None:
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    if dtype == "float32":
        values *= np.float32(0.1)
    text = json.dumps((values if is_nested else values.ravel()).tolist())
    assert len(text) > LONG_DATA
    array = decode(request(text, shape, datatype=datatype), [TensorSpec("x", dtype, ("n",))]).inputs["x"]
    assert array.dtype == values.dtype
    assert np.array_equal(array, values)


NUMBERS = ",".join(["1.5"] * 20_000)
ROWS = ",".join(["[1,2]"] * 20_000)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (f"[{NUMBERS}]", [19_999]),
        (f"[{NUMBERS},]", [20_000]),
        (f"[{NUMBERS},]", [20_001]),
        (f"[,{NUMBERS}]", [20_001]),
        (f"[{NUMBERS},,1]", [20_002]),
        (f"[{NUMBERS},null]", [20_001]),
        (f'[{NUMBERS},"1"]', [20_001]),
        (f"[{NUMBERS},1 2]", [20_001]),
        (f"[{NUMBERS},1e39]", [20_001]),
        (f"[{NUMBERS}", [20_000]),
        (f"[{NUMBERS}]]", [20_000]),
        (f"[{ROWS},[1],[2,3,4]]", [20_002, 2]),
        (f"[{ROWS},[1,2]3,[4,5]]", [20_002, 2]),
        (f"[{ROWS},[[1,2]]]", [20_001, 2]),
        (f"[{ROWS}]", [2, 20_000]),
        (f"[{ROWS},[1,2]", [20_001, 2]),
        (f"[{','.join(['[]'] * 40_000)}]", [1, 4]),
        (f"[{','.join(['[]'] * 40_000)}]", [40_000, 0]),
        (f"[{','.join(['[' * 60 + ']' * 60] * 2_000)}]", [1, 4]),
    ],
)
def test_malformed_long_data_is_refused(data: str, shape: list[int]) -> None:
    with pytest.raises(ProtocolError):
        decode(request(data, shape), [VARYING])


@pytest.mark.parametrize("slice_bytes", [3, 2**18])
@pytest.mark.parametrize(
    ("data", "is_right"),
    [
        (b"[[1], [2]]", True),
        (b"[[1], 2[]]", False),
        (b"[1[], [2]]", False),
        (b"[[]1 , [2]]", False),
        (b"[[1], [] 2]", False),
        (b"1[[], [2]]", False),
    ],
)
def test_a_number_outside_of_its_list_does_not_nest(
    data: bytes, is_right: bool, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_data, "SLICE", slice_bytes)
    assert long_data.nests(data, [2, 1], b"0123456789 ") == is_right


def test_numbers_beyond_the_dtype_are_named_in_long_data() -> None:
    with pytest.raises(ProtocolError, match="contains 300; UINT8 goes from 0 to 255"):
        decode(request("[" + "7," * 40_000 + "300]", [40_001], datatype="UINT8"), [TensorSpec("x", "uint8", ("n",))])


def test_a_hollow_body_keeps_everything_but_its_long_numbers() -> None:
    array = b"[" + b",".join([b"1.25"] * 20_000) + b"]"
    body = b'{"id":"\\"data\\":[1]","inputs":[{"data": %b,"name":"a\\\\"},{"name":"b","data":%b}]}' % (array, array)
    rest, arrays = hollow(body)
    assert arrays == [array, array]
    assert rest == b'{"id":"\\"data\\":[1]","inputs":[{"data": %b,"name":"a\\\\"},{"name":"b","data":%b}]}' % (mark(0), mark(1))
    assert hollow(b'{"data":[1]}') == (b'{"data":[1]}', [])


def test_too_many_lists_and_strings_are_refused_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_data, "MAX_LISTS", 1000)
    with pytest.raises(TooLargeError, match="more than 1000 lists"):
        decode(request("[" + ",".join(["[]"] * 40_000) + "]", [1, 4]), [VARYING])
    with pytest.raises(ProtocolError, match="more than 10000 strings"):
        decode(request("[" + ",".join(['"a"'] * 40_000) + "]", [1, 4]), [VARYING])


@pytest.mark.parametrize("text", ['""', '"\\\\"', '"\\""', '"\\u0022"'])
def test_more_texts_than_the_shape_has_are_refused_by_their_quotes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "[" + ",".join([text] * 40_000) + "]"
    spec = TensorSpec("x", "bytes")
    assert decode(request(data, [40_000], datatype="BYTES"), [spec]).inputs["x"].tolist() == json.loads(data)
    monkeypatch.setattr("nograd.server.protocol.long_texts._decoded", lambda *_: pytest.fail("the texts were decoded"))
    with pytest.raises(ProtocolError, match="so 2 elements; its data has 40000"):
        decode(request(data, [2], datatype="BYTES"), [spec])


def test_a_long_answer_is_encoded_in_slices_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"a": np.random.default_rng(0).normal(size=(7, 100)).astype(np.float32), "b": np.array(["x,]", "y"] * 60, object)}
    whole = encode("m", "1", "7", outputs)
    monkeypatch.setattr("nograd.server.protocol.encoding.SLICE_ELEMENTS", 64)
    assert orjson.loads(encode("m", "1", "7", outputs)) == orjson.loads(whole)
    assert encode("m", "1", "7", outputs) == whole


def test_long_bodies_and_answers_are_not_converted_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noting(function: Any) -> Any:
        def call(*args: Any) -> Any:
            threads.append(threading.get_ident())
            return function(*args)

        return call

    monkeypatch.setattr("nograd.server.protocol.decoding.decode", noting(decode))
    monkeypatch.setattr(served, "encode", noting(encode))

    def repeat(batch: Batch) -> Batch:
        return {"y": np.repeat(batch["x"], 10, axis=1)}

    model = Fake(repeat, Signature((TensorSpec("x", "float32", (20_000,)),), (TensorSpec("y", "float32", (200_000,)),)))
    with Site({"m": model}) as site:
        reply = site.infer("m", tensor("x", "FP32", [1, 20_000], [0.25] * 20_000))
        assert reply.data("y") == [0.25] * 200_000
        assert len(threads) == 2
        assert threading.get_ident() not in threads


TEXTS = TensorSpec("x", "bytes", ("n",))


def text_body(chance: random.Random) -> bytes:
    """Return a body of texts full of quotes, brackets and escapes, in any order and spelling; half of them damaged."""
    rows, columns = chance.randint(1, 4), chance.randint(1, 4)

    def text() -> str:
        return "".join(chance.choice('ab",[]{}\\:\n\u00e9\U0001f600 data"') for _ in range(chance.randint(0, 8)))

    nested = [[text() for _ in range(columns)] for _ in range(rows)]
    data = chance.choice([nested, [each for row in nested for each in row]])
    fields = [("data", data), ("name", "x"), ("datatype", "BYTES"), ("shape", [rows, columns])]
    content = {"id": text(), "inputs": [dict(chance.sample(fields, 4))], "parameters": {text(): text()}}
    body = bytearray(json.dumps(content, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1])).encode())
    if chance.random() < 0.5:
        position, byte = chance.randrange(len(body)), chance.choice(b'",[]{}\\ a1')
        body[position : position + chance.randint(0, 1)] = bytes([byte] * chance.randint(0, 1))
    return bytes(body)


def test_texts_decoded_in_slices_are_what_json_says_and_damage_is_refused_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)

    def decoded(body: bytes, long_data_bytes: int) -> Any:
        for module in (decoding, json_arrays, long_texts):
            monkeypatch.setattr(module, "LONG_DATA", long_data_bytes, raising=False)
        try:
            request = decode(body, [TEXTS])
        except NogradError:
            return None
        return request.inputs["x"].tolist(), request.id

    monkeypatch.setattr(long_data, "SLICE", 40)
    bodies = [text_body(chance) for _ in range(1500)]
    expected = [decoded(body, 2**30) for body in bodies]
    assert 700 < sum(each is not None for each in expected) < 1500
    assert [decoded(body, 3) for body in bodies] == expected


@pytest.mark.parametrize("spelling", ["[%s]", "[[%s]]", '["",%s]', "[1,%s]"])
def test_a_long_text_is_refused_before_it_is_decoded(spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.server.protocol.long_texts._decoded", lambda *_: pytest.fail("the texts were decoded"))
    data = spelling % ('"' + "\\n" * 40_000 + '"')
    spec = TensorSpec("x", "bytes")
    shape = [2] if "," in spelling and "1" not in spelling else [1]
    with pytest.raises(TooLargeError, match=r"item \d is a text of 80000 bytes in JSON; a text may have at most 5 characters"):
        decode(request(data, shape, datatype="BYTES"), [spec], None, RequestLimits(rows=4, elements=10, text_chars=5))


@pytest.mark.parametrize("more", ['"id":"%s"', '"parameters":{"a":"%s"}', '"outputs":[{"name":"%s"}]'])
def test_a_body_that_is_long_besides_its_data_is_refused(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_data, "MAX_REST", 1000)
    extra = more % ("a" * 70_000)
    for spec, value, datatype in ((VARYING, "1", "FP32"), (TensorSpec("x", "bytes"), '"a"', "BYTES")):
        body = request(f"[{value}]", [1], datatype=datatype)[:-1] + b"," + extra.encode() + b"}"
        with pytest.raises(ProtocolError, match="bytes besides the long lists of its data; a request has at most 1000"):
            decode(body, [spec])


def test_the_texts_of_a_request_are_bounded_by_its_rows() -> None:
    limits = RequestLimits(rows=4, elements=1000, text_chars=5)
    assert limits.max_texts([TensorSpec("x", "bytes"), TensorSpec("y", "bytes", (3,)), VARYING]) == 4 + 12
    assert limits.max_texts([TensorSpec("x", "bytes", ("n",))]) == 1000
    body = request("[" + ",".join(['""'] * 40_000) + "]", [1], datatype="BYTES")
    with pytest.raises(TooLargeError, match="at most 4 texts"):
        decode(body, [TensorSpec("x", "bytes")], None, limits)


def test_a_long_text_body_is_answered() -> None:
    with Site({"m": text_model()}, max_request_rows=1000) as site:
        given = ["a" * 200, *["b" * 100] * 900]
        assert site.infer("m", texts(*given)).data("length") == [200, *[100] * 900]
