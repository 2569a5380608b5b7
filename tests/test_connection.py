"""Limits, timeouts and framing of a connection, without sockets and without waiting."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from nograd.errors import ConfigError
from nograd.server.http.connection import Connection
from nograd.server.http.connection_limits import LimitVerdict
from nograd.server.http.connection_watch import ConnectionWatch
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.access_log import Access
from tests.fakes import GATE, Gate, Site, doubling
from tests.test_short_path import ONE, PATH, Transport, infer_body, post
from tests.wire import cut

LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"

KINDS = pytest.mark.parametrize("kind", [ShortPathProtocol, Connection], ids=["short", "ordinary"])
"""Both ways of a request: the short path, and ASGI."""

INFER = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()

INNER = b"POST /cache/clear HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
"""A body that reads as a request."""


class Pipe(Transport):
    """A transport whose client may not read."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.aborted = False
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended
        super().write(data)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.unread


class Client:
    """A client of a site, on a connection without a socket."""

    def __init__(self, site: Site, kind: type[Connection] = ShortPathProtocol, state: ServerState | None = None) -> None:
        config = uvicorn.Config(site.app, lifespan="off", access_log=False, log_config=None, log_level="critical")
        config.load()
        self.state = state or ServerState()
        self.protocol = kind(config, self.state, {})
        self.transport = Pipe()
        self.protocol.connection_made(self.transport)
        self.watch = ConnectionWatch(self.state.connections)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.is_ended:
                self.protocol.data_received(piece)

    @property
    def is_ended(self) -> bool:
        """Whether the server has closed its side."""
        return self.transport.ended or self.transport.closed

    @property
    def statuses(self) -> list[int]:
        """Status of each response so far."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.transport.written)]

    def pass_time(self, seconds: float) -> None:
        """Have the watch look once a second."""
        now = self.watch._last
        for tick in range(int(seconds) + 1):
            self.watch.look(now + tick)


async def turns(count: int = 30) -> None:
    """Let the event loop answer whatever can be answered."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(scope="module", autouse=True)
def _inline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nograd.batching.batcher._is_quick", lambda *_: True)
        yield


@pytest.fixture(scope="module")
def site(_inline: None) -> Iterator[Site]:
    with Site({"doubling": doubling()}, max_batch_size=4, max_body_bytes=4096, max_header_bytes=2048, max_headers=20) as site:
        yield site


def statuses(site: Site, kind: type[Connection], *pieces: bytes) -> tuple[list[int], bool]:
    """Return the statuses that a client gets for these bytes, and whether the server has closed its side."""

    async def talk() -> tuple[list[int], bool]:
        client = Client(site, kind)
        client.send(*pieces)
        await turns()
        found = client.statuses, client.is_ended
        client.protocol.connection_lost(None)
        return found

    return site.run(talk())


# -- upgrades


UPGRADES = {
    "h2c": "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    "websocket": "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhl\r\n",
    "two headers": "connection: close\r\nconnection: upgrade\r\nupgrade: TLS/1.0, h2c\r\nupgrade: x\r\n",
    "without connection": "upgrade: h2c\r\n",
}


def upgrading(name: str, body: bytes = ONE) -> bytes:
    return INFER + UPGRADES[name].encode() + b"content-length: %d\r\n\r\n" % len(body) + body


@KINDS
@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_is_ignored_and_the_body_is_the_body_wherever_it_is_split(
    site: Site, kind: type[Connection], name: str
) -> None:
    whole = upgrading(name)
    for at in range(1, len(whole)):

        async def talk(at: int = at) -> bytes:
            client = Client(site, kind)
            client.send(whole[:at], whole[at:])
            await turns()
            client.protocol.connection_lost(None)
            return client.transport.written

        written = site.run(talk())
        assert written.count(b"HTTP/1.1 ") == 1
        assert written.endswith(b'"data":[2.0,4.0]}]}'), (at, written)


@KINDS
@pytest.mark.parametrize("name", UPGRADES)
def test_a_body_behind_an_upgrade_is_never_a_second_request(site: Site, kind: type[Connection], name: str) -> None:
    found, _ = statuses(site, kind, upgrading(name, INNER))

    assert found == [400]


