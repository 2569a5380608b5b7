"""The extension binary_tensor_data, B1 to B9 of the protocol's acceptance checklist, without sockets."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import Backend, Signature, TensorSpec
from nograd.core.tensors import Array, Batch
from nograd.server.http.bodies import BinaryBody, read_body
from nograd.server.protocol.binary import BinaryTail
from nograd.server.protocol.decoding import decode
from nograd.server.protocol.encoding import encode_binary
from tests.fakes import DATATYPES, Fake, Message, Reply, Site, doubling, echoing

HEADER = "Inference-Header-Content-Length"

VALUES: Mapping[str, Any] = {
    **{name: np.array([[1, 0]], dtype=dtype) for name, dtype in DATATYPES.items() if name != "BYTES"},
    "BF16": np.array([[1, 0]], dtype="bfloat16"),
    "BYTES": np.array([["Zürich", ""]], dtype=object),
}


def pair() -> Fake:
    """Two inputs, two outputs: the same."""
    specs = (TensorSpec("a", "float32", (2,)), TensorSpec("b", "int64", (1,)))
    return Fake(dict, Signature(specs, specs))


def nan() -> Fake:
    spec = TensorSpec("t", "float32", ("n",))
    return Fake(lambda batch: {"t": batch["t"] * np.float32("nan")}, Signature((spec,), (spec,)))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    echoes: dict[str, Backend] = {
        name: echoing(TensorSpec("t", dtype, ("n",))) for name, dtype in {**DATATYPES, "BF16": "bfloat16"}.items()
    }
    models = {**echoes, "pair": pair(), "doubling": doubling(), "nan": nan(), "text": echoing(TensorSpec("t", "bytes"))}
    models["square"] = echoing(TensorSpec("t", "float32", ("n", "m")))
    with Site(models, max_batch_size=4) as site:
        yield site


def octets(array: Array) -> bytes:
    """The protocol's bytes of an array."""
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in array.ravel())


def entry(name: str, datatype: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(octets(array))},
    }


def post(site: Site, model: str, head: Mapping[str, Any], tail: bytes = b"", *, length: str | None = None) -> Reply:
    text = json.dumps(head).encode()
    headers = {HEADER: str(len(text)) if length is None else length, "content-type": "application/octet-stream"}
    return site.request("POST", f"/v2/models/{model}/infer", text + tail, headers=headers)


def parted(reply: Reply) -> tuple[dict[str, Any], bytes]:
    """JSON and bytes of an answer in binary."""
    assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream"), reply.body
    end = int(reply.headers[HEADER.lower()])
    return json.loads(reply.body[:end]), reply.body[end:]


@pytest.mark.parametrize("datatype", sorted(VALUES))
def test_b1_b3_b5_b6_every_datatype_goes_there_and_back(site: Site, datatype: str) -> None:
    values = VALUES[datatype]
    request = {"inputs": [entry("t", datatype, values)], "parameters": {"binary_data_output": True}, "id": "mine"}

    head, tail = parted(post(site, datatype, request, octets(values)))

    assert head["id"] == "mine"
    assert head["outputs"] == [entry("t", datatype, values)]
    assert tail == octets(values)


def test_b2_binary_and_json_inputs_in_one_request(site: Site) -> None:
    a = np.array([[1, 2], [3, 4]], dtype=np.float32)
    b = {"name": "b", "datatype": "INT64", "shape": [2, 1], "data": [2**53 + 1, 6]}

    reply = post(site, "pair", {"inputs": [b, entry("a", "FP32", a)]}, octets(a))

    assert (reply.data("a"), reply.data("b")) == ([1, 2, 3, 4], [2**53 + 1, 6])


@pytest.mark.parametrize("default", [True, False])
def test_b5_each_output_as_it_was_asked_for(site: Site, default: bool) -> None:
    inputs = [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
        {"name": "b", "datatype": "INT64", "shape": [1, 1], "data": [3]},
    ]
    outputs = [{"name": "b"}, {"name": "a", "parameters": {"binary_data": not default}}]
    body = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"binary_data_output": default}}).encode()

    head, tail = parted(site.request("POST", "/v2/models/pair/infer", body))

    assert [each["name"] for each in head["outputs"]] == ["b", "a"]
    assert ["data" in each for each in head["outputs"]] == [not default, default]
    assert tail == (np.int64(3).tobytes() if default else np.array([1, 2], np.float32).tobytes())


def test_nan_goes_in_binary_and_json_says_so(site: Site) -> None:
    inputs = [{"name": "t", "datatype": "FP32", "shape": [1, 1], "data": [1]}]

    plain = site.infer("nan", *inputs)
    _, tail = parted(site.infer("nan", *inputs, parameters={"binary_data_output": True}))

    assert (plain.status, "request it in binary" in plain.error) == (500, True)
    assert np.isnan(np.frombuffer(tail, np.float32)).all()


def test_bf16_is_for_binary_only(site: Site) -> None:
    sent = site.infer("BF16", {"name": "t", "datatype": "BF16", "shape": [1, 1], "data": [1]})
    got = post(site, "BF16", {"inputs": [entry("t", "BF16", VALUES["BF16"])]}, octets(VALUES["BF16"]))

    assert (sent.status, "must be binary (binary_data_size)" in sent.error) == (400, True)
    assert (got.status, "request it in binary" in got.error) == (400, True)


