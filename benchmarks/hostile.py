"""Hostile clients: each function sends one kind of crafted input to a server and returns what the server answered."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

__all__ = ["ATTACKS", "Attack", "Target", "post", "tensor"]

ANSWER_S = 60.0
"""Seconds that an attack waits for an answer."""


class Target(NamedTuple):
    """The ports of a server that runs `benchmarks.attacked_models`."""

    port: int
    grpc_port: int


class Attack(NamedTuple):
    """One kind of hostile input."""

    name: str
    run: Callable[[Target], str]
    """Sends the input; returns the answers in words, such as `400`."""

    expected: frozenset[str]
    """Answers that are right; empty: the attack has none."""


def tensor(data: Any, shape: list[int], *, name: str = "x", datatype: str = "FP32", **more: Any) -> bytes:
    """Return the body of an infer call."""
    return json.dumps({"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}], **more}).encode()


def texts(values: list[Any], shape: list[int] | None = None) -> bytes:
    """Return the body of an infer call with texts."""
    return tensor(values, shape or [len(values)], name="text", datatype="BYTES")


def post(target: Target, path: str, body: bytes, headers: dict[str, str] | None = None) -> str:
    """Return the status of a request, in words."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=ANSWER_S)
    try:
        connection.request("POST", path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        return str(answer.status)
    except TimeoutError:
        return f"no answer in {ANSWER_S:g} s"
    except (OSError, http.client.HTTPException) as error:
        return "closed" if isinstance(error, ConnectionError) else type(error).__name__
    finally:
        connection.close()


def infer(name: str, model: str, body: Callable[[], bytes], *expected: str, **headers: str) -> Attack:
    """Return an attack of one infer call; the body is made when the attack runs."""
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return Attack(name, lambda target: post(target, f"/v2/models/{model}/infer", body(), given), frozenset(expected))


def embed(name: str, body: Callable[[], bytes], *expected: str) -> Attack:
    """Return an attack of one call of OpenAI's embeddings."""
    return Attack(name, lambda target: post(target, "/v1/embeddings", body()), frozenset(expected))


# -- connections


def _connect(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), timeout=ANSWER_S)


def _receive(connection: socket.socket, seconds: float) -> bytes:
    """Return what arrives until the connection is closed or quiet."""
    connection.settimeout(seconds)
    found = b""
    with suppress(OSError):
        while data := connection.recv(65536):
            found += data
    return found


def _statuses(answer: bytes) -> str:
    found = [part[:3].decode() for part in answer.split(b"HTTP/1.1 ")[1:]]
    return " ".join(found) if len(found) < 5 else f"{len(found)} x {'/'.join(sorted(set(found)))}"


HEAD = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\n"
GOOD = tensor([1, 2, 3, 4], [1, 4])


def half_requests(target: Target) -> str:
    """Open connections with half a head and half a body; the server closes them (`--header-timeout`, `--timeout`)."""
    with ExitStack() as stack:
        open_ones = []
        for data in [HEAD + b"Content-Le", HEAD + b"Content-Length: 100\r\n\r\n{"] * 100:
            open_ones.append(stack.enter_context(_connect(target)))
            open_ones[-1].sendall(data)
        answers = {_statuses(_receive(each, 15)) for each in open_ones}
    return " ".join(sorted(answers))


def large_headers(target: Target) -> str:
    """Send 16 MB of headers."""
    with _connect(target) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n")
        with suppress(OSError):
            for index in range(16):
                connection.sendall(b"x-%d: " % index + b"a" * 1_000_000 + b"\r\n")
        return _statuses(_receive(connection, 5)) or "closed"


def upgrade(target: Target) -> str:
    """Ask for an upgrade to h2c before a body that is a request itself."""
    inner = b"POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    with _connect(target) as connection:
        connection.sendall(HEAD + head + b"Content-Length: %d\r\n\r\n" % len(inner))
        time.sleep(0.3)
        connection.sendall(inner)
        return _statuses(_receive(connection, 2))


def slow_readers(target: Target) -> str:
    """Request 20 responses of 8 MB, and read none."""
    body = tensor([1, 2, 3, 4], [1, 4])
    head = b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(_connect(target)).sendall(head + body)
        time.sleep(8)
    return "left"


def pipelined(target: Target) -> str:
    """Send 5,000 requests at once on one connection."""
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
    with _connect(target) as connection:
        sender = threading.Thread(target=connection.sendall, args=(request * 5000,))
        sender.start()
        answer = _receive(connection, 5)
        sender.join()
    return _statuses(answer)


def many_connections(target: Target) -> str:
    """Open 900 connections, and send nothing; the limit is 1000."""
    with ExitStack() as stack:
        for _ in range(900):
            stack.enter_context(_connect(target))
        time.sleep(1)
    return "left"


