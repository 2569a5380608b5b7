"""Published clients of gRPC, against real servers: tritonclient (threads and asyncio), health checking, reflection."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nograd import Predictor, __version__
from nograd.errors import PortInUseError
from nograd.server.grpc.messages import SERVICE
from nograd.server.models.service import InferenceService
from nograd.server.run import bind
from nograd.server.run import serve as serve_here
from nograd.server.settings.definition import ServeConfig
from tests.fakes import doubling
from tests.running_server import FOLDER, RunningServer, serving
from tests.served_models import GATE
from tests.test_serve import gated_server
from tests.waiting import HANG_S

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; run: pip install 'nograd[dev]'")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")
utils = pytest.importorskip("tritonclient.utils")

WAIT_S = 30.0
ROWS = np.arange(48, dtype=np.float32).reshape(3, 16)


def address(server: RunningServer) -> str:
    """Where the server says that it serves gRPC."""
    found = re.search(r"^  gRPC      (\S+)$", server.greeting, re.MULTILINE)
    assert found, server.greeting
    return found[1]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("tiny", "--name", "tiny", "--grpc-port", "0", "--max-body-size", "20MB") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with triton.InferenceServerClient(address(server)) as client:
        yield client


@pytest.fixture(scope="module")
def text_client() -> Iterator[Any]:
    with (
        serving("letters", "--name", "echo", "--grpc-port", "0") as server,
        triton.InferenceServerClient(address(server)) as client,
    ):
        yield client


def given(name: str, array: Any, kind: Any = triton) -> Any:
    found = kind.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array)
    return found


def test_g1_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    with pytest.raises(utils.InferenceServerException, match="there is no model 'other'"):
        client.is_model_ready("other")
    assert client.get_server_metadata(as_json=True) == {
        "name": "nograd",
        "version": __version__,
        "extensions": ["binary_tensor_data", "statistics", "model_configuration", "schedule_policy"],
    }
    assert client.get_model_metadata("tiny", "1", as_json=True) == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "pytorch_eager",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "16"]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": ["-1", "4"]}],
    }


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
def test_infer_is_http_s_answer_bit_for_bit(client: Any, server: RunningServer, algorithm: str | None) -> None:
    outputs = [triton.InferRequestedOutput("output")]

    result = client.infer(
        "tiny",
        [given("x", ROWS)],
        outputs=outputs,
        request_id="mine",
        model_version="1",
        priority=1,
        timeout=5_000_000,
        client_timeout=WAIT_S,
        sequence_id=7,
        parameters={"mine": "x"},
        compression_algorithm=algorithm,
    )

    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 16], "data": ROWS.ravel().tolist()}]}
    told = httpx.post(f"{server.url}/v2/models/tiny/infer", json=body).json()["outputs"][0]
    assert result.as_numpy("output").tobytes() == np.array(told["data"], np.float32).tobytes()
    assert result.as_numpy("output").shape == tuple(told["shape"])
    assert (result.get_response().id, result.get_response().model_name) == ("mine", "tiny")


def test_g8_more_than_grpc_s_own_four_mebibytes_and_not_more_than_the_limit(client: Any) -> None:
    assert client.infer("tiny", [given("x", np.ones((100_000, 16), np.float32))]).as_numpy("output").shape == (100_000, 4)

    with pytest.raises(utils.InferenceServerException) as raised:
        client.infer("tiny", [given("x", np.ones((400_000, 16), np.float32))])
    assert raised.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert "larger than max (25600028 vs. 20000000)" in raised.value.message()


@pytest.mark.parametrize("shape", [(2,), (2, 1)], ids=str)
def test_text(text_client: Any, shape: tuple[int, ...]) -> None:
    texts = np.array(["hello", "Zürich"], dtype=object).reshape(shape)

    assert text_client.infer("echo", [given("text", texts)]).as_numpy("embedding").shape == (2, 8)


def test_calls_at_once_from_threads_and_from_asyncio_get_their_own_answers(client: Any, server: RunningServer) -> None:
    whole = client.infer("tiny", [given("x", ROWS)]).as_numpy("output")

    def from_thread(index: int) -> Any:
        return client.infer("tiny", [given("x", ROWS[index % 3 :][:1])]).as_numpy("output")[0]

    async def from_asyncio() -> list[Any]:
        async with triton_aio.InferenceServerClient(address(server)) as other:
            calls = [other.infer("tiny", [given("x", ROWS[i % 3 :][:1], triton_aio)]) for i in range(64)]
            return [result.as_numpy("output")[0] for result in await asyncio.gather(*calls)]

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(from_thread, range(64)), *asyncio.run(from_asyncio())]

    np.testing.assert_allclose(found, [whole[i % 64 % 3] for i in range(128)], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "array", "code", "said"),
    [
        ("other", ROWS, "NOT_FOUND", "there is no model 'other'; served here: 'tiny'"),
        ("tiny", ROWS.astype(np.float64), "INVALID_ARGUMENT", "input 'x' has datatype FP64; the model takes FP32"),
        ("tiny", ROWS[:, :15], "INVALID_ARGUMENT", "input 'x' is float32 [3, 15]; the model takes float32 [rows, 16]"),
    ],
)
def test_errors_come_with_their_code_and_sentence(client: Any, model: str, array: Any, code: str, said: str) -> None:
    with pytest.raises(utils.InferenceServerException) as raised:
        client.infer(model, [given("x", array)])

    assert raised.value.status() == f"StatusCode.{code}"
    assert said in raised.value.message()


def test_g8_health_and_reflection(server: RunningServer) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            told = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=WAIT_S)
            assert told.status == health_pb2.HealthCheckResponse.SERVING
        kind = reflection_pb2.ServerReflectionRequest
        questions = [
            kind(list_services=""),
            kind(file_containing_symbol=SERVICE),
            kind(file_containing_symbol="grpc.health.v1.Health"),
        ]
        listed, ours, theirs = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter(questions), timeout=WAIT_S
        )

    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    for answer, service in ((ours, "GRPCInferenceService"), (theirs, "Health")):
        (octets,) = answer.file_descriptor_response.file_descriptor_proto
        assert [each.name for each in descriptor_pb2.FileDescriptorProto.FromString(octets).service] == [service]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_x1_a_stop_answers_what_was_accepted_and_says_so_to_probes(number: signal.Signals) -> None:
    with (
        gated_server("--max-batch-size", "1", "--grpc-port", "0") as (server, gate),
        triton.InferenceServerClient(address(server)) as client,
        grpc.insecure_channel(address(server)) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        row = np.array([[GATE, 1]], np.float32)
        running = pool.submit(client.infer, "gated", [given("x", row)])
        with gate.accept():
            server.process.send_signal(number)
            assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not client.is_server_ready()
            assert client.is_server_live()
            assert not client.is_model_ready("gated")
            with pytest.raises(utils.InferenceServerException, match="is not ready") as raised:
                client.infer("gated", [given("x", row + 1)])
            assert raised.value.status() == "StatusCode.UNAVAILABLE"
        np.testing.assert_array_equal(running.result(WAIT_S).as_numpy("output"), row * 2)
        assert list(watching) == []
        assert (server.process.wait(WAIT_S), server.rest(), server.complaints()) == (0, "stopped\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_signal_ends_the_server_while_a_call_runs(number: signal.Signals) -> None:
    with (
        gated_server("--grpc-port", "0") as (server, gate),
        triton.InferenceServerClient(address(server)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(client.infer, "gated", [given("x", np.array([[GATE, 1]], np.float32))])
        with gate.accept():
            server.process.send_signal(number)
            while client.is_server_ready():
                pass
            server.process.send_signal(number)
            assert (server.process.wait(WAIT_S), server.complaints()) == (0, "")
        with pytest.raises(utils.InferenceServerException) as raised:
            running.result(WAIT_S)
        assert raised.value.status() == "StatusCode.UNAVAILABLE"


def test_a_port_that_is_taken_meanwhile_ends_the_server(server: RunningServer) -> None:
    model = doubling()
    service = InferenceService(ServeConfig(grpc_port=int(address(server).rpartition(":")[2])))
    served = service.add("doubling", Predictor(model))

    with pytest.raises(PortInUseError, match="choose another with --grpc-port"):
        serve_here(service, bind("127.0.0.1", 0), lambda _: None)

    assert model.runs
    assert not served.ready


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(server: RunningServer) -> None:
    port = address(server).rpartition(":")[2]

    done = serve("served_models:raising", "--port", "0", "--grpc-port", port)

    assert done.returncode == 2
    assert done.stderr == (
        f"nograd: port {port} on 127.0.0.1 is in use by another program; choose another with --grpc-port, or 0 for a free one\n"
    )


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Any) -> None:
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')")

    done = serve("served_models:raising", "--port", "0", "--grpc-port", "0", path=str(tmp_path))

    assert done.returncode == 2
    assert done.stderr == (
        "nograd: gRPC (grpcio, grpcio-health-checking, grpcio-reflection) is not installed; run: pip install 'nograd[grpc]'\n"
    )


def serve(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run `nograd serve` until it ends by itself; `path` goes before all others."""
    program = f"import sys; sys.path.insert(0, {path!r}) if {path!r} else None; from nograd.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=HANG_S, check=False)


def test_g9_models_are_listed_unloaded_and_loaded(client: Any) -> None:
    with (
        serving("dense", "--name", "tiny", "--grpc-port", "0", "--repository") as server,
        triton.InferenceServerClient(address(server)) as changing,
    ):
        for what in ("load_model", "unload_model", "load_model"):
            getattr(changing, what)("tiny")
            found = changing.get_model_repository_index(as_json=True)["models"]
            assert [each["state"] for each in found] == ["UNAVAILABLE" if what == "unload_model" else "READY"]
            assert changing.is_server_ready()
        assert changing.infer("tiny", [given("x", ROWS)]).as_numpy("output").shape == (3, 4)
        with pytest.raises(utils.InferenceServerException, match="INVALID_ARGUMENT"):
            changing.load_model("tiny", config="{}")
    with pytest.raises(utils.InferenceServerException, match="UNIMPLEMENTED"):
        client.load_model("tiny")