FP32 = np.array([[1, 2]], dtype=np.float32)
TEXTS = np.array([["ab", "c"]], dtype=object)


def fp32(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**entry("t", "FP32", FP32), **changes}]}


def texts(size: int) -> dict[str, Any]:
    return {"inputs": [{**entry("t", "BYTES", TEXTS), "parameters": {"binary_data_size": size}}]}


@pytest.mark.parametrize(
    ("model", "request_", "tail", "said"),
    [
        ("FP32", fp32(), octets(FP32) + b"\0", "the body has 1 bytes more than the sum of its inputs' binary_data_size"),
        ("FP32", fp32(), octets(FP32)[:-1], "input 't' has binary_data_size 8; the body has 7 bytes for it"),
        ("FP32", fp32(shape=[1, 3]), octets(FP32), "input 't' has 8 bytes; float32 of shape [1, 3] has 12"),
        ("FP32", fp32(shape=[-1, -2]), octets(FP32), "sizes are 0 or more"),
        ("FP32", fp32(parameters={"binary_data_size": -8}), octets(FP32), "binary_data_size -8; it must be a number of bytes"),
        ("FP32", fp32(parameters={"binary_data_size": True}), octets(FP32), "binary_data_size True; it must be a number"),
        ("FP32", fp32(data=[1, 2]), octets(FP32), "has data and binary_data_size; send one of them"),
        ("FP32", fp32(datatype="FP64"), octets(FP32), "input 't' has datatype FP64; the model takes FP32"),
        ("BOOL", {"inputs": [entry("t", "BOOL", VALUES["BOOL"])]}, b"\1\2", "input 't' contains the byte 2; BOOL is 0 or 1"),
        ("BYTES", texts(11), b"\2\0\0\0ab\xff\xff\xff\x7fc", "element 1 of BYTES has the length 2147483647"),
        ("BYTES", texts(8), b"\4\0\0\0abcd", "element 1 of BYTES has the length 0; 0 bytes are left"),
        ("BYTES", texts(7), b"\0" * 7, "too few for the lengths of 2 elements of BYTES"),
        ("BYTES", texts(9), b"\0" * 9, "input 't' has 1 bytes more than its 2 elements of BYTES"),
        ("BYTES", texts(9), b"\1\0\0\0\xff\0\0\0\0", "bytes that are not UTF-8, and the model takes text"),
        ("FP32", {**fp32(), "parameters": {"binary_data_output": 1}}, octets(FP32), "binary_data_output is 1; it must be true"),
        ("FP32", {"inputs": []}, b"", "inputs is empty"),
    ],
)  # fmt: skip
def test_b4_sizes_and_lengths_that_do_not_fit_are_a_400(
    site: Site, model: str, request_: dict[str, Any], tail: bytes, said: str
) -> None:
    reply = post(site, model, request_, tail)

    assert (reply.status, said in reply.error) == (400, True), reply.error


@pytest.mark.parametrize("length", ["999", "-1", "ten", "", "1.0", "9" * 30, "٣".encode().decode("latin-1")])
def test_b8_a_header_that_is_no_length_is_a_400(site: Site, length: str) -> None:
    reply = post(site, "FP32", fp32(), octets(FP32), length=length)

    assert (reply.status, reply.error.startswith(HEADER)) == (400, True), reply.error


def raw(site: Site, model: str, body: bytes) -> Reply:
    return site.request("POST", f"/v2/models/{model}/infer", body, headers={HEADER: "0"})


@pytest.mark.parametrize(
    ("model", "values"), [("FP32", FP32), ("doubling", FP32), ("INT8", np.ones((1, 5), np.int8))], ids=["any", "fixed", "int8"]
)
def test_b7_a_raw_request_is_one_row_of_the_one_input(site: Site, model: str, values: Array) -> None:
    head, tail = parted(raw(site, model, values.tobytes()))

    assert head["outputs"][0]["shape"] == list(values.shape)
    assert tail == (values * (2 if model == "doubling" else 1)).astype(values.dtype).tobytes()


def test_b7_a_raw_request_for_text_is_the_text(site: Site) -> None:
    _, tail = parted(raw(site, "text", "Zürich".encode()))

    assert tail == octets(np.array(["Zürich"], dtype=object))


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("pair", b"\0" * 16, "is for models with one input; this one takes 'a', 'b'"),
        ("square", b"\0" * 16, "cannot be derived from a request without JSON"),
        ("FP32", b"\0" * 6, "the body has 6 bytes; one row of input 't', float32 [rows, n], has a multiple of 4"),
        ("doubling", b"\0" * 16, "the body has 16 bytes; one row of input 'x', float32 [rows, 2], has 8"),
        ("FP32", b"", "the body has 0 bytes"),
        ("text", b"\xff", "not UTF-8"),
    ],
)
def test_b7_a_raw_request_that_does_not_fit_is_a_400(site: Site, model: str, body: bytes, said: str) -> None:
    reply = raw(site, model, body)

    assert (reply.status, said in reply.error) == (400, True), reply.error