@KINDS
def test_upgrades_in_chunks_and_pipelined_are_answered_once_each(site: Site, kind: type[Connection]) -> None:
    chunked = INFER + UPGRADES["h2c"].encode() + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)
    get = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n" + UPGRADES["websocket"].encode() + b"\r\n"

    many = b"".join([chunked, upgrading("h2c"), get, post(ONE), get, upgrading("h2c", INNER), LIVE])

    assert statuses(site, kind, many)[0] == [200, 200, 200, 200, 200, 400, 200]
    assert statuses(site, kind, *(many[i : i + 1] for i in range(len(many))))[0] == [200, 200, 200, 200, 200, 400, 200]


@KINDS
def test_connect_is_refused(site: Site, kind: type[Connection]) -> None:
    assert statuses(site, kind, b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" + LIVE) == ([501], True)


# -- framing


def head(*lines: str) -> bytes:
    return INFER + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


CHUNKED = head("transfer-encoding: chunked")

CONFLICTS: dict[str, bytes] = {
    "a length and chunks": head("content-length: 3", "transfer-encoding: chunked") + b"0\r\n\r\n",
    "chunks and a length": head("transfer-encoding: chunked", "content-length: 3") + b"0\r\n\r\n",
    "two lengths": head("content-length: 3", "content-length: 4") + b"abcd",
    "one length twice": head("content-length: 3", "content-length: 3") + b"abc",
    "a list of lengths": head("content-length: 3, 3") + b"abc",
    "a length with a sign": head("content-length: +3") + b"abc",
    "an empty length": head("content-length:") + b"abc",
    "a space before the colon": head("content-length : 3") + b"abc",
    "a folded header": head("a: b", " c", "content-length: 3") + b"abc",
    "a folded coding": head("transfer-encoding:", " chunked") + b"0\r\n\r\n",
    "a header that begins with a space": head(" content-length: 3") + b"abc",
    "LF alone behind the request line": INFER.replace(b"1.1\r\n", b"1.1\n") + b"\r\n",
    "LF alone behind a header": INFER + b"a: b\ncontent-length: 3\r\n\r\nabc",
    "LF alone at the end of the head": INFER + b"a: b\r\n\nabc",
    "CR alone in a header": INFER + b"a: b\rcontent-length: 3\r\n\r\nabc",
    "NUL in a header": head("a: b\0c"),
    "a coding that is not chunked": head("transfer-encoding: gzip"),
    "two codings": head("transfer-encoding: gzip, chunked") + b"0\r\n\r\n",
    "two headers of codings": head("transfer-encoding: identity", "transfer-encoding: chunked") + b"0\r\n\r\n",
    "chunked twice": head("transfer-encoding: chunked", "transfer-encoding: chunked") + b"0\r\n\r\n",
    "chunked as the first of two": head("transfer-encoding: chunked, gzip") + b"0\r\n\r\n",
    "a coding with a control character": head("transfer-encoding: \x0bchunked") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "a chunk's size with a space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk's size below 0": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "a chunk's size above 64 bits": CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "LF alone behind a chunk's size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "LF alone behind an extension": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "CR alone in an extension": CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "LF alone behind a chunk": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "LF alone behind the last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n\n",
    "a length in the trailers": CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 3\r\n\r\n",
}  # fmt: skip


@KINDS
@pytest.mark.parametrize("name", CONFLICTS)
def test_a_framing_conflict_gets_one_400_and_nothing_behind_it_is_read(site: Site, kind: type[Connection], name: str) -> None:
    message = CONFLICTS[name] + LIVE

    assert statuses(site, kind, message) == ([400], True)
    assert statuses(site, kind, *(message[i : i + 1] for i in range(len(message)))) == ([400], True)
    assert statuses(site, kind, LIVE + post(ONE) + message) == ([200, 200, 400], True)


@KINDS
@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_versions_of_http_get_505(site: Site, kind: type[Connection], version: str) -> None:
    assert statuses(site, kind, LIVE.replace(b"1.1", version.encode()) + LIVE) == ([505], True)


@KINDS
def test_trailers_are_no_headers_and_extensions_of_chunks_are_skipped(site: Site, kind: type[Connection]) -> None:
    message = CHUNKED + b"%x;a=b\r\n%b\r\n0\r\ncontent-encoding: gzip\r\n\r\n" % (len(ONE), ONE)

    assert statuses(site, kind, message + LIVE) == ([200, 200], False)


harmless = st.sampled_from(
    ["connection: upgrade", "connection: keep-alive, Upgrade", "upgrade: h2c", "Upgrade: websocket", "connection: close",
     "expect: 100-continue", "x: y", "x-request-id: 7", "accept-encoding: gzip", "content-encoding: identity"]
)  # fmt: skip

CONFLICTING = (
    "content-length: {n}", "Content-Length: {m}", "content-length: {n}, {n}", "transfer-encoding: chunked",
    "Transfer-Encoding: gzip", "transfer-encoding: identity, chunked", " folded", "x : y",
)  # fmt: skip
"""Each of them in addition to a length or to chunks makes a request ambiguous, or is not allowed at all."""

Message = tuple[list[str], bytes, str]
"""Additional headers, body, and how the end of the body is given."""

messages = st.tuples(
    st.lists(st.one_of(harmless, harmless, harmless, st.sampled_from(CONFLICTING)), max_size=4),
    st.sampled_from([ONE, INNER, b"{}", b"0\r\n\r\n"]),
    st.sampled_from(["length", "chunks"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, min_size=1, max_size=3), st.sampled_from(["1.1", "1.1", "1.0"]), st.lists(st.integers(0, 1000)))
@example([(["connection: upgrade", "upgrade: h2c"], INNER, "length"), ([], ONE, "length")], "1.1", [])
@example([(["connection: upgrade", "upgrade: h2c"], INNER, "chunks"), ([], ONE, "chunks")], "1.1", [60])
def test_one_request_has_one_response_on_both_ways_wherever_it_is_split(
    site: Site, sent: list[Message], version: str, places: list[int]
) -> None:
    whole = b"".join(_bytes_of(message, version) for message in sent)
    pieces = cut(whole, places)
    expected: list[int] = []
    is_open = True
    for message in sent:
        if is_open:
            status, is_open = _expected(message, version)
            expected.append(status)

    for kind in (ShortPathProtocol, Connection):
        for parts in ([whole], pieces, [whole[i : i + 1] for i in range(len(whole))]):
            found, is_ended = statuses(site, kind, *parts)
            assert ([status for status in found if status != 100], is_ended) == (expected, not is_open)


def _bytes_of(message: Message, version: str) -> bytes:
    lines, body, framing = message
    own = "content-length: {n}" if framing == "length" else "transfer-encoding: chunked"
    headers = "".join(line.format(n=len(body), m=len(body) + 1) + "\r\n" for line in (own, *lines))
    sent = body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return f"POST {PATH} HTTP/{version}\r\nhost: x\r\n{headers}\r\n".encode() + sent


def _expected(message: Message, version: str) -> tuple[int, bool]:
    """Return the status of the response, and whether the connection remains open."""
    lines, body, framing = message
    if any(line in CONFLICTING for line in lines) or (framing == "chunks" and version == "1.0"):
        return 400, False
    return 200 if body is ONE else 400, version == "1.1" and "connection: close" not in lines


# -- size of the head


@KINDS
def test_a_head_up_to_the_limit_is_taken_and_one_above_it_is_refused(site: Site, kind: type[Connection]) -> None:
    def request(size: int) -> bytes:
        start = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\na: "
        counted = len("/v2/health/live") + len("hostx") + 4 + len("a") + 4
        return start + b"b" * (size - counted) + b"\r\n\r\n"

    for places in ([], [50], [50, 500, 2000]):
        assert statuses(site, kind, *cut(request(2048), places)) == ([200], False)
        assert statuses(site, kind, *cut(request(2049), places)) == ([431], True)


@KINDS
def test_as_many_headers_as_the_limit_are_taken_and_one_more_is_refused(site: Site, kind: type[Connection]) -> None:
    def request(count: int) -> bytes:
        return b"GET /v2/health/live HTTP/1.1\r\n" + b"".join(b"a-%d: b\r\n" % i for i in range(count)) + b"\r\n"

    assert statuses(site, kind, request(20)) == ([200], False)
    assert statuses(site, kind, request(21)) == ([431], True)
    assert statuses(site, kind, *(request(21)[i : i + 9] for i in range(0, len(request(21)), 9))) == ([431], True)


@KINDS
@pytest.mark.parametrize(
    "start",
    [b"GET /" + b"a" * 100, INFER + b"a: b", INFER + b"a: b\r\n" + b"c" * 100, CHUNKED + b"3;a", CHUNKED + b"0\r\na: "],
    ids=["URL", "value", "name", "extension", "trailer"],
)
def test_an_endless_part_is_refused_when_it_exceeds_the_limit(site: Site, kind: type[Connection], start: bytes) -> None:
    async def talk() -> tuple[int, list[int]]:
        client, sent = Client(site, kind), 0
        client.send(start)
        await turns()
        while not client.is_ended:
            client.send(b"a" * 100)
            sent += 100
        return sent, client.statuses

    sent, found = site.run(talk())

    assert found == [431]
    assert sent <= 2048 + 200


@KINDS
def test_a_body_in_the_smallest_chunks_is_not_taken_for_extensions(site: Site, kind: type[Connection]) -> None:
    body = infer_body([1, 2], id="a" * 500)
    chunks = b"".join(b"1\r\n%b\r\n" % body[i : i + 1] for i in range(len(body))) + b"0\r\n\r\n"

    assert statuses(site, kind, CHUNKED, *(chunks[i : i + 30] for i in range(0, len(chunks), 30))) == ([200], False)


# -- timeouts


TIMEOUTS: dict[str, Any] = {"header_timeout_s": 10.0, "timeout_s": 20.0, "keep_alive_s": 30.0, "send_timeout_s": 15.0}


@pytest.fixture(scope="module")
def slow(_inline: None) -> Iterator[Site]:
    with Site({"doubling": doubling()}, max_connections=2, **TIMEOUTS) as site:
        yield site


def after(site: Site, kind: type[Connection], seconds: float, *pieces: bytes, act: Callable[[Client], object] = id) -> Client:
    """Return a client after so many seconds."""

    async def talk() -> Client:
        client = Client(site, kind)
        client.send(*pieces)
        await turns()
        act(client)
        client.pass_time(seconds)
        await turns()
        return client

    return site.run(talk())


@KINDS
@pytest.mark.parametrize(
    ("pieces", "limit_s", "expected"),
    [
        ([b"P"], 10, [408]),
        ([INFER + b"content-le"], 10, [408]),
        ([LIVE, b"GET"], 10, [200, 408]),
        ([post(ONE)[:-1]], 20, [408]),
        ([CHUNKED + b"3\r\na"], 20, [408]),
        ([upgrading("h2c")[:-1]], 20, [408]),
        ([post(ONE)[:-1].replace(b"/doubling/", b"/nothing/")], 20, [404]),  # answered before its body has come
        ([], 30, []),
        ([LIVE], 30, [200]),
        ([post(ONE), b"\r\n"], 30, [200]),
    ],
)  # fmt: skip
def test_a_client_that_is_too_slow_is_answered_and_the_connection_closed(
    slow: Site, kind: type[Connection], pieces: list[bytes], limit_s: int, expected: list[int]
) -> None:
    in_time, late = (after(slow, kind, limit_s + more, *pieces) for more in (-1, 1))

    assert not in_time.is_ended
    assert in_time.statuses == [status for status in expected if status != 408]
    assert late.is_ended
    assert late.statuses == expected


@KINDS
def test_a_refused_body_that_arrives_later_is_not_run(slow: Site, kind: type[Connection]) -> None:
    client = after(slow, kind, 21, post(ONE)[:-1])

    client.protocol.data_received(post(ONE)[-1:] + post(ONE))

    assert client.statuses == [408]


@KINDS
def test_a_client_that_does_not_read_its_response_is_disconnected(slow: Site, kind: type[Connection]) -> None:
    def stop_reading(client: Client) -> None:
        client.transport.unread = 5000

    in_time, late = (after(slow, kind, seconds, post(ONE), act=stop_reading) for seconds in (14, 16))

    assert not in_time.is_ended
    assert late.transport.aborted


def test_a_client_that_reads_a_mebibyte_in_time_may_read_on_and_is_idle_only_afterwards(slow: Site) -> None:
    def read_slowly(client: Client) -> None:
        for left in range(8, -1, -1):
            client.transport.unread = left << 20
            client.pass_time(14 if left else 0)
            assert not client.is_ended

    assert not after(slow, ShortPathProtocol, 29, post(ONE), act=read_slowly).is_ended
    assert after(slow, ShortPathProtocol, 31, post(ONE), act=read_slowly).is_ended


def test_a_request_whose_answer_is_due_and_a_connection_that_the_server_does_not_read_have_all_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1, **TIMEOUTS) as site:

        async def talk() -> list[int]:
            busy = Client(site)
            busy.send(post(infer_body([GATE, 0])))
            await gate.wait_entered()
            busy.pass_time(1000)
            busy.send(LIVE + b"GET")  # the pipelined request waits, and what follows it is not read
            assert not busy.transport.reading
            busy.pass_time(1000)
            assert busy.statuses == []
            gate.opened.set()
            await busy.transport.answers(2)
            busy.pass_time(11)
            return busy.statuses

        assert site.run(talk()) == [200, 200, 408]


def test_time_in_which_the_event_loop_stood_still_does_not_count(slow: Site) -> None:
    client = after(slow, ShortPathProtocol, 7, b"GET")

    client.watch.look(1000.0)

    assert not client.is_ended
    client.watch.look(1001.0)
    assert client.statuses == [408]


def test_a_refusal_comes_after_the_response_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: False)
    gate = Gate()
    with Site({"doubling": gate.model()}, max_batch_size=1, **TIMEOUTS) as site:

        async def talk() -> bytes:
            client = Client(site)
            client.send(post(infer_body([GATE, 0])), CHUNKED + b"x")
            await gate.wait_entered()
            assert client.transport.written == b""
            gate.opened.set()
            return await client.transport.answers(2)

        written = site.run(talk())

    assert re.findall(rb"HTTP/1\.1 (\d+) ", written) == [b"200", b"400"]


