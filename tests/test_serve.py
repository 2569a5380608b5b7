"""`nograd serve` as its users run it: a process, a port, signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from tests.running_server import FOLDER, RunningServer, serving
from tests.served_models import GATE, GATE_VARIABLE

WAIT_S = 30.0


def body(*rows: list[float]) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(rows), 2], "data": rows}]}


class Gatekeeper:
    """The gated model's other end: it calls when it runs, and runs on when this hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_S)
        self.environment = {GATE_VARIABLE: str(self._listener.getsockname()[1])}

    def accept(self) -> socket.socket:
        """Return when the model is inside its run; closing what is returned lets it out."""
        return self._listener.accept()[0]

    def close(self) -> None:
        self._listener.close()


@contextmanager
def gated_server(*options: str) -> Iterator[tuple[RunningServer, Gatekeeper]]:
    gate = Gatekeeper()
    try:
        with serving("gated", "--cache-size", "0", *options, environment=gate.environment) as server:
            yield server, gate
    finally:
        gate.close()


def infer(server: RunningServer, *rows: list[float]) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/gated/infer", json=body(*rows), timeout=WAIT_S)


def status_or_refused(url: str) -> int | None:
    """The status of a GET on a new connection; None where the server takes none."""
    try:
        return httpx.get(url, timeout=WAIT_S).status_code
    except httpx.TransportError:
        return None


def status_once_not_ready(server: RunningServer) -> int | None:
    """Ask until the server says that it is not ready, or nothing any more."""
    for _ in range(5000):
        if (status := status_or_refused(f"{server.url}/v2/health/ready")) != 200:
            return status
    raise AssertionError("the server stayed ready")


# -- answering


def try_it(server: RunningServer) -> httpx.Response:
    """Do what the greeting's line to try does."""
    (line,) = [line for line in server.greeting.splitlines() if line.startswith("  curl")]
    curl, silent, url, data, example = shlex.split(line)
    assert (curl, silent, data) == ("curl", "-s", "-d")
    return httpx.post(url, content=example)


def test_the_line_to_try_that_the_greeting_shows_works(tiny_server: RunningServer, text_server: RunningServer) -> None:
    assert try_it(tiny_server).json()["outputs"][0]["shape"] == [1, 4]
    assert try_it(text_server).json()["outputs"][0]["shape"] == [1, 8]


def test_a_model_may_have_any_name() -> None:
    with serving("gated", "--name", "a b/ü?%") as server:
        assert try_it(server).json()["model_name"] == "a b/ü?%"


def test_the_greeting_says_what_is_served_where(tiny_server: RunningServer) -> None:
    assert tiny_server.greeting.startswith(f"tiny is ready: {tiny_server.url}\n  batching  pad: ")
    assert re.search(r"\n  measured  run time by rows: 1 [\d.]+ ms, 2 [\d.]+ ms", tiny_server.greeting)
    assert f"live page {tiny_server.url}/\n" in tiny_server.greeting


def test_a_batch_gets_the_answers_that_its_rows_get_alone(tiny_server: RunningServer) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 16), dtype=np.float32)

    def answers(part: Any) -> Any:
        inputs = [{"name": "x", "datatype": "FP32", "shape": list(part.shape), "data": part.ravel().tolist()}]
        return httpx.post(f"{tiny_server.url}/v2/models/tiny/infer", json={"inputs": inputs}).json()["outputs"][0]["data"]

    with ThreadPoolExecutor(8) as pool:
        alone = [value for part in pool.map(answers, np.split(rows, 40)) for value in part]

    np.testing.assert_allclose(answers(rows), alone, rtol=1e-5, atol=1e-6)


def test_texts_of_any_length_get_the_answers_that_they_get_alone(text_server: RunningServer) -> None:
    texts = ["a", "something longer", "ü", "x" * 300]

    def answers(*given: str) -> Any:
        inputs = [{"name": "text", "datatype": "BYTES", "shape": [len(given)], "data": given}]
        return httpx.post(f"{text_server.url}/v2/models/echo/infer", json={"inputs": inputs}).json()["outputs"][0]["data"]

    np.testing.assert_allclose(answers(*texts), np.concatenate([answers(text) for text in texts]), rtol=1e-5, atol=1e-6)


# -- the wire


def talk(server: RunningServer, request: bytes, answers: int) -> list[httpx.Response]:
    """Send bytes on one connection; return so many answers, parsed."""
    url = httpx.URL(server.url)
    found: list[httpx.Response] = []
    with socket.create_connection((url.host, url.port or 0), timeout=WAIT_S) as connection, connection.makefile("rb") as stream:
        connection.sendall(request)
        while len(found) < answers:
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().strip():
                name, _, value = line.partition(b": ")
                headers[name.decode().lower()] = value.decode()
            found.append(httpx.Response(status, headers=headers, content=stream.read(int(headers.get("content-length", 0)))))
    return found


