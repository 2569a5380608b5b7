"""The gRPC front, called over a real channel. Letters and numbers as in the protocol's acceptance checklist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nograd import Signature, TensorSpec
from nograd.core.tensors import Array, Batch
from nograd.errors import DeadlineError, ModelError, OverloadedError, TooLargeError, UnavailableError, UnsupportedError
from nograd.server.grpc.health import HEALTH
from nograd.server.grpc.messages import SERVICE, ModelInferRequest, ModelMetadataRequest, ModelMetadataResponse
from nograd.server.grpc.tensors import CONTENTS, message, read
from nograd.server.protocol.binary import packed
from tests.fakes import DATATYPES, GATE, OUTPUT, Fake, Gate, X, doubling
from tests.grpc_site import METHOD, GrpcSite, raw_request, rows

BROKEN = 13.0
"""A row that holds this value makes the `fragile` model raise."""


def fragile() -> Fake:
    def run(batch: Batch) -> Batch:
        if (batch["x"] == BROKEN).any():
            raise ValueError("thirteen")
        return {"output": batch["x"] * 2}

    return Fake(run, Signature((X,), (OUTPUT,)))


def copying(spec: TensorSpec) -> Fake:
    return Fake(lambda batch: {"t": batch["t"].copy()}, Signature((spec,), (spec,)))


@pytest.fixture(scope="module")
def site() -> Iterator[GrpcSite]:
    echoes = {name: copying(TensorSpec("t", dtype, (3,))) for name, dtype in {**DATATYPES, "BF16": "bfloat16"}.items()}
    specs = (TensorSpec("a", "float32"), TensorSpec("b", "int64"))
    two = Fake(lambda batch: {"b": batch["b"], "a": batch["a"]}, Signature(specs, specs))
    models = {"doubling": doubling(), "fragile": fragile(), "two": two, **echoes}
    with GrpcSite(models, max_batch_size=4, max_queue_rows=64, max_body_bytes=2**23) as site:
        yield site


def typed(datatype: str, array: Array, **more: Any) -> Any:
    """A request of an echo with the tensor in `contents`."""
    request = ModelInferRequest(model_name=datatype, **more)
    told = request.inputs.add(name="t", datatype=datatype, shape=array.shape)
    values = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    getattr(told.contents, CONTENTS[datatype]).extend(values)
    return request


# -- G1: the six methods (metadata and health: tests/test_grpc_clients.py)


def test_g1_metadata_is_http_s(site: GrpcSite) -> None:
    request = ModelMetadataRequest(name="doubling", version="1")

    answer = ModelMetadataResponse.FromString(
        site.run(site.bytes_call(request.SerializeToString(), f"/{SERVICE}/ModelMetadata"))
    )

    told = site.get("/v2/models/doubling").json
    assert (answer.name, list(answer.versions), answer.platform) == (told["name"], told["versions"], told["platform"])
    for ours, theirs in ((answer.inputs, told["inputs"]), (answer.outputs, told["outputs"])):
        assert [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in ours] == theirs


@pytest.mark.parametrize("method", ["RepositoryIndex", "SystemSharedMemoryStatus", "Nothing"])
def test_g9_what_there_is_not_is_unimplemented(site: GrpcSite, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        site.run(site.bytes_call(b"", f"/{SERVICE}/{method}"))

    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


# -- G2 to G5, G10: tensors


texts = st.text(st.characters(codec="utf-8"), max_size=5)


@st.composite
def tensors(draw: Any) -> tuple[str, Array]:
    """A datatype, and rows of it."""
    name = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(st.tuples(st.integers(1, 5), st.just(3)))
    if name == "BYTES":
        array = np.empty(shape, dtype=object)
        for place in np.ndindex(*shape):
            array[place] = draw(texts)
        return name, array
    elements = {"allow_nan": False, "allow_infinity": False} if name.startswith("FP") else None
    return name, draw(hnp.arrays(np.dtype(DATATYPES[name]), shape, elements=elements))


@given(tensors())
def test_g10_json_binary_raw_and_typed_give_the_same_bits(site: GrpcSite, tensor: tuple[str, Array]) -> None:
    name, array = tensor
    octets = bytes(packed("t", array))
    told = {"name": "t", "datatype": name, "shape": list(array.shape)}
    head = json.dumps(
        {"inputs": [{**told, "parameters": {"binary_data_size": len(octets)}}], "parameters": {"binary_data_output": True}}
    ).encode()

    binary = site.request(
        "POST", f"/v2/models/{name}/infer", head + octets, headers={"inference-header-content-length": str(len(head))}
    )
    raw = site.run(site.call(raw_request(name, {"t": array})))

    assert binary.body[int(binary.headers["inference-header-content-length"]) :] == octets
    assert list(raw.raw_output_contents) == [octets]
    assert not raw.outputs[0].HasField("contents")
    data = site.infer(name, {**told, "data": array.ravel().tolist()}).data("t")
    values = np.array(data, dtype=array.dtype) if array.dtype.kind != "O" else np.array([*data, None], dtype=object)[:-1]
    assert bytes(packed("t", values)) == octets
    if name in CONTENTS:
        answer = site.run(site.call(typed(name, array)))
        contents = list(getattr(answer.outputs[0].contents, CONTENTS[name]))
        assert not answer.raw_output_contents
        kept = [value.decode() for value in contents] if name == "BYTES" else contents
        assert bytes(packed("t", np.array(kept, dtype=array.dtype))) == octets


@pytest.mark.parametrize("make", ["typed", "raw"])
@pytest.mark.parametrize(("wanted", "is_raw"), [(None, None), (True, True), (False, False)])
def test_g4_a_parameter_says_whether_outputs_are_raw(
    site: GrpcSite, make: str, wanted: bool | None, is_raw: bool | None
) -> None:
    array = np.array([[1.5, -2.0, 0.25]], np.float32)
    request = typed("FP32", array) if make == "typed" else raw_request("FP32", {"t": array})
    if wanted is not None:
        request.parameters["binary_data_output"].bool_param = wanted

    answer = site.run(site.call(request))

    if make == "raw" if is_raw is None else is_raw:
        assert list(answer.raw_output_contents) == [array.tobytes()]
    else:
        assert list(answer.outputs[0].contents.fp32_contents) == [1.5, -2.0, 0.25]
        assert not answer.raw_output_contents


def test_g4_a_parameter_that_is_no_flag_is_refused(site: GrpcSite) -> None:
    request = typed("FP32", np.zeros((1, 3), np.float32))
    request.parameters["binary_data_output"].string_param = "yes"
    assert site.refusal(request) == ("INVALID_ARGUMENT", "parameters.binary_data_output is 'yes'; it is true or false")


@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", "float32"), ("INT8", "int8"), ("UINT64", "uint64"), ("BOOL", "bool")])
def test_g2_long_contents_are_converted_in_slices(datatype: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.server.grpc.tensors.SLICE", 1000)
    whole = np.random.default_rng(0).integers(0, 2**63 if dtype == "uint64" else 100, (3, 1501), np.uint64)
    array = (whole * 2 + 1 if dtype == "uint64" else whole).astype(dtype)
    given = read(typed(datatype, array), [TensorSpec("t", dtype, ("n",))], None)
    assert np.array_equal(given.inputs["t"], array)
    assert given.inputs["t"].dtype == dtype
    answer = message(given, "m", "1", "7", {"t": array})
    assert np.array_equal(np.array(getattr(answer.outputs[0].contents, CONTENTS[datatype]), dtype), array.ravel())


@pytest.mark.parametrize("name", ["FP16", "BF16"])
def test_g2_halves_go_raw_and_come_raw(site: GrpcSite, name: str) -> None:
    import ml_dtypes

    array = np.array([[1.5, np.nan, -np.inf]], np.float16 if name == "FP16" else ml_dtypes.bfloat16)

    answer = site.run(site.call(raw_request(name, {"t": array})))

    assert list(answer.raw_output_contents) == [array.tobytes()]
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (name, [1, 3])
    request = ModelInferRequest(model_name=name)
    request.inputs.add(name="t", datatype=name, shape=[1, 1]).contents.fp32_contents.append(1)
    assert site.refusal(request) == ("INVALID_ARGUMENT", f"input 't' is {name}, which must be in raw_input_contents")


@pytest.mark.parametrize("name", ["FP32", "FP64"])
def test_numbers_that_json_cannot_carry(site: GrpcSite, name: str) -> None:
    array = np.array([[np.nan, np.inf, -np.inf]], DATATYPES[name])

    answer = site.run(site.call(typed(name, array)))

    np.testing.assert_array_equal(getattr(answer.outputs[0].contents, CONTENTS[name]), array[0])


def test_g5_id_is_echoed_or_made_and_outputs_come_as_asked(site: GrpcSite) -> None:
    arrays: dict[str, Array] = {"a": np.ones(2, np.float32), "b": np.arange(2)}
    both, one = raw_request("two", arrays, id="mine"), raw_request("two", arrays, model_version="1")
    one.outputs.add(name="a")

    answer, chosen = site.run(site.call(both)), site.run(site.call(one))

    assert (answer.id, answer.model_name, answer.model_version) == ("mine", "two", "1")
    assert {output.name for output in answer.outputs} == {"a", "b"}
    assert chosen.id
    assert [output.name for output in chosen.outputs] == ["a"]
    assert list(chosen.raw_output_contents) == [arrays["a"].tobytes()]


def test_a_raw_tensor_may_fail_to_lie_at_a_multiple_of_its_size(site: GrpcSite) -> None:
    for size in range(9):
        request = raw_request("FP64", {"t": np.array([[1.25, 2.5, 5]])}, id="x" * size)
        assert list(site.run(site.call(request)).raw_output_contents) == [np.array([1.25, 2.5, 5]).tobytes()]


# -- G3, G6: refusals


def changed(change: Callable[[Any], object]) -> Any:
    request = raw_request("doubling", rows([1, 2]))
    change(request)
    return request


def typed_doubling(field: str, values: list[Any], *, kind: str = "FP32", shape: tuple[int, ...] = (1, 2)) -> Any:
    request = ModelInferRequest(model_name="doubling")
    getattr(request.inputs.add(name="x", datatype=kind, shape=shape).contents, field).extend(values)
    return request


def small_ints(*values: int) -> Any:
    request = ModelInferRequest(model_name="INT8")
    request.inputs.add(name="t", datatype="INT8", shape=[1, len(values)]).contents.int_contents.extend(values)
    return request


def timed(**value: Any) -> Any:
    request = raw_request("doubling", rows([1, 2]))
    choice = request.parameters["timeout"]
    for field, content in value.items():
        setattr(choice, field, content)
    return request


BAD = "INVALID_ARGUMENT"

REFUSALS = {
    "model": (
        changed(lambda r: setattr(r, "model_name", "other")),
        "NOT_FOUND",
        "there is no model 'other'; served here: 'doubling'",
    ),
    "version": (changed(lambda r: setattr(r, "model_version", "9")), "NOT_FOUND", "model 'doubling' has no version '9'"),
    "no inputs": (ModelInferRequest(model_name="doubling"), BAD, "inputs is empty; the model takes 'x'"),
    "more raw": (changed(lambda r: r.raw_input_contents.append(b"")), BAD, "raw_input_contents has 2 entries for 1 inputs"),
    "raw and typed": (
        changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)),
        BAD,
        "input 'x' has contents, and there are raw_input_contents",
    ),
    "bytes": (changed(lambda r: r.inputs[0].shape.append(2)), BAD, "input 'x' has 8 bytes; float32 of shape [1, 2, 2] has 16"),
    "negative": (changed(lambda r: r.inputs[0].shape.append(-1)), BAD, "input 'x' has shape [1, 2, -1]; sizes are 0 or more"),
    "twice": (
        changed(lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.append(r.raw_input_contents[0]))),
        BAD,
        "input 'x' is given twice",
    ),
    "name": (changed(lambda r: setattr(r.inputs[0], "name", "y")), BAD, "unknown input 'y'; the model takes 'x'"),
    "kind": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "FP64")),
        BAD,
        "input 'x' has datatype FP64; the model takes FP32",
    ),
    "no kind": (
        changed(lambda r: setattr(r.inputs[0], "datatype", "F")),
        BAD,
        "input 'x' has datatype 'F'; datatypes are BOOL",
    ),
    "output": (changed(lambda r: r.outputs.add(name="y")), BAD, "unknown output 'y'; the model returns 'output'"),
    "row": (raw_request("doubling", rows([1, 2, 3])), BAD, "input 'x' is float32 [1, 3]; the model takes float32 [rows, 2]"),
    "few": (typed_doubling("fp32_contents", [1]), BAD, "input 'x' has shape [1, 2], so 2 elements; its contents have 1"),
    "field": (typed_doubling("int_contents", [1, 2]), BAD, "input 'x' has int_contents; FP32 must be in fp32_contents"),
    "range": (small_ints(1, 300, 2), BAD, "input 't' contains 300; INT8 goes from -128 to 127"),
    "timeout": (timed(string_param="soon"), BAD, "parameters.timeout is 'soon'; it must be a whole number of microseconds"),
    "raised": (raw_request("fragile", rows([BROKEN, 2])), "INTERNAL", "thirteen"),
    "large": (raw_request("FP32", {"t": np.zeros((1, 2**21), np.float32)}), "RESOURCE_EXHAUSTED", "larger than max"),
}


def test_a_parameter_without_a_value_is_not_set(site: GrpcSite) -> None:
    assert site.run(site.call(timed())).outputs[0].name == "output"


@pytest.mark.parametrize("case", list(REFUSALS))
def test_g6_refusals_have_their_code_and_sentence(site: GrpcSite, case: str) -> None:
    request, code, said = REFUSALS[case]

    told = site.refusal(request)

    assert told[0] == code
    assert said in told[1]
    assert "Traceback" not in told[1]


def test_g6_the_sentence_is_http_s(site: GrpcSite) -> None:
    bad = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}

    assert site.refusal(raw_request("doubling", rows([1, 2, 3])))[1] == site.infer("doubling", bad).error
    assert site.refusal(raw_request("other", rows([1, 2])))[1] == site.infer("other", bad).error
    bad = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [BROKEN, 2]}
    assert site.refusal(raw_request("fragile", rows([BROKEN, 2])))[1] == site.infer("fragile", bad).error


def test_a_long_sentence_arrives_cut(site: GrpcSite) -> None:
    code, said = site.refusal(raw_request("é" * 5000, rows([1, 2])))

    assert code == "NOT_FOUND"
    assert said.startswith("there is no model 'éé")
    assert len(said.encode()) <= 1200


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OverloadedError("full"), "UNAVAILABLE"),
        (UnavailableError("draining"), "UNAVAILABLE"),
        (DeadlineError("late"), "DEADLINE_EXCEEDED"),
        (UnsupportedError("not here"), "UNIMPLEMENTED"),
        (TooLargeError("too many rows"), "RESOURCE_EXHAUSTED"),
        (ModelError("it raised"), "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_g6_every_kind_of_error_has_its_code(
    site: GrpcSite, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    async def refuse(*_: Any, **_more: Any) -> bytes:
        raise error

    monkeypatch.setattr(site.service.model("doubling"), "infer_as", refuse)

    assert site.refusal(raw_request("doubling", rows([1, 2]))) == (code, str(error))


VALID = [
    typed_doubling("fp32_contents", [1, 2]),
    raw_request("doubling", rows([1, 2], [3, 4]), id="mine"),
    raw_request("BYTES", {"t": np.array([["a", "bc", ""]], dtype=object)}),
    timed(int64_param=5_000_000),
]


@given(
    st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.integers(0, 10**6)
)
def test_x4_changed_bytes_are_answered_or_the_caller_s_fault(
    site: GrpcSite, request_: Any, changes: list[tuple[int, int]], end: int
) -> None:
    body = bytearray(request_.SerializeToString())
    for place, octet in changes:
        body[place % len(body)] = octet
    kept = bytes(body[: len(body) - end % len(body)] if end % 3 == 0 else body)

    try:
        site.run(site.bytes_call(kept))
    except grpc.aio.AioRpcError as error:
        # a changed timeout may be too short
        assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED", "UNAVAILABLE"), error.details()  # noqa: PT017


# -- G6, G7: time


def test_g7_a_call_whose_deadline_passes_is_not_run() -> None:
    gate = Gate()
    model = gate.model()
    with GrpcSite({"gated": model}, max_batch_size=1) as site:

        async def story() -> None:
            running = asyncio.ensure_future(site.call(raw_request("gated", rows([GATE, 0]))))
            await gate.wait_entered()
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await site.call(raw_request("gated", rows([7, 7])), timeout=0.05)
            assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await queue_empty(site, "gated")
            gate.opened.set()
            await running
            await site.call(raw_request("gated", rows([8, 8])))

        site.run(story())

    assert not any((run["x"] == 7).any() for run in model.runs)
    assert any((run["x"] == 8).any() for run in model.runs)


def test_g7_a_timeout_among_the_parameters_goes_before_a_longer_deadline() -> None:
    gate = Gate()
    model = gate.model()
    request = raw_request("gated", rows([7, 7]))
    request.parameters["timeout"].int64_param = 50_000
    with GrpcSite({"gated": model}, max_batch_size=1) as site:

        async def story() -> str:
            running = asyncio.ensure_future(site.call(raw_request("gated", rows([GATE, 0]))))
            await gate.wait_entered()
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await site.call(request, timeout=60)
            gate.opened.set()
            await running
            return str(raised.value.code().name)

        assert site.run(story()) == "DEADLINE_EXCEEDED"

    assert not any((run["x"] == 7).any() for run in model.runs)


def test_g7_a_cancelled_call_leaves_the_queue() -> None:
    gate = Gate()
    model = gate.model()
    with GrpcSite({"gated": model}, max_batch_size=1) as site:

        async def story() -> None:
            running = asyncio.ensure_future(site.call(raw_request("gated", rows([GATE, 0]))))
            await gate.wait_entered()
            waiting = site.channel.unary_unary(METHOD)(raw_request("gated", rows([7, 7])).SerializeToString())
            asking = asyncio.ensure_future(waiting_code(waiting))
            await queued(site, "gated", 1)
            waiting.cancel()
            assert await asking == "CANCELLED"
            await queue_empty(site, "gated")
            gate.opened.set()
            await running

        site.run(story())

    assert not any((run["x"] == 7).any() for run in model.runs)


async def waiting_code(call: Any) -> str:
    return str((await call.code()).name)


async def queued(site: GrpcSite, model: str, count: int) -> None:
    """Return once so many rows wait."""
    while site.service.model(model).snapshot()["queue_rows"] != count:  # noqa: ASYNC110  no event tells of it
        await asyncio.sleep(0)


async def queue_empty(site: GrpcSite, model: str) -> None:
    await queued(site, model, 0)


def test_g6_a_full_queue_is_unavailable_at_once_and_drained_calls_are_answered() -> None:
    gate = Gate()
    with GrpcSite({"gated": gate.model()}, max_batch_size=1, max_queue_rows=1) as site:

        async def story() -> None:
            running = asyncio.ensure_future(site.call(raw_request("gated", rows([GATE, 1]))))
            await gate.wait_entered()
            waiting = asyncio.ensure_future(site.call(raw_request("gated", rows([2, 2]))))
            await queued(site, "gated", 1)
            with pytest.raises(grpc.aio.AioRpcError) as full:
                await site.call(raw_request("gated", rows([3, 3])))
            assert full.value.code() == grpc.StatusCode.UNAVAILABLE

            watching = watch(site)
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.ensure_future(site.service.stop())
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await health(site) == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await site.call(raw_request("gated", rows([4, 4])))
            assert late.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "is not ready" in late.value.details()
            gate.opened.set()
            for call, value in ((running, GATE), (waiting, 2)):
                assert np.frombuffer((await call).raw_output_contents[0], np.float32)[0] == 2 * value
            await stopping
            await site.front.stop(30)
            assert await watching.read() == grpc.aio.EOF

        site.run(story())


# -- G8: health


def watch(site: GrpcSite, service: str = "") -> Any:
    method = site.channel.unary_stream(
        f"/{HEALTH}/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return method(health_pb2.HealthCheckRequest(service=service))


async def health(site: GrpcSite, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return health_pb2.HealthCheckResponse.FromString(await site.bytes_call(request, f"/{HEALTH}/Check")).status


def test_g8_health_of_the_server_and_of_what_is_not_there(site: GrpcSite) -> None:
    async def story() -> None:
        assert await health(site) == await health(site, SERVICE) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health(site, "other")
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        watching = watch(site, "other")
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()

    site.run(story())