# -- number of connections


@KINDS
def test_a_connection_above_the_limit_gets_503_and_the_next_one_after_a_close_is_served(
    slow: Site, kind: type[Connection]
) -> None:
    async def talk() -> list[list[int]]:
        state = ServerState()
        first, second, third = (Client(slow, kind, state) for _ in range(3))
        assert third.transport.closed
        assert json.loads(third.transport.written.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}
        third.protocol.data_received(LIVE)
        for gone in (third, first):
            gone.protocol.connection_lost(None)
        fourth = Client(slow, kind, state)
        for client in (second, fourth):
            client.send(LIVE)
        await turns()
        return [each.statuses for each in (first, second, third, fourth)]

    assert slow.run(talk()) == [[], [200], [503], [200]]


# -- settings


@pytest.mark.parametrize(
    "given", [{"max_header_bytes": 0}, {"max_headers": 0}, {"max_connections": -1}, {"keep_alive_s": 0.0},
              {"header_timeout_s": float("nan")}, {"send_timeout_s": float("inf")}]
)  # fmt: skip
def test_limits_below_their_range_are_errors(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} is "):
        ServeConfig(**given)


def test_every_verdict_but_one_has_a_reason_in_the_log() -> None:
    from nograd.server.http.connection_watch import REASONS

    assert set(REASONS) == set(LimitVerdict) - {LimitVerdict.KEEP}


@KINDS
@pytest.mark.parametrize(
    ("sent", "status", "path"),
    [
        (b"GET /v2?a=b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n", 400, "/v2"),
        (b"GET /v2/models HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431, "/v2/models"),
        (LIVE + b"no request\r\n\r\n", 400, ""),
    ],
)
def test_a_refused_request_is_a_line_of_the_access_log(kind: type[Connection], sent: bytes, status: int, path: str) -> None:
    with Site({"doubling": doubling()}, access_log=True) as site:
        noted: list[Access] = []
        log = site.service.access
        assert log is not None
        log.note = noted.append  # type: ignore[assignment, method-assign]

        async def talk() -> None:
            client = Client(site, kind)
            client.send(sent)
            for _ in range(5):
                await asyncio.sleep(0)

        site.run(talk())
        (line,) = [each for each in noted if each.status == status]
        assert (line.path, line.method) == (path, "-")
        assert line.error
        assert [each.status for each in noted if each is not line] == ([200] if sent.startswith(LIVE) else [])
        site.service.close()