def chunks(target: Target) -> str:
    """Send a body of chunks of one byte, each with an extension."""
    with _connect(target) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            connection.sendall(b"1;a=%b\r\n \r\n" % (b"b" * 100) * 50_000)
        return _statuses(_receive(connection, 3))


def sleeping(target: Target) -> str:
    """Have pre- and postprocessing sleep for 1 s in 6 requests each."""
    found: list[str] = []

    def send(model: str) -> None:
        found.append(post(target, f"/v2/models/{model}/infer", texts(["1"])))

    threads = [threading.Thread(target=send, args=(model,)) for model in ("before", "after") * 6]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return " ".join(sorted(set(found)))


def failing(target: Target) -> str:
    """Send 80 requests whose tracebacks fill the log."""
    bodies = [tensor([2000 + index, 1, 2, 3], [1, 4]) for index in range(80)]
    return " ".join(sorted({post(target, "/v2/models/failing/infer", body) for body in bodies}))


# -- gRPC


def grpc_call(name: str, make: Callable[[Any], Any], *expected: str) -> Attack:
    """Return an attack of one ModelInfer call whose request `make` returns."""

    def run(target: Target) -> str:
        try:
            import grpc
        except ImportError:
            return "not installed"
        from nograd.server.grpc.messages import SERVICE, ModelInferRequest

        request = make(ModelInferRequest)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}", options) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            try:
                call(request.SerializeToString(), timeout=ANSWER_S)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    return Attack(name, run, frozenset((*expected, "not installed")))


def _typed_floats(kind: Any) -> Any:
    request = kind(model_name="length")
    given = request.inputs.add(name="x", datatype="FP32", shape=[1, 5_000_000])
    given.contents.fp32_contents.extend([1.5] * 5_000_000)
    return request


def _typed_texts(kind: Any) -> Any:
    request = kind(model_name="text")
    given = request.inputs.add(name="text", datatype="BYTES", shape=[2_000_000])
    given.contents.bytes_contents.extend([b"a"] * 2_000_000)
    return request


def _raw_texts(kind: Any) -> Any:
    request = kind(model_name="text", raw_input_contents=[(struct.pack("<I", 1) + b"a") * 5_000_000])
    request.inputs.add(name="text", datatype="BYTES", shape=[5_000_000])
    return request


def _many_inputs(kind: Any) -> Any:
    request = kind(model_name="linear")
    request.MergeFromString(b"\x2a\x03\x0a\x01x" * 2_000_000)
    return request


def _many_parameters(kind: Any) -> Any:
    request = kind(model_name="linear")
    for index in range(500_000):
        request.parameters[f"p{index}"].int64_param = index
    return request


# -- all of them

MEGABYTE = 10**6


