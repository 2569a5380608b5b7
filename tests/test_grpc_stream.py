"""ModelStreamInfer, ModelStatistics and ModelConfig, over a real channel and on a virtual loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from nograd.server.call import Call
from nograd.server.grpc.messages import (
    SERVICE,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    filled,
)
from nograd.server.grpc.stream import in_order
from nograd.server.protocol.request import InferRequest
from tests.fakes import GATE, Gate, doubling
from tests.grpc_site import GrpcSite, raw_request, rows
from tests.test_grpc import queue_empty, queued
from tests.virtual_loop import virtual, virtual_loop

STREAM = f"/{SERVICE}/ModelStreamInfer"


@pytest.fixture(scope="module")
def site() -> Iterator[GrpcSite]:
    with GrpcSite({"doubling": doubling()}, max_batch_size=4, max_queue_rows=64) as site:
        yield site


def streamed(site: GrpcSite, *bodies: bytes, **more: Any) -> list[Any]:
    """The answers to requests that are sent one after the other."""

    async def talk() -> list[Any]:
        call = site.channel.stream_stream(STREAM)(iter(bodies), **more)
        return [ModelStreamInferResponse.FromString(each) async for each in call]

    return site.run(talk())


def body(*values: list[float], model: str = "doubling", **more: Any) -> bytes:
    done: bytes = raw_request(model, rows(*values), **more).SerializeToString()
    return done


def output(answer: Any) -> list[float]:
    (raw,) = answer.infer_response.raw_output_contents
    return list(map(float, np.frombuffer(raw, np.float32)))


def test_g9_each_request_of_a_stream_gets_its_own_answer_in_the_order_sent(site: GrpcSite) -> None:
    found = streamed(site, *(body([float(i), 1], id=f"{i}") for i in range(20)))

    assert [each.infer_response.id for each in found] == [str(i) for i in range(20)]
    assert [output(each) for each in found] == [[2.0 * i, 2] for i in range(20)]
    assert all(each.error_message == "" for each in found)
    assert all(each.infer_response.parameters["triton_final_response"].bool_param for each in found)


def test_g9_an_error_is_an_answer_with_its_request_s_id_and_http_s_sentence_and_the_stream_goes_on(site: GrpcSite) -> None:
    found = streamed(
        site, body([1, 1], id="a"), body([1, 1], id="b", model="nobody"), b"\x0a\xff", body([2, 2], id="d")
    )  # fmt: skip

    assert [each.infer_response.id for each in found] == ["a", "b", "", "d"]
    assert found[1].error_message == site.get("/v2/models/nobody").error
    assert found[2].error_message.startswith("the message is not a ModelInferRequest")
    assert not found[1].infer_response.outputs
    assert output(found[3]) == [4, 4]


def test_g9_a_stream_without_requests_ends(site: GrpcSite) -> None:
    assert streamed(site) == []


def test_g9_typed_requests_get_typed_answers(site: GrpcSite) -> None:
    request = ModelInferRequest(model_name="doubling")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])

    (answer,) = streamed(site, request.SerializeToString())

    assert list(answer.infer_response.outputs[0].contents.fp32_contents) == [2, 4]


def test_g7_a_stream_s_deadline_is_each_request_s(site: GrpcSite) -> None:
    seen = []
    model = site.service.model("doubling")
    engine = model._engine
    assert engine is not None
    run = engine.run

    def watched(call: Call, request: InferRequest, done: Any, prepared: Any = None) -> Any:
        seen.append(request.timeout_s)
        return run(call, request, done, prepared)

    engine.run = watched  # type: ignore[method-assign]
    try:
        streamed(site, body([1, 1]), timeout=500.0)
    finally:
        del engine.run

    (timeout_s,) = seen
    assert timeout_s is not None
    assert 0 < timeout_s < 510  # on the wire it is rounded up


def test_g7_requests_of_a_stream_that_is_cancelled_leave_the_queue() -> None:
    gate = Gate()
    model = gate.model()
    with GrpcSite({"gated": model}, max_batch_size=1) as site:

        async def story() -> None:
            running = asyncio.ensure_future(site.call(raw_request("gated", rows([GATE, 0]))))
            await gate.wait_entered()
            call = site.channel.stream_stream(STREAM)(iter([body([7, i], model="gated") for i in range(3)]))
            reading = asyncio.ensure_future(call.read())
            await queued(site, "gated", 3)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await queue_empty(site, "gated")
            gate.opened.set()
            await running

        site.run(story())

    assert not any((run["x"] == 7).any() for run in model.runs)


# -- order, and how many at once: on the virtual loop


async def sent(*values: bytes) -> AsyncIterator[bytes]:
    for value in values:
        yield value


@virtual
async def test_requests_run_side_by_side_and_their_answers_keep_the_order() -> None:
    async def answer(request: bytes) -> bytes:
        await asyncio.sleep(int(request))
        return request

    found = [(virtual_loop().time(), each) async for each in in_order(sent(b"3", b"1", b"2"), answer)]

    assert found == [(3.0, b"3"), (3.0, b"1"), (3.0, b"2")]


@virtual
async def test_no_more_requests_are_taken_than_may_run_at_once() -> None:
    running = most = 0

    async def answer(request: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return request

    found = [each async for each in in_order(sent(*[b"%d" % i for i in range(10)]), answer, most=3)]

    assert found == [b"%d" % i for i in range(10)]
    assert most == 3


@virtual
async def test_who_stops_listening_leaves_nothing_that_runs() -> None:
    left = []

    async def answer(request: bytes) -> bytes:
        try:
            await asyncio.sleep(int(request))
        except asyncio.CancelledError:
            left.append(request)
            raise
        return request

    answers = in_order(sent(b"1", b"50", b"60"), answer)
    assert await anext(answers) == b"1"
    await answers.aclose()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert sorted(left) == [b"50", b"60"]


@virtual
async def test_what_ends_the_requests_ends_the_answers_behind_those_that_came() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionError("gone")

    async def answer(request: bytes) -> bytes:
        return request

    answers = in_order(broken(), answer)

    assert await anext(answers) == b"first"
    with pytest.raises(ConnectionError, match="gone"):
        await anext(answers)


# -- statistics, configuration


def called(site: GrpcSite, method: str, request: Any, kind: Any) -> Any:
    return kind.FromString(site.run(site.bytes_call(request.SerializeToString(), f"/{SERVICE}/{method}")))


def test_g9_statistics_are_http_s(site: GrpcSite) -> None:
    site.infer("doubling", {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]})

    one = called(site, "ModelStatistics", ModelStatisticsRequest(name="doubling", version="1"), ModelStatisticsResponse)
    every = called(site, "ModelStatistics", ModelStatisticsRequest(), ModelStatisticsResponse)

    told = site.get("/v2/models/stats").json
    for each in told["model_stats"]:
        each["last_inference"] = one.model_stats[0].last_inference  # worked out anew, and rounded
    assert one == every == filled(ModelStatisticsResponse, told)
    assert one.model_stats[0].inference_stats.success.count > 0


def test_g9_the_configuration_is_http_s(site: GrpcSite) -> None:
    found = called(site, "ModelConfig", ModelConfigRequest(name="doubling"), ModelConfigResponse).config

    assert (found.name, found.max_batch_size, found.backend) == ("doubling", 4, "fake")
    assert found.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert filled(ModelConfigResponse, {"config": site.get("/v2/models/doubling/config").json}).config == found


@pytest.mark.parametrize(
    ("method", "request_", "path"),
    [
        ("ModelStatistics", ModelStatisticsRequest(name="nobody"), "/v2/models/nobody/stats"),
        ("ModelConfig", ModelConfigRequest(name="doubling", version="7"), "/v2/models/doubling/versions/7/config"),
        ("ModelReady", ModelReadyRequest(name="nobody"), "/v2/models/nobody/ready"),
        ("ModelReady", ModelReadyRequest(name="doubling", version="7"), "/v2/models/doubling/versions/7/ready"),
    ],
)
def test_g6_what_there_is_not_has_http_s_sentence(site: GrpcSite, method: str, request_: Any, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        site.run(site.bytes_call(request_.SerializeToString(), f"/{SERVICE}/{method}"))

    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == site.get(path).error


def test_g1_readiness_is_http_s(site: GrpcSite) -> None:
    found = called(site, "ModelReady", ModelReadyRequest(name="doubling"), ModelReadyResponse)

    assert found.ready is site.get("/v2/models/doubling/ready").json["ready"] is True


@pytest.mark.parametrize(("given", "code"), [(1, None), (9, "INVALID_ARGUMENT"), (-1, "INVALID_ARGUMENT")])
def test_priorities_are_http_s(site: GrpcSite, given: int, code: str | None) -> None:
    request = raw_request("doubling", rows([1, 2]))
    request.parameters["priority"].int64_param = given
    if code is None:
        assert site.run(site.call(request)).raw_output_contents
        return

    refusal = site.refusal(request)

    told = site.infer("doubling", {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]},
                      parameters={"priority": given})  # fmt: skip
    assert refusal == (code, told.error)
