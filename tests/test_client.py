"""nograd.Client and nograd.AsyncClient against real servers, and against one that answers from a script."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from nograd import AsyncClient, Client, TensorSpec
from nograd.client.calls import Failure
from nograd.client.wire import DTYPES, Message, Response, error_of, infer_message, read_outputs
from nograd.errors import (
    ConfigError,
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    SignatureError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from nograd.server.protocol.decoding import decode
from tests.running_server import RunningServer

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_arrays_tensors_and_lists_get_the_same_outputs(tiny_server: RunningServer, *, binary: bool) -> None:
    with Client(tiny_server.url, binary=binary) as client:
        found = client.infer("tiny", {"x": X})

        assert list(found) == ["output"]
        assert (found["output"].shape, found["output"].dtype.name) == ((2, 4), "float32")
        for inputs in ({"x": torch.from_numpy(X)}, X.tolist(), list(X), X, {"x": X.tolist()}):
            np.testing.assert_array_equal(client.infer("tiny", inputs)["output"], found["output"])
        np.testing.assert_array_equal(
            client.infer("tiny", {"x": X}, version="1", outputs=["output"])["output"], found["output"]
        )
    found["output"][:] = 0  # writable


def test_texts_and_their_vectors(text_server: RunningServer) -> None:
    with Client(text_server.url) as client:
        rows = client.infer("echo", ["one", "two words"])["embedding"]

        assert rows.shape == (2, 8)
        np.testing.assert_allclose(client.embeddings("echo", ["one", "two words"]), rows, rtol=1e-6)
        np.testing.assert_allclose(client.embeddings("echo", "one"), rows[0], rtol=1e-6)
        with pytest.raises(SignatureError, match="texts is empty"):
            client.embeddings("echo", [])


def test_async_calls_run_at_once_and_answer_the_same(tiny_server: RunningServer, text_server: RunningServer) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(tiny_server.url) as client, AsyncClient(text_server.url, binary=False) as texts:
            await client.wait_until_ready("tiny")
            assert await client.is_live()
            assert await client.is_ready()
            assert (await client.metadata("tiny"))["name"] == "tiny"
            answers = await asyncio.gather(*(client.infer("tiny", {"x": X[index : index + 1]}) for index in (0, 1)))
            return [*(answer["output"][0] for answer in answers), await texts.embeddings("echo", "one")]

    first, second, vector = asyncio.run(run())
    with Client(tiny_server.url) as client:
        np.testing.assert_allclose([first, second], client.infer("tiny", X)["output"], rtol=1e-5, atol=1e-6)
    assert vector.shape == (8,)


def test_health_and_metadata(tiny_server: RunningServer) -> None:
    with Client(f"{tiny_server.url}/") as client:
        client.wait_until_ready("tiny", version="1")
        assert client.is_live()
        assert client.is_ready()
        assert client.is_ready("tiny")
        assert not client.is_ready("other")
        assert client.metadata()["name"] == "nograd"
        assert client.metadata("tiny", version="1")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]


def test_refusals_are_errors_with_the_servers_sentence(tiny_server: RunningServer) -> None:
    with Client(tiny_server.url) as client:
        with pytest.raises(ModelNotFoundError, match=r"other.*\(HTTP 404\)"):
            client.infer("other", {"x": X})
        with pytest.raises(ProtocolError, match=r"x.*\(HTTP 400\)"):
            client.infer("tiny", {"x": X[:, :3]})
        with pytest.raises(SignatureError, match="input 'y' is not the model's; it takes 'x'"):
            client.infer("tiny", {"y": [[0.0] * 16]})
        with pytest.raises(SignatureError, match="input 'x' is not an array of FP32"):
            client.infer("tiny", [["a"] * 16])
        with pytest.raises(ProtocolError, match="input 'x' is complex64; the protocol has BOOL"):
            client.infer("tiny", {"x": X.astype(np.complex64)})
        np.testing.assert_equal(client.infer("tiny", X)["output"].shape, (2, 4))


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_every_datatype_arrives_as_it_was_sent(datatype: str) -> None:
    dtype = DTYPES[datatype]
    spec = TensorSpec("x", dtype.name, ("n",))
    sent = np.array([[0, 1, 1]], dtype=dtype)

    message = infer_message("/v2/models/m", {"x": sent}, request_id="a")
    length = int(message.headers["inference-header-content-length"])
    got = decode(message.body[:length], [spec], memoryview(message.body)[length:])
    assert (got.id, got.inputs["x"].dtype) == ("a", dtype)
    np.testing.assert_array_equal(got.inputs["x"], sent)

    if datatype != "BF16":  # JSON has no form of it in the protocol's other implementations
        plain = infer_message("/v2/models/m", {"x": sent}, binary=False)
        np.testing.assert_array_equal(decode(plain.body, [spec]).inputs["x"], sent)


def test_text_arrives_as_it_was_sent() -> None:
    spec = TensorSpec("text", "bytes")
    for sent in (np.array(["a", "", "ä\n"]), np.array([b"a", "", "ä\n"], dtype=object)):
        message = infer_message("/v2/models/m", {"text": sent})
        length = int(message.headers["inference-header-content-length"])
        assert list(decode(message.body[:length], [spec], memoryview(message.body)[length:]).inputs["text"]) == ["a", "", "ä\n"]


def test_half_precision_and_text_of_a_response_are_read() -> None:
    half = np.array([[1.5, -2.0]], dtype=ml_dtypes.bfloat16)
    octets = half.tobytes() + b"\x01\x00\x00\x00a\x02\x00\x00\x00\xc3\xa4"
    outputs = [
        {"name": "y", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}},
        {"name": "label", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(octets) - 4}},
        {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [[3, 4]]},
    ]
    head = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    found = read_outputs(Response(200, {"inference-header-content-length": str(len(head))}, head + octets))

    np.testing.assert_array_equal(found["y"], half)
    assert found["label"].tolist() == ["a", "ä"]
    assert found["ids"].tolist() == [[3, 4]]
    with pytest.raises(ProtocolError, match="not an infer response"):
        read_outputs(Response(200, {}, b'{"outputs": [{"name": "y"}]}'))


@contextmanager
def scripted(*replies: tuple[int, dict[str, str], Any]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives these responses in turn, the last one again and again; and the headers of what it got."""
    seen: list[dict[str, str]] = []
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            status, headers, value = left.pop(0) if len(left) > 1 else left[0]
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