# -- B9


def test_b9_numbers_are_views_of_the_body_and_copied_only_where_they_lie_crooked() -> None:
    data = memoryview(bytearray(64))

    even = BinaryTail(data).take("t", 64, [16], np.dtype(np.float32))
    odd = BinaryTail(data[1:61]).take("t", 60, [15], np.dtype(np.float32))

    assert np.shares_memory(even, np.frombuffer(data, np.uint8))
    assert even.flags.writeable
    assert odd.flags.aligned


@pytest.mark.parametrize("head_bytes", [0, 1, 63, 64, 100])
def test_b9_the_first_tensor_is_aligned_whatever_the_length_of_the_json(site: Site, head_bytes: int) -> None:
    coming = [{"type": "http.request", "body": b"j" * head_bytes + bytes(100), "more_body": False}]

    async def receive() -> Message:
        return coming.pop(0)

    scope = {"headers": [(HEADER.lower().encode(), b"%d" % head_bytes)]}
    body = site.run(read_body(scope, receive, 1000))

    assert isinstance(body, BinaryBody)
    assert (body.json, len(body.tail)) == (b"j" * head_bytes, 100)
    assert np.frombuffer(body.tail, np.uint8).ctypes.data % 16 == 0


def test_b9_ten_megabytes_are_copied_once_on_the_way_in_and_once_on_the_way_out(site: Site) -> None:
    size = 10 * 2**20
    values = np.zeros((1, size // 4), np.float32)
    text = json.dumps({"inputs": [entry("t", "FP32", values)]}).encode()
    whole = text + octets(values)
    starts = range(0, len(whole), 65536)
    coming = [
        {"type": "http.request", "body": whole[start : start + 65536], "more_body": start != starts[-1]} for start in starts
    ]

    async def receive() -> Message:
        return coming.pop(0)

    async def there_and_back() -> int:
        body = await read_body({"headers": [(HEADER.lower().encode(), b"%d" % len(text))]}, receive, 2 * size)
        assert isinstance(body, BinaryBody)
        request = decode(body.json, [TensorSpec("t", "float32", ("n",))], body.tail)
        return len(encode_binary("t", "1", "mine", request.inputs, {"t"}).body)

    tracemalloc.start()
    try:
        answer_bytes = site.run(there_and_back())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert answer_bytes > size
    assert peak < 2.1 * size  # the pieces were there before


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_b9_beside_the_model_a_request_takes_less_than_three_times_its_tensor(cache_mb: float) -> None:
    size = 10 * 2**20
    spec = TensorSpec("t", "float32", (size // 4,))
    inputs: list[int] = []

    def run(batch: Batch) -> Batch:
        inputs.append(batch["t"].nbytes)
        return {"output": batch["t"] * 2}  # one tensor, the model's own

    model = Fake(run, Signature((spec,), (TensorSpec("output", "float32", spec.shape),)))
    with Site({"wide": model}, cache_mb=cache_mb, max_batch_size=1) as site:
        model.run = run  # type: ignore[method-assign]
        model.runs.clear()
        request = {
            "inputs": [entry("t", "FP32", np.ones((1, size // 4), np.float32))],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(request).encode()
        whole = text + np.full(size // 4, 3, np.float32).tobytes()
        coming = [
            {"type": "http.request", "body": whole[start : start + 65536], "more_body": start + 65536 < len(whole)}
            for start in range(0, len(whole), 65536)
        ]
        sent: list[int] = []

        async def receive() -> Message:
            if not coming:
                await asyncio.Event().wait()
            return coming.pop(0)

        async def send(message: Any) -> None:
            if "body" in message:
                sent.append(len(message["body"]))

        async def ask() -> None:
            headers = [(HEADER.lower().encode(), b"%d" % len(text))]
            path = "/v2/models/wide/infer"
            scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
            await site.app(scope, receive, send)

        before = len(inputs)
        tracemalloc.start()
        try:
            site.run(ask())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert inputs[before:] == [size]
    assert sent[0] > size
    not_its_own = 2 if cache_mb else 1  # the model's output, and the answer that is kept
    assert peak / size - not_its_own < 3  # the body as it came, the answer's body


# -- whatever a client sends

changes = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=4)


@given(st.sampled_from(sorted(VALUES)), changes, st.none() | st.integers(-2, 200))
def test_x4_a_binary_request_with_any_bytes_changed_is_answered_without_fault(
    site: Site, datatype: str, replaced: list[tuple[int, bytes]], length: int | None
) -> None:
    values = VALUES[datatype]
    head = json.dumps({"inputs": [entry("t", datatype, values)], "parameters": {"binary_data_output": True}}).encode()
    body = bytearray(head + octets(values))
    for position, replacement in replaced:
        body[position : position + 1] = replacement
    headers = {HEADER: str(len(head) if length is None else length)}

    reply = site.request("POST", f"/v2/models/{datatype}/infer", bytes(body), headers=headers)

    assert reply.status == 200 or (400 <= reply.status < 500 and bool(reply.error)), reply.body