def _binary_texts(count: int) -> tuple[bytes, str]:
    data = (struct.pack("<I", 1) + b"a") * count
    entry = {"name": "text", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + data, str(len(head))


def binary_texts(target: Target) -> str:
    """Send 5 million texts of one letter in binary."""
    body, length = _binary_texts(5_000_000)
    return post(target, "/v2/models/text/infer", body, {"Inference-Header-Content-Length": length})


def many_rows(target: Target) -> str:
    """Send 100,000 different rows, which the cache does not have."""
    values = struct.pack("<400000f", *range(400_000))
    entry = {"name": "x", "shape": [100_000, 4], "datatype": "FP32", "parameters": {"binary_data_size": len(values)}}
    head = json.dumps({"inputs": [entry]}).encode()
    return post(target, "/v2/models/linear/infer", head + values, {"Inference-Header-Content-Length": str(len(head))})


def _mistakes() -> list[bytes]:
    shape = '{"inputs":[{"name":"x","shape":%s,"datatype":"FP32","data":[1,2,3,4]}]%s}'
    timeout = ',"parameters":{"timeout":1' + "0" * 4000 + "}"
    shapes = ["[" + "1," * 64 + "4]", "[" + ",".join(["9" * 4000] * 3) + "]"]
    return [*((shape % (each, "")).encode() for each in shapes), (shape % ("[1,4]", timeout)).encode()]


def mistakes(target: Target) -> str:
    """Send 65 dimensions, numbers of 4,000 digits, and a timeout of 10^4000."""
    return " ".join(sorted({post(target, "/v2/models/linear/infer", body) for body in _mistakes()}))


def _lists(count: int, element: str) -> bytes:
    data = "[" + ",".join([element] * count) + "]"
    return f'{{"inputs":[{{"name":"x","shape":[1,4],"datatype":"FP32","data":{data}}}]}}'.encode()


def _with(more: str) -> bytes:
    return GOOD[:-1] + b"," + more.encode() + b"}"


ATTACKS: tuple[Attack, ...] = (
    Attack("crafted mistakes of a client", mistakes, frozenset(("400",))),
    infer("shape of 60,000 dimensions, 1.3 MB", "linear", lambda: tensor([1, 2, 3, 4], [2**62] * 60_000), "400"),
    infer("5 million empty lists, 15 MB", "linear", lambda: _lists(5_000_000, "[]"), "400", "413"),
    infer("lists 60,000 deep", "linear", lambda: b'{"inputs":' + b"[" * 60_000, "400"),
    infer("5 million strings for numbers, 15 MB", "linear", lambda: _lists(5_000_000, '""'), "400", "413"),
    infer("2 million inputs, 40 MB", "linear", lambda: b'{"inputs":[' + b"{}," * 10_000_000 + b"{}]}", "400", "413"),
    infer("parameters with a million keys", "linear",
          lambda: _with('"parameters":{' + ",".join(f'"{i}":{i}' for i in range(1_000_000)) + "}"), "200", "400", "413"),
    infer("a million requested outputs", "linear",
          lambda: _with('"outputs":[' + ",".join(['{"name":"y"}'] * 1_000_000) + "]"), "400", "413"),
    infer("an id of 50 MB", "linear", lambda: _with('"id":"' + "a" * 50 * MEGABYTE + '"'), "200", "400", "413"),
    infer("6 million good numbers, 24 MB", "length", lambda: tensor([1.5] * 6_000_000, [1, 6_000_000]), "200"),
    Attack("100,000 different rows in binary", many_rows, frozenset(("200", "413"))),
    infer("64 MB of zeros in gzip", "linear", lambda: gzip.compress(b"0" * 64 * 2**20), "400", "413", Content_Encoding="gzip"),
    infer("1 GB of spaces in gzip", "linear", lambda: gzip.compress(b" " * 2**30, 1), "413", Content_Encoding="gzip"),
    infer("100,000 texts of one letter", "text", lambda: texts(["a"] * 100_000), "413"),
    infer("15 million texts of no letter, 60 MB", "text", lambda: texts([""] * 15_000_000, [1]), "400", "413"),
    infer("one text of 10 MB", "text", lambda: texts(["word " * 2_000_000]), "413"),
    infer("one text of 1 MB, within the limit", "text", lambda: texts(["word " * 200_000]), "200"),
    infer("60 texts of 1 MB, 60 MB", "text", lambda: texts(["word " * 200_000] * 60), "200", "504"),
    infer("a text of 60 MB with escapes", "text", lambda: texts(["\n" * 30_000_000]), "413"),
    infer("nested lists of texts, 30 MB", "text", lambda: texts([["a"]] * 4_000_000), "400", "413"),
    infer("numbers for texts, 30 MB", "text", lambda: texts([1] * 10_000_000), "400", "413"),
    Attack("5 million texts of one letter in binary", binary_texts, frozenset(("413",))),
    embed("embeddings of 10 million texts, 50 MB", lambda: json.dumps({"model": "text", "input": ["a"] * 10_000_000}).encode(),
          "413"),
    embed("embeddings of 10 million token ids", lambda: json.dumps({"model": "text", "input": [1] * 10_000_000}).encode(),
          "400", "413"),
    embed("embeddings of a text of 60 MB", lambda: json.dumps({"model": "text", "input": "a" * 60 * MEGABYTE}).encode(), "413"),
    embed("embeddings of 10 million lists",
          lambda: b'{"model":"text","input":[' + b"[],"  * 10_000_000 + b"[]]}", "400", "413"),
    grpc_call("gRPC, 5 million numbers in contents", _typed_floats, "OK"),
    grpc_call("gRPC, 2 million texts in contents", _typed_texts, "RESOURCE_EXHAUSTED"),
    grpc_call("gRPC, 5 million texts in raw contents", _raw_texts, "RESOURCE_EXHAUSTED"),
    grpc_call("gRPC, 2 million inputs", _many_inputs, "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"),
    grpc_call("gRPC, 500,000 parameters", _many_parameters, "OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"),
    Attack("pre- and postprocessing that sleep", sleeping, frozenset(("200",))),
    Attack("80 tracebacks", failing, frozenset(("500",))),
    Attack("16 MB of headers", large_headers, frozenset(("431", "closed"))),
    Attack("half a head and half a body, 200 connections", half_requests, frozenset(("408",))),
    Attack("Upgrade: h2c with a request as the body", upgrade, frozenset(("400",))),
    Attack("20 clients that do not read", slow_readers, frozenset()),
    Attack("5,000 pipelined requests", pipelined, frozenset(("5000 x 200",))),
    Attack("50,000 chunks with extensions", chunks, frozenset(("431", "400"))),
    Attack("900 silent connections", many_connections, frozenset()),
)  # fmt: skip
