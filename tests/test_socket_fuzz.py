"""Changed requests on real connections: never a fault of the server, never a hang, and never somebody else's answer.

Beside every one of them a well-formed call is made on another connection, and its answer is compared bit for bit (X4).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nograd.core.tensors import Array
from nograd.server.grpc.messages import SERVICE
from tests.grpc_site import raw_request
from tests.running_server import RunningServer, serving
from tests.test_grpc_clients import address
from tests.test_protocol_fuzz import json_values, with_value_at
from tests.wire import WAIT_S, Answer, Wire, cut, request

PATH = "/v2/models/scaled/infer"
EMBEDDINGS = "/v1/embeddings"
METHOD = f"/{SERVICE}/ModelInfer"

GRPC_MAY_SAY = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}
"""How a changed message may be refused; a changed time-out may have passed."""

ROWS = np.random.default_rng(0).integers(-39, 40, (8, 16)).astype(np.float32) / 4
"""Of few digits, so that a change often meets something else."""

words = st.sampled_from(
    [b"xx", b"0", b"-1", b"1e999", b"9" * 30, b"null", b"[]", b"{}", b'"', b",", b"\\ud800", b"\r\n", b": ", b""]
)

changes = st.lists(st.tuples(st.integers(0, 400), words | st.binary(max_size=3)), min_size=1, max_size=4)
paths = st.sampled_from(
    [
        *(["inputs", 0, *more] for more in ([], ["name"], ["datatype"], ["shape"], ["shape", 0], ["data"], ["data", 0])),
        *(["inputs", 0, "parameters"], ["inputs"], ["outputs"], ["parameters"], ["id"], ["more"]),
    ]
)
places = st.lists(st.integers(0, 400), max_size=3)
numbers = st.integers(0, len(ROWS) - 1)

LIMIT_BYTES = 20_000

LAST = b"\r\n" * LIMIT_BYTES + request("/v2/health/live", b"", b"connection: close", method=b"GET")
"""Ends a connection: longer than any body that is taken, so that nobody waits for the rest of one; what is left is skipped."""

HEADER_TIMEOUT_S = 10.0
"""The server ends a connection whose request has incomplete headers for so long."""

often = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])


def json_body(row: Array, identifier: str = "1") -> bytes:
    one = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": row.tolist()}
    return json.dumps({"id": identifier, "inputs": [one]}).encode()


def well_formed(number: int) -> bytes:
    """A call with one of ROWS."""
    return request(PATH, json_body(ROWS[number], str(number)))


def binary_request(row: Array) -> bytes:
    one = {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
    head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    return request(PATH, head + row.tobytes(), b"inference-header-content-length: %d" % len(head))


def changed(message: bytes, replaced: list[tuple[int, bytes]]) -> bytes:
    """Return the message with single bytes replaced by none, one or more."""
    made = bytearray(message)
    for place, replacement in replaced:
        at = place % max(1, len(made))
        made[at : at + 1] = replacement
    return bytes(made)


def altered(path: list[Any], value: Any) -> bytes:
    """Return a body with another value at some place."""
    return json.dumps(with_value_at(json.loads(json_body(ROWS[0])), path, value)).encode("utf-8", "surrogatepass")


bodies = st.builds(changed, st.just(json_body(ROWS[0])), changes) | st.builds(altered, paths, json_values)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(
        "scaled", "--name", "scaled", "--grpc-port", "0", "--cache-size", "0", "--max-body-size", str(LIMIT_BYTES)
    ) as server:
        yield server


@pytest.fixture(scope="module")
def expected(server: RunningServer) -> list[bytes]:
    """The answer to each of ROWS when nobody else is there."""
    found = []
    for number in range(len(ROWS)):
        with Wire(server.url) as wire:
            wire.send(well_formed(number))
            answer = wire.answer()
        assert answer is not None
        assert answer.status == 200
        found.append(answer.body)
    return found


def is_no_fault(answer: Answer) -> bool:
    """Whether an answer is no 5xx, but for the model's own: numbers so large that its answer is infinite."""
    if answer.status < 500 or answer.status in (501, 505):  # another method, another version of HTTP
        return True
    return answer.status == 500 and answer.json["error"].startswith("output 'output' contains NaN or infinity")


def exchange(
    server: RunningServer, pieces: Sequence[bytes], number: int, right: bytes, count: int | None = None
) -> list[Answer]:
    """Return the answers to pieces sent on one connection.

    After the first piece, a well-formed call is made on another connection; it must get its right answer. All of it is done
    again where it took so long that the server may have ended a connection on which nothing came: the machine stood still.

    Args:
        server: real.
        pieces: to send one by one.
        number: which of ROWS the well-formed call sends.
        right: its answer.
        count: how many answers there must be; None for at least one, and until the server closes.
    """
    while True:
        begun = time.monotonic()
        with Wire(server.url) as wire, Wire(server.url) as witness:
            wire.send(pieces[0])
            witness.send(well_formed(number))
            wire.send(*pieces[1:])
            answers = list(islice(answers_of(wire), count))
            heard = witness.answer()
        is_whole = len(answers) == count if count is not None else bool(answers)
        if (is_whole and heard is not None) or time.monotonic() - begun < HEADER_TIMEOUT_S:
            break
    assert is_whole
    assert heard is not None
    assert (heard.status, heard.body) == (200, right)
    return answers


def answers_of(wire: Wire) -> Iterator[Answer]:
    """Yield answers until the server closes; or refuses a body for its length, which it then waits for the end of."""
    while (answer := wire.answer()) is not None:
        yield answer
        if answer.status == 413:
            return