FULL = (503, {"retry-after": "2"}, {"error": "the queue is full"})
ANSWER: tuple[int, dict[str, str], Any] = (
    200,
    {},
    {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [3.0]}]},
)


def test_a_full_queue_is_tried_again_after_the_time_that_the_server_names() -> None:
    pauses: list[float] = []
    with scripted(FULL, (503, {}, {"error": "warming up"}), ANSWER) as (url, seen), Client(url, api_key="secret") as client:
        client._sleep = pauses.append
        found = client.infer("m", {"x": X}, timeout_s=60)

    assert found["y"].tolist() == [3.0]
    assert pauses == [2.0, 0.2]
    assert [request["authorization"] for request in seen] == ["Bearer secret"] * 3
    deadlines = [int(request["x-envoy-expected-rq-timeout-ms"]) for request in seen]
    assert all(0 < deadline <= 60_000 for deadline in deadlines)


def test_a_queue_that_stays_full_is_an_error_with_its_time() -> None:
    pauses: list[float] = []
    with scripted(FULL) as (url, seen), Client(url, retries=2) as client:
        client._sleep = pauses.append
        with pytest.raises(OverloadedError, match=r"the queue is full \(HTTP 503\)") as caught:
            client.infer("m", {"x": X})
        assert (caught.value.retry_after_s, pauses, len(seen)) == (2.0, [2.0, 2.0], 3)
        with pytest.raises(OverloadedError):  # no time for a retry
            client.infer("m", {"x": X}, timeout_s=1.5)
        assert len(seen) == 4


def test_an_error_of_the_model_is_not_tried_again() -> None:
    with scripted((500, {}, {"error": "the model raised"})) as (url, seen), Client(url) as client:
        with pytest.raises(Exception, match=r"the model raised \(HTTP 500\)"):
            client.infer("m", {"x": X})
        assert len(seen) == 1


def test_a_server_that_is_not_there_is_tried_again_and_then_named() -> None:
    with scripted(ANSWER) as (url, _):
        pass  # nothing listens on the port any more
    pauses: list[float] = []
    with Client(url, retries=2) as client:
        client._sleep = pauses.append
        with pytest.raises(UnavailableError, match="POST /v2/models/m/infer: the server cannot be reached"):
            client.infer("m", {"x": X})
        assert pauses == [0.1, 0.2]
        assert not client.is_live()
        client._calls.clock = iter(range(1000)).__next__
        with pytest.raises(DeadlineError, match="/v2/health/ready was not ready within 5 s"):
            client.wait_until_ready(timeout_s=5)


def test_waiting_ends_in_time_if_the_server_takes_the_connection_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, Client(f"http://127.0.0.1:{silent.getsockname()[1]}") as client:
        timeouts: list[float | None] = []
        send = client._send

        def spy(message: Message) -> Response | Failure:
            timeouts.append(message.timeout_s)
            return send(message)

        client._send = spy  # type: ignore[method-assign]
        with pytest.raises(DeadlineError, match=r"/v2/health/ready was not ready within 0\.3 s"):
            client.wait_until_ready(timeout_s=0.3)

    assert all(timeout is not None and timeout <= 0.3 for timeout in timeouts)


def test_statuses_are_errors_of_their_kind() -> None:
    kinds = {401: UnauthorizedError, 404: ModelNotFoundError, 413: TooLargeError, 400: ProtocolError, 502: UnavailableError}
    for status, kind in kinds.items():
        assert type(error_of(Response(status, {}, b'{"error": "why"}'))) is kind
    assert str(error_of(Response(502, {}, b"<html>\n bad gateway"))) == "<html> bad gateway (HTTP 502)"
    assert "a key" in str(error_of(Response(401, {}, b'{"error": {"message": "a key is missing"}}')))


def test_settings_out_of_range_are_refused_at_once() -> None:
    wrongs: list[dict[str, Any]] = [
        {"url": "127.0.0.1:8000"}, {"timeout_s": 0.0}, {"retries": -1}, {"url": "https://h", "verify": "/no/such.pem"},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            Client(**wrong)