REQUEST = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.0] * 16}]}).encode()
HEAD = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\n"


def test_x2_requests_may_follow_each_other_without_waiting(tiny_server: RunningServer) -> None:
    one = HEAD + b"content-length: %d\r\n\r\n" % len(REQUEST) + REQUEST

    first, second, third = talk(tiny_server, one * 3, 3)

    assert first.json()["outputs"] == second.json()["outputs"] == third.json()["outputs"]


def test_x2_a_body_may_come_in_chunks(tiny_server: RunningServer) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in REQUEST) + b"0\r\n\r\n"

    (answer,) = talk(tiny_server, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks, 1)

    assert answer.status_code == 200


def test_x2_a_client_may_ask_before_it_sends(tiny_server: RunningServer) -> None:
    head = HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(REQUEST)

    go_on, answer = talk(tiny_server, head + REQUEST, 2)

    assert (go_on.status_code, answer.status_code) == (100, 200)


def binary(value: float) -> tuple[bytes, bytes]:
    """Return the headers and the body of a request whose 16 numbers are in binary, as its answer's will be."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, "id": f"{value}"}).encode()
    return HEAD + b"Inference-Header-Content-Length: %d\r\n" % len(text), text + np.full(16, value, np.float32).tobytes()


def outputs(answer: httpx.Response) -> tuple[str, list[float]]:
    """Return the id and the numbers of an answer in binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.content[:length])["id"], np.frombuffer(answer.content[length:], np.float32).tolist()


def whole(value: float) -> bytes:
    head, body = binary(value)
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def test_x2_requests_in_binary_may_follow_each_other_without_waiting_json_among_them(tiny_server: RunningServer) -> None:
    alone = [outputs(talk(tiny_server, whole(value), 1)[0]) for value in (1.0, 2.0)]
    plain = HEAD + b"content-length: %d\r\n\r\n" % len(REQUEST) + REQUEST

    first, between, second = talk(tiny_server, whole(1.0) + plain + whole(2.0), 3)

    assert between.json()["outputs"][0]["name"] == "output"
    assert [found[0] for found in alone] == ["1.0", "2.0"]
    for answer, (id_, values) in zip((first, second), alone, strict=True):
        assert outputs(answer)[0] == id_
        np.testing.assert_allclose(outputs(answer)[1], values, rtol=1e-5)


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_x2_tensors_may_come_in_chunks_that_cut_numbers(tiny_server: RunningServer, piece: int) -> None:
    head, body = binary(3.0)
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"

    (answer,) = talk(tiny_server, head + b"transfer-encoding: chunked\r\n\r\n" + chunks, 1)

    np.testing.assert_allclose(outputs(answer)[1], outputs(talk(tiny_server, whole(3.0), 1)[0])[1], rtol=1e-5)


def test_x2_a_client_with_tensors_may_ask_before_it_sends(tiny_server: RunningServer) -> None:
    head, body = binary(4.0)
    asking = head + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)

    go_on, answer, again = talk(tiny_server, asking + body + whole(4.0), 3)

    assert go_on.status_code == 100
    assert outputs(answer)[0] == outputs(again)[0] == "4.0"


def test_x2_a_body_over_the_limit_is_refused_by_its_announcement(tiny_server: RunningServer) -> None:
    (answer,) = talk(tiny_server, HEAD + b"content-length: 999999999\r\n\r\n", 1)

    assert answer.status_code == 413
    assert answer.json() == {"error": "the body has 999999999 bytes; the limit of this server is 67108864 (--max-body-bytes)"}


# -- the log


def test_a_servers_life_is_in_its_log(stoppable_server: RunningServer) -> None:
    assert stoppable_server.stop() == 0

    events = [line.split(" ")[2] for line in stoppable_server.stderr().splitlines()]

    assert events == ["starting", "warming", "model_ready", "ready", "draining", "stopped"]
    assert re.search(r"Z info ready url=http://127\.0\.0\.1:\d+ models=", stoppable_server.stderr())