def test_the_requests_that_are_changed_below_are_answered(server: RunningServer, expected: list[bytes]) -> None:
    with Wire(server.url) as wire:
        wire.send(binary_request(ROWS[3]))
        answer = wire.answer()

    assert answer is not None
    size = int(answer.headers["inference-header-content-length"])
    found = np.frombuffer(answer.body[size:], np.float32).tolist()
    assert np.array(json.loads(expected[3])["outputs"][0]["data"], np.float32).tolist() == found


def test_a_client_that_sends_more_headers_than_are_taken_reads_why_although_it_sends_on(server: RunningServer) -> None:
    with Wire(server.url) as wire:
        wire.send(b"GET /v2 HTTP/1.1\r\nhost: x\r\n", *[b"a: " + b"b" * 60_000 + b"\r\n"] * 4)
        answer = wire.answer()
        wire.send(b"\r\n" + LAST)

        assert answer is not None
        assert answer.status == 431
        assert wire.answer() is None


def test_an_upgrade_is_declined_on_a_real_connection(server: RunningServer, expected: list[bytes]) -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c"
    with Wire(server.url) as wire:
        wire.send(request(PATH, json_body(ROWS[1], "1"), upgrade), request("/v2", b"", upgrade, method=b"GET"))
        first, second = wire.answer(), wire.answer()

    assert first is not None
    assert first.body == expected[1]
    assert second is not None
    assert second.json["name"] == "nograd"


@often
@given(bodies, places, numbers)
def test_a_changed_body_of_the_right_length_is_answered_in_one_piece_or_many(
    server: RunningServer, expected: list[bytes], body: bytes, split: list[int], number: int
) -> None:
    pieces = cut(request(PATH, body), split)

    (answer,) = exchange(server, pieces, number, expected[number], count=1)

    assert is_no_fault(answer), answer


@often
@given(changes, places, numbers, st.sampled_from(["json", "binary", "embeddings", "get"]))
@example([(0, b"")], [], 0, "json")
def test_a_request_changed_anywhere_is_answered_or_the_connection_ends(
    server: RunningServer, expected: list[bytes], replaced: list[tuple[int, bytes]], split: list[int], number: int, kind: str
) -> None:
    valid = {
        "json": request(PATH, json_body(ROWS[0])),
        "binary": binary_request(ROWS[0]),
        "embeddings": request(EMBEDDINGS, b'{"model": "scaled", "input": "a"}'),
        "get": request("/v2/models/scaled/ready", b"", method=b"GET"),
    }
    pieces = cut(changed(valid[kind], replaced), split)

    answers = exchange(server, [*pieces, LAST], number, expected[number])

    assert all(map(is_no_fault, answers)), answers


@often
@given(st.lists(st.tuples(numbers, bodies | st.none()), min_size=2, max_size=6), places, numbers)
def test_pipelined_calls_are_answered_in_order_with_a_changed_body_among_them(
    server: RunningServer,
    expected: list[bytes],
    calls: list[tuple[int, bytes | None]],
    split: list[int],
    number: int,
) -> None:
    sent = [json_body(ROWS[each], str(each)) if body is None else body for each, body in calls]
    pieces = cut(b"".join(request(PATH, body) for body in sent), split)

    answers = exchange(server, pieces, number, expected[number], count=len(calls))

    for (each, body), answer in zip(calls, answers, strict=True):
        assert is_no_fault(answer), answer
        assert body is not None or answer.body == expected[each]


@often
@given(
    st.integers(-2, 2**64) | st.sampled_from(["", "x", "+5", "0x10", "5, 5", "1e3", "²"]),
    st.sampled_from(["content-length", "Inference-Header-Content-Length"]),
    st.booleans(),
    numbers,
)
@example(10**30, "content-length", False, 0)
@example(0, "content-length", True, 0)
def test_a_length_that_lies_harms_nobody(
    server: RunningServer, expected: list[bytes], length: int | str, name: str, twice: bool, number: int
) -> None:
    body = json_body(ROWS[0])
    told = f"{name}: {length}".encode()
    head = [b"POST %b HTTP/1.1" % PATH.encode(), b"host: x", told]
    if twice or name != "content-length":
        head.append(b"content-length: %d" % len(body))

    answers = exchange(server, [b"\r\n".join(head) + b"\r\n\r\n", body, LAST], number, expected[number])

    assert all(map(is_no_fault, answers)), answers


@often
@given(
    st.lists(
        st.tuples(st.sampled_from([b"5", b"0", b"fff", b"-1", b"x", b"ffffffffffffffffff", b""]), st.binary(max_size=9)),
        max_size=4,
    ),
    numbers,
)
def test_a_body_in_chunks_that_lie_harms_nobody(
    server: RunningServer, expected: list[bytes], chunks: list[tuple[bytes, bytes]], number: int
) -> None:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % PATH.encode()

    pieces = [head, *(b"%b\r\n%b\r\n" % chunk for chunk in chunks), b"0\r\n\r\n", LAST]
    answers = exchange(server, pieces, number, expected[number])

    assert all(map(is_no_fault, answers)), answers


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(address(server)) as channel:
        yield channel


@often
@given(changes, numbers)
def test_a_changed_message_over_grpc_is_answered_or_refused(
    server: RunningServer, expected: list[bytes], channel: Any, replaced: list[tuple[int, bytes]], number: int
) -> None:
    message = changed(raw_request("scaled", {"x": ROWS[:1]}, id="1").SerializeToString(), replaced)

    call = channel.unary_unary(METHOD)
    running = call.future(message, timeout=WAIT_S)
    good = call(raw_request("scaled", {"x": ROWS[number : number + 1]}, id=str(number)).SerializeToString(), timeout=WAIT_S)
    code = running.code().name

    right = np.array(json.loads(expected[number])["outputs"][0]["data"], np.float32)
    assert right.tobytes() in good
    assert code == "OK" or code in GRPC_MAY_SAY, running.details()
