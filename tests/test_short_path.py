"""The short path beside uvicorn's ordinary one: the same bytes in give the same bytes out, and no neighbour is harmed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from nograd import Signature, TensorSpec
from nograd.batching.jobs import BatchReply
from nograd.core.tensors import Batch
from nograd.errors import NogradError
from nograd.server.http import app as http
from nograd.server.http.connection import Connection
from nograd.server.http.encodings import compressed
from nograd.server.http.short_path import LONGEST_BODY, ShortPathProtocol
from tests.fakes import GATE, OUTPUT, Fake, Gate, Site, X, doubling, x
from tests.waiting import HANG_S

PATH = "/v2/models/doubling/infer"


class Transport(asyncio.Transport):
    """What a protocol writes to, instead of a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True
        self._answered = asyncio.Event()

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += bytes(data)
        self._answered.set()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        self.closed = True
        self._answered.set()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False  # as over TLS: what is refused is closed at once

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def answers(self, count: int = 1) -> bytes:
        """Wait for so many whole answers, at most until it is closed."""
        while self.written.count(b"\r\n\r\n") < count and not self.closed:
            self._answered.clear()
            await asyncio.wait_for(self._answered.wait(), HANG_S)
        return self.written


class Wire:
    """A connection to a site's application, by one of the two protocols."""

    def __init__(self, site: Site, kind: type[Connection]) -> None:
        config = uvicorn.Config(site.app, lifespan="off", access_log=False, log_config=None, log_level="critical")
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.protocol = kind(config, self.state, {})
        self.transport = Transport()
        self.protocol.connection_made(self.transport)


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is quick by its curve is run in the event loop: then an answer is a matter of turns of the loop."""
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: True)


def raising() -> Fake:
    def run(batch: Batch) -> Batch:
        raise ValueError("a secret")

    return Fake(run, Signature((X,), (OUTPUT,)))


@contextmanager
def sites(**options: Any) -> Iterator[tuple[Site, Site]]:
    """Two servers of the same models, for one protocol each: ids that they count out are the same."""
    limits = {"max_batch_size": 4, "max_queue_rows": 16, "max_body_bytes": 4096, **options}
    with Site({"doubling": doubling(), "a b": doubling()}, **limits) as one, Site(
        {"doubling": doubling(), "a b": doubling()}, **limits
    ) as other:  # fmt: skip
        yield one, other


def said(site: Site, kind: type[Connection], *pieces: bytes, answers: int = 1) -> tuple[bytes, bool]:
    """Return what is written to a client that sends these bytes, and whether the connection was closed."""

    async def talk() -> tuple[bytes, bool]:
        wire = Wire(site, kind)
        for piece in pieces:
            wire.protocol.data_received(piece)
        await wire.transport.answers(answers)
        await asyncio.sleep(0)  # uvicorn writes a head and a body
        found = wire.transport.written, wire.transport.closed
        wire.protocol.connection_lost(None)
        return found

    return site.run(talk())


def post(body: bytes, path: str = PATH, *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "host: x", *headers, f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def infer_body(*rows: list[float], **more: Any) -> bytes:
    return json.dumps({"inputs": [x(*rows)], **more}).encode()


ONE = infer_body([1, 2])


def post_binary(*headers: str, tail: bytes = np.array([1, 2], np.float32).tobytes(), size: int = 8, **more: Any) -> bytes:
    """A request whose input is behind its JSON; `more` is of the JSON."""
    described = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described], **more}).encode()
    offset = f"inference-header-content-length: {len(head)}"
    return post(head + tail, PATH, *(headers if any("inference" in each for each in headers) else (offset, *headers)))


BINARY_OUT: dict[str, Any] = {"parameters": {"binary_data_output": True}}

REQUESTS: dict[str, list[bytes]] = {
    "one row": [post(ONE)],
    "an id": [post(infer_body([1, 2], id="mine"))],
    "rows": [post(infer_body([1, 2], [3, 4]))],
    "more rows than a run": [post(infer_body(*[[float(i), 0.0] for i in range(9)]))],
    "more rows than the queue holds": [post(infer_body(*[[float(i), 0.0] for i in range(17)]))],
    "an output": [post(infer_body([1, 2], outputs=[{"name": "output"}]))],
    "no such output": [post(infer_body([1, 2], outputs=[{"name": "nowhere"}]))],
    "a deadline": [post(infer_body([1, 2], parameters={"timeout": 10_000_000}))],
    "a version": [post(ONE, "/v2/models/doubling/versions/1/infer")],
    "no such version": [post(ONE, "/v2/models/doubling/versions/2/infer")],
    "no such model": [post(ONE, "/v2/models/nobody/infer")],
    "a name with a space": [post(ONE, "/v2/models/a%20b/infer")],
    "the same, encoded otherwise": [post(ONE, "/v2/models/%61%20b/infer")],
    "a query": [post(ONE, PATH + "?a=b")],
    "a wrong method": [post(ONE, method="PUT")],
    "no JSON": [post(b"{")],
    "an empty body": [post(b"")],
    "not the protocol's": [post(b"[1]")],
    "no inputs": [post(b'{"inputs": []}')],
    "a wrong name": [post(ONE.replace(b'"x"', b'"y"'))],
    "a wrong shape": [post(ONE.replace(b"[1, 2]", b"[1, 3]"))],
    "NaN in the answer": [post(infer_body([3e38, 1.0]))],
    "the last request": [post(ONE, PATH, "connection: close")],
    "HTTP/1.0": [post(ONE, version="1.0")],
    "in pieces": [post(ONE)[:20], post(ONE)[20:70], post(ONE)[70:90], post(ONE)[90:]],
    "in chunks": [
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{len(ONE):x}\r\n".encode()
        + ONE
        + b"\r\n0\r\n\r\n"
    ],
    "compressed": [post(ONE, PATH, "content-encoding: gzip")],
    "binary": [post(ONE, PATH, "inference-header-content-length: 3")],
    "longer than allowed": [post(b" " * 5000)],
    "length given twice": [post(ONE, PATH, f"content-length: {len(ONE)}")],
    "a length that is no number": [post(ONE).replace(b"content-length: ", b"content-length: x")],
    "no HTTP": [b"hello\r\n\r\n"],
    "a usual client's encodings": [post(ONE, PATH, "Accept-Encoding: gzip, deflate, br")],
    "encodings given twice": [post(ONE, PATH, "accept-encoding: gzip", "accept-encoding: deflate")],
    "plain answers refused": [post(ONE, PATH, "accept-encoding: identity;q=0, gzip")],
    "a priority": [post(infer_body([1, 2], parameters={"priority": 1}))],
    "no such priority": [post(infer_body([1, 2], parameters={"priority": 6}))],
    "a deadline in a header": [post(ONE, PATH, "x-envoy-expected-rq-timeout-ms: 9000")],
    "no deadline in a header": [post(ONE, PATH, "x-envoy-expected-rq-timeout-ms: soon")],
    "an id in a header": [post(ONE, PATH, "X-Request-Id: 7f-1")],
    "an id and a mistake": [post(b"{", PATH, "x-request-id: 7f-1", "accept-encoding: gzip")],
    "an id that is none": [post(ONE, PATH, "x-request-id: a b")],
    "tensors in binary": [post_binary()],
    "tensors in binary, in and out": [post_binary(**BINARY_OUT)],
    "tensors in binary, out only": [post(infer_body([1, 2], **BINARY_OUT))],
    "tensors in binary, as the last request": [post_binary("connection: close", **BINARY_OUT)],
    "tensors in binary, with an id": [post_binary("x-request-id: 7f-1", "accept-encoding: gzip", **BINARY_OUT)],
    "tensors in binary, in pieces": [post_binary()[:40], post_binary()[40:250], post_binary()[250:-3], post_binary()[-3:]],
    "tensors in binary, too few": [post_binary(tail=bytes(4))],
    "tensors in binary, too many": [post_binary(tail=bytes(12))],
    "tensors in binary, of another size": [post_binary(size=4)],
    "tensors in binary, longer than allowed": [post_binary(tail=bytes(5000))],
    "tensors alone": [post(np.array([1, 2], np.float32).tobytes(), PATH, "inference-header-content-length: 0")],
    "JSON longer than the body": [post(ONE, PATH, "inference-header-content-length: 400")],
    "JSON as long as the body": [post(ONE, PATH, f"inference-header-content-length: {len(ONE)}")],
    "JSON of no length": [post_binary("inference-header-content-length: x")],
    "JSON of no known length": [post_binary(f"inference-header-content-length: {'9' * 19}")],
    "JSON of two lengths": [post_binary("inference-header-content-length: 9", "inference-header-content-length: 9")],
    "another path": [b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n"],
}


@pytest.mark.parametrize(
    ("request_", "cache_mb"),
    [*((name, 0) for name in REQUESTS), *((name, 1) for name in ("one row", "no JSON", "more rows than a run", "a deadline"))],
)
def test_both_ways_write_the_same_bytes(request_: str, cache_mb: float) -> None:
    with sites(cache_mb=cache_mb) as (one, other):
        short = said(one, ShortPathProtocol, *REQUESTS[request_])
        ordinary = said(other, Connection, *REQUESTS[request_])

    assert short == ordinary
    assert short[0].startswith(b"HTTP/1.1 ")


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    with sites() as (one, other):
        asking = post(ONE, PATH, "expect: 100-continue")
        short, ordinary = said(one, ShortPathProtocol, asking, answers=2), said(other, Connection, asking, answers=2)

    assert short == ordinary
    assert short[0].startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_requests_that_follow_each_other_are_answered_in_their_order_whatever_way_they_go() -> None:
    health = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    many = b"".join([post(infer_body([i, 0.0], id=f"{i}")) + health * (i % 3 == 1) for i in range(6)])

    with sites() as (one, other):
        short = said(one, ShortPathProtocol, many, answers=8)
        ordinary = said(other, Connection, many, answers=8)

    assert short == ordinary
    assert [short[0].index(b'"id":"%d"' % i) for i in range(6)] == sorted(short[0].index(b'"id":"%d"' % i) for i in range(6))


VALID = post(infer_body([1.5, 2.5], id="mine", parameters={"timeout": 9_000_000}))


VALID_BINARY = post_binary(id="mine", **BINARY_OUT)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([VALID, VALID_BINARY]), st.integers(0, len(VALID) - 1), st.binary(min_size=0, max_size=3), st.integers(0, 4)
)
def test_mutated_requests_are_answered_alike(valid: bytes, place: int, put: bytes, drop: int) -> None:
    changed = valid[:place] + put + valid[place + drop :]

    async def turns(site: Site, kind: type[Connection]) -> tuple[bytes, bool]:
        wire = Wire(site, kind)
        wire.protocol.data_received(changed)
        for _ in range(30):  # what is not answered by then waits for the rest of its body
            await asyncio.sleep(0)
        found = wire.transport.written, wire.transport.closed
        wire.protocol.connection_lost(None)
        return found

    one, other = PAIR
    (short, short_closed), (ordinary, closed) = (
        one.run(turns(one, ShortPathProtocol)),
        other.run(turns(other, Connection)),
    )
    assert (short, short_closed) == (ordinary, closed)


@pytest.fixture(scope="module", autouse=True)
def _pair() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nograd.batching.batcher._is_quick", lambda *_: True)
        with sites() as pair:
            PAIR.extend(pair)
            yield
            PAIR.clear()


PAIR: list[Site] = []
"""Two sites, started once for all mutations."""


@pytest.mark.parametrize(
    ("request_", "calls"),
    [("one row", 0), ("an id", 0), ("no JSON", 0), ("a version", 0), ("in pieces", 0), ("more rows than a run", 0),
     ("a usual client's encodings", 0), ("a deadline in a header", 0), ("an id in a header", 0), ("a priority", 0),
     ("tensors in binary, in and out", 0), ("tensors in binary, in pieces", 0), ("tensors alone", 0),
     ("JSON longer than the body", 1), ("JSON of no length", 1), ("tensors in binary, longer than allowed", 1),
     ("no deadline in a header", 1), ("plain answers refused", 1),
     ("a query", 1), ("in chunks", 1), ("compressed", 1), ("HTTP/1.0", 1), ("a wrong method", 1), ("longer than allowed", 1)],
)  # fmt: skip
def test_plain_infer_calls_take_the_short_path_and_others_do_not(
    request_: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    call = http.App.__call__

    async def counting(self: http.App, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await call(self, scope, receive, send)

    monkeypatch.setattr(http.App, "__call__", counting)
    with sites() as (one, _):
        said(one, ShortPathProtocol, *REQUESTS[request_])

    assert len(seen) == calls


def test_a_long_body_and_a_client_that_does_not_read_go_the_ordinary_way() -> None:
    with sites(max_body_bytes=1 << 20) as (one, _):

        async def talk() -> list[bool]:
            wire, slow = Wire(one, ShortPathProtocol), Wire(one, ShortPathProtocol)
            wire.protocol.data_received(post(b" " * (LONGEST_BODY + 1))[:200])
            slow.protocol.pause_writing()
            slow.protocol.data_received(post(ONE)[:-3])
            found = [hasattr(each.protocol.cycle, "scope") for each in (wire, slow)]
            for each in (wire, slow):
                each.protocol.connection_lost(None)
            return found

        assert one.run(talk()) == [True, True]


WIDE = TensorSpec("x", "float32", ("n",))


def wide() -> Fake:
    return Fake(lambda batch: {"output": batch["x"]}, Signature((WIDE,), (TensorSpec("output", "float32", ("n",)),)))


def wide_post(*headers: str, size: int = 4000, **more: Any) -> bytes:
    data = [value / 7 for value in range(size)]
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, size], "data": data}
    text = json.dumps({"inputs": [tensor], "id": "mine", **more}).encode()
    return post(text, "/v2/models/wide/infer", *headers)


@pytest.mark.parametrize("cache_mb", [0, 1])
@pytest.mark.parametrize(
    ("request_", "is_short"),
    [
        (wide_post(), False),
        (wide_post("accept-encoding: gzip, deflate", "x-request-id: 7"), True),
        (wide_post("accept-encoding: deflate", "connection: close"), True),
        (wide_post("accept-encoding: br"), False),
        (wide_post("accept-encoding: gzip", parameters={"binary_data_output": True}), False),
    ],
    ids=["plain", "gzip", "deflate", "br", "binary"],
)
def test_a_long_answer_is_compressed_on_both_ways(
    request_: bytes, is_short: bool, cache_mb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("encodings", "replies", "short_path"):
        monkeypatch.setattr(f"nograd.server.http.{module}.COMPRESSED_FROM", 4096)
    with Site({"wide": wide()}, cache_mb=cache_mb) as one, Site({"wide": wide()}, cache_mb=cache_mb) as other:
        short, ordinary = said(one, ShortPathProtocol, request_), said(other, Connection, request_)

    assert short == ordinary
    assert (b"\r\ncontent-encoding: " in short[0]) is is_short


def test_a_client_that_leaves_while_its_answer_is_compressed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("encodings", "replies", "short_path"):
        monkeypatch.setattr(f"nograd.server.http.{module}.COMPRESSED_FROM", 4096)
    begun, go_on = threading.Event(), threading.Event()

    def held(body: bytes, coding: bytes) -> bytes:
        begun.set()
        go_on.wait(HANG_S)
        return compressed(body, coding)

    monkeypatch.setattr("nograd.server.http.replies.compressed", held)
    with Site({"wide": wide()}) as site:

        async def talk() -> Transport:
            leaver = Wire(site, ShortPathProtocol)
            request = wide_post("accept-encoding: gzip", size=3000)
            assert len(request) < LONGEST_BODY  # a longer one takes the ordinary way
            leaver.protocol.data_received(request)
            assert await asyncio.to_thread(begun.wait, HANG_S)
            leaver.transport.close()
            leaver.protocol.connection_lost(None)
            while leaver.state.tasks:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            go_on.set()
            return leaver.transport

        assert site.run(talk()).written == b""


def test_an_error_that_is_not_ours_is_told_by_its_kind_and_logged_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.server.models.served.encode", lambda *_: 1 / 0)
    logged: list[dict[str, Any]] = []
    with sites() as (one, _):
        one.run(set_handler(logged))
        found, closed = said(one, ShortPathProtocol, post(ONE))

    assert found.startswith(b"HTTP/1.1 500 ")
    assert found.endswith(b'{"error":"the server failed on this request: ZeroDivisionError"}')
    assert not closed
    assert [(each["message"], type(each["exception"])) for each in logged] == [(f"POST {PATH} failed", ZeroDivisionError)]


async def set_handler(logged: list[dict[str, Any]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))


def test_a_model_that_raises_is_a_500() -> None:
    with Site({"doubling": doubling()}) as site:
        site.service.model("doubling").predictor.backend.run = raising().run  # type: ignore[method-assign]
        found, _ = said(site, ShortPathProtocol, post(ONE))

    assert found.startswith(b"HTTP/1.1 500 ")
    assert b"ValueError" in found


# -- leaving, and the server's end


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Gate]]:
    """A model in a thread of its own, that the test holds and lets go."""
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1) as site:
        yield site, gate
        gate.opened.set()


def test_what_a_client_that_left_waited_for_is_not_run_and_its_neighbour_is_answered(held: tuple[Site, Gate]) -> None:
    site, gate = held

    async def talk() -> bytes:
        busy, leaver, stayer = (Wire(site, ShortPathProtocol) for _ in range(3))
        busy.protocol.data_received(post(infer_body([GATE, 0])))
        await gate.wait_entered()
        leaver.protocol.data_received(post(infer_body([7, 7])))
        stayer.protocol.data_received(post(infer_body([1, 2])))
        leaver.protocol.connection_lost(None)
        gate.opened.set()
        await busy.transport.answers()
        await stayer.transport.answers()
        assert leaver.transport.written == b""
        return stayer.transport.written

    assert site.run(talk()).endswith(b'"data":[2.0,4.0]}]}')
    assert site.service.model("doubling").snapshot()["totals"]["batches"] == 2


def test_a_client_that_leaves_in_the_middle_of_its_run_is_forgotten(held: tuple[Site, Gate]) -> None:
    site, gate = held

    async def talk() -> None:
        leaver, stayer = Wire(site, ShortPathProtocol), Wire(site, ShortPathProtocol)
        leaver.protocol.data_received(post(infer_body([GATE, 0])))
        await gate.wait_entered()
        leaver.transport.close()
        leaver.protocol.connection_lost(None)
        gate.opened.set()
        stayer.protocol.data_received(post(infer_body([1, 2])))
        assert (await stayer.transport.answers()).startswith(b"HTTP/1.1 200 ")
        assert leaver.transport.written == b""

    site.run(talk())
    assert site.service.model("doubling").snapshot()["totals"]["requests"] == 1


def test_with_a_cache_a_client_that_left_is_forgotten_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1, cache_mb=1) as site:

        async def talk() -> None:
            leaver, stayer = Wire(site, ShortPathProtocol), Wire(site, ShortPathProtocol)
            leaver.protocol.data_received(post(infer_body([GATE, 0])))
            await gate.wait_entered()
            leaver.protocol.connection_lost(None)
            gate.opened.set()
            stayer.protocol.data_received(post(infer_body([1, 2])))
            assert (await stayer.transport.answers()).startswith(b"HTTP/1.1 200 ")
            assert leaver.transport.written == b""
            assert not leaver.state.tasks

        site.run(talk())


def test_at_the_servers_end_a_call_that_runs_is_answered_and_its_connection_closed(held: tuple[Site, Gate]) -> None:
    site, gate = held

    async def talk() -> Transport:
        wire, idle = Wire(site, ShortPathProtocol), Wire(site, ShortPathProtocol)
        wire.protocol.data_received(post(infer_body([GATE, 0])))
        await gate.wait_entered()
        wire.protocol.shutdown()
        idle.protocol.shutdown()
        assert (wire.transport.closed, idle.transport.closed) == (False, True)
        gate.opened.set()
        await wire.transport.answers()
        return wire.transport

    transport = site.run(talk())

    assert b"\r\nconnection: close\r\n\r\n" in transport.written
    assert transport.closed


def test_a_connection_may_be_lost_at_any_time_and_nothing_is_left() -> None:
    logged: list[dict[str, Any]] = []
    with sites() as (one, _):
        one.run(set_handler(logged))

        async def talk(count: int) -> None:
            wire = Wire(one, ShortPathProtocol)
            wire.protocol.data_received(post(ONE)[:count])
            wire.protocol.connection_lost(None)
            assert not wire.state.connections
            for _ in range(10):
                await asyncio.sleep(0)

        for count in range(0, len(post(ONE)) + 1, 7):
            one.run(talk(count))
        found, _ = said(one, ShortPathProtocol, post(ONE))

    assert found.startswith(b"HTTP/1.1 200 ")
    assert logged == []


# -- the batcher's way in


def test_submit_calls_back_refuses_and_forgets(held: tuple[Site, Gate]) -> None:
    site, gate = held
    model = site.service.model("doubling")
    assert model._engine is not None
    batcher = model._engine.batcher
    found: list[Any] = []

    async def work() -> None:
        first = {"x": model.inputs.check({"x": [[GATE, 0.0]]})["x"]}
        batcher.submit([first], BatchReply(found.append))
        await gate.wait_entered()
        forget = batcher.submit([model.inputs.check({"x": [[1.0, 2.0]]})], BatchReply(found.append))
        batcher.submit(
            [model.inputs.check({"x": [[5.0, 6.0], [7.0, 8.0]]})], BatchReply(found.append)
        )  # more rows than one run
        forget_pieces = batcher.submit([model.inputs.check({"x": [[1.0, 2.0]] * 2})], BatchReply(found.append))
        with pytest.raises(NogradError, match="timeout_s is -1"):
            batcher.submit([first], BatchReply(found.append), timeout_s=-1)
        forget()
        forget_pieces()
        gate.opened.set()
        await batcher.run([model.inputs.check({"x": [[3.0, 4.0]]})])

    site.run(work())

    outputs = [answer["output"].tolist() for (answer,) in found]
    assert outputs == [[[2 * GATE, 0.0]], [[10.0, 12.0], [14.0, 16.0]]]
    assert batcher.statistics().cancelled == 3


def test_a_callback_that_raises_is_logged_and_its_neighbours_are_answered() -> None:
    logged: list[dict[str, Any]] = []
    found: list[Any] = []
    with sites() as (one, _):
        model = one.service.model("doubling")
        assert model._engine is not None
        batcher = model._engine.batcher

        def failing(_: object) -> None:
            raise ZeroDivisionError

        async def work() -> None:
            await set_handler(logged)
            part = model.inputs.check({"x": [[1.0, 2.0]]})
            batcher.submit([part], BatchReply(failing))
            batcher.submit([part], BatchReply(found.append))
            await batcher.run([part])

        one.run(work())

    assert [type(each["exception"]) for each in logged] == [ZeroDivisionError]
    assert len(found) == 1


# -- the cache


def test_with_a_cache_a_miss_a_hit_and_a_shared_run_need_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1, cache_mb=1) as site:

        async def talk() -> list[bytes]:
            tasks = asyncio.all_tasks()
            first, second, other = (Wire(site, ShortPathProtocol) for _ in range(3))
            first.protocol.data_received(post(infer_body([GATE, 1])))
            await gate.wait_entered()
            second.protocol.data_received(post(infer_body([GATE, 1])))
            assert asyncio.all_tasks() == tasks
            gate.opened.set()
            written = [await wire.transport.answers() for wire in (first, second)]
            other.protocol.data_received(post(infer_body([GATE, 1])))
            return [*written, other.transport.written]  # a hit is answered at once

        found = site.run(talk())
        totals = site.service.model("doubling").snapshot()["cache"]

    assert [answer.partition(b'"outputs"')[2] for answer in found] == [found[0].partition(b'"outputs"')[2]] * 3
    assert found[2].endswith(b'"data":[84.0,2.0]}]}')
    assert (totals["rows"], totals["hits"], totals["misses"]) == (3, 2, 1)


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_with_and_without_a_cache_answers_are_the_same_bytes(cache_mb: float) -> None:
    bodies = [infer_body([1, 2]), infer_body([1, 2], [3, 4]), infer_body([3, 4], [5, 6], [3, 4]), infer_body([5, 6])]
    with Site({"doubling": doubling()}, cache_mb=cache_mb) as site:
        found = [said(site, ShortPathProtocol, post(body))[0] for body in bodies]

    data = [json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] for answer in found]
    assert data == [[2, 4], [2, 4, 6, 8], [6, 8, 10, 12, 6, 8], [10, 12]]


def test_a_failing_miss_is_answered_and_not_kept() -> None:
    with Site({"doubling": doubling()}, cache_mb=1) as site:
        site.service.model("doubling").predictor.backend.run = raising().run  # type: ignore[method-assign]
        found = [said(site, ShortPathProtocol, post(ONE))[0] for _ in range(2)]
        totals = site.service.model("doubling").snapshot()["cache"]

    assert [answer.partition(b"\r\n")[0] for answer in found] == [b"HTTP/1.1 500 Internal Server Error"] * 2
    assert (totals["entries"], totals["hits"]) == (0, 0)