def test_as_json_every_line_of_the_output_is_an_object_and_stdout_is_empty() -> None:
    command = [
        sys.executable,
        "-m",
        "nograd",
        "serve",
        "served_models:gated",
        "--port",
        "0",
        "--log-format",
        "json",
        "--access-log",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "ready":
                break
        answer = httpx.post(f"{lines[-1]['url']}/v2/models/gated/infer", json=body([1.0, 2.0]) | {"id": "mine"}, timeout=WAIT_S)
        process.send_signal(signal.SIGTERM)
        lines += [json.loads(line) for line in process.stderr]
        assert process.wait(WAIT_S) == 0
        assert process.stdout.read() == ""

    assert answer.status_code == 200
    (access,) = [line for line in lines if line["event"] == "access"]
    assert (access["id"], access["status"], access["model"], access["client"]) == ("mine", 200, "gated", "127.0.0.1")
    assert [line["event"] for line in lines if line is not access] == [
        "starting", "warming", "model_ready", "ready", "draining", "stopped",
    ]  # fmt: skip


# -- leaving and stopping


def test_clients_that_hang_up_while_they_wait_never_reach_the_device() -> None:
    with gated_server("--max-batch-size", "1") as (server, gate), ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, server, [GATE, 0.0])
        with gate.accept():
            request = json.dumps(body([1.0, 2.0])).encode()
            head = b"POST /v2/models/gated/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(request)
            url = httpx.URL(server.url)
            clients = [socket.create_connection((url.host, url.port or 0)) for _ in range(20)]
            for client in clients:
                client.sendall(head + request)
            wait_queue_rows(server, 20)
            for client in clients:
                client.close()
            wait_queue_rows(server, 0)
        assert running.result().status_code == 200
        totals = httpx.get(f"{server.url}/live.json").json()["models"][0]["totals"]

    assert (totals["batches"], totals["requests"]) == (1, 1)


def wait_queue_rows(server: RunningServer, rows: int) -> None:
    """Ask until so many rows wait."""
    with httpx.Client() as client:
        for _ in range(5000):
            if client.get(f"{server.url}/live.json").json()["models"][0]["queue_rows"] == rows:
                return
    raise AssertionError(f"there were never {rows} rows in the queue")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_x1_a_stop_answers_what_was_accepted_and_refuses_what_comes(number: signal.Signals) -> None:
    with gated_server("--max-batch-size", "1") as (server, gate), ThreadPoolExecutor(2) as pool:
        running = pool.submit(infer, server, [GATE, 1.0])
        with gate.accept():
            waiting = pool.submit(infer, server, [3.0, 4.0])
            wait_queue_rows(server, 1)
            server.process.send_signal(number)
            assert status_once_not_ready(server) in (503, None)
            assert status_or_refused(f"{server.url}/v2/models/gated/ready") in (503, None)
        answers = [reply.result().json()["outputs"][0]["data"] for reply in (running, waiting)]
        code = server.process.wait(WAIT_S)

        assert answers == [[2 * GATE, 2.0], [6.0, 8.0]]
        assert (code, server.rest(), server.complaints()) == (0, "stopped\n", "")


def test_x1_a_request_on_an_open_connection_is_refused_with_503_while_the_server_stops() -> None:
    with gated_server("--max-batch-size", "1") as (server, gate), ThreadPoolExecutor(1) as pool, httpx.Client() as client:
        assert client.get(f"{server.url}/v2/health/ready").status_code == 200
        running = pool.submit(infer, server, [GATE, 1.0])
        with gate.accept():
            server.process.send_signal(signal.SIGTERM)
            statuses = []
            while (status := open_connection_status(client, server)) == 200:
                statuses.append(status)
        assert running.result().status_code == 200
        assert server.process.wait(WAIT_S) == 0

    assert status in (503, None)


def open_connection_status(client: httpx.Client, server: RunningServer) -> int | None:
    try:
        return client.post(f"{server.url}/v2/models/gated/infer", json=body([9.0, 9.0]), timeout=0.2).status_code
    except httpx.TimeoutException:
        return 200  # accepted before the signal came: it waits behind the gate
    except httpx.TransportError:
        return None


def test_x1_after_the_grace_what_waits_is_refused_and_the_stop_is_still_clean() -> None:
    with gated_server("--max-batch-size", "1", "--grace", "0") as (server, gate), ThreadPoolExecutor(2) as pool:
        running = pool.submit(infer, server, [GATE, 1.0])
        with gate.accept():
            waiting = pool.submit(infer, server, [3.0, 4.0])
            wait_queue_rows(server, 1)
            server.process.send_signal(signal.SIGTERM)
            refused = waiting.result()
        assert refused.status_code == 503
        assert running.result().status_code == 200
        assert server.process.wait(WAIT_S) == 0


def test_x1_a_second_signal_stops_at_once_whatever_runs() -> None:
    with gated_server() as (server, gate), ThreadPoolExecutor(1) as pool:
        running = pool.submit(status_of_infer, server)
        with gate.accept():
            server.process.send_signal(signal.SIGTERM)
            assert status_once_not_ready(server) in (503, None)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(10)  # though nobody lets the model out
        assert running.result() in (None, 500, 503)


def status_of_infer(server: RunningServer) -> int | None:
    try:
        return infer(server, [GATE, 1.0]).status_code
    except httpx.TransportError:
        return None


def test_a_stopped_servers_port_is_free_at_once(stoppable_server: RunningServer) -> None:
    port = httpx.URL(stoppable_server.url).port or 0

    assert stoppable_server.stop() == 0
    with socket.create_server(("127.0.0.1", port)):
        pass
