"""The access log: every request, however it comes; bounded; whole at the end."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from nograd.server.http.app import App
from nograd.server.http.connection import Connection
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.telemetry.access_log import Access, AccessLog
from tests.fakes import GATE, Gate, Site, asgi, doubling, x
from tests.test_short_path import Wire, infer_body, post
from tests.virtual_loop import virtual, virtual_loop
from tests.waiting import HANG_S

PATH = "/v2/models/doubling/infer"


class Lines:
    """Keeps what is written; a gate may hold it back."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.entered = threading.Event()

    def write(self, text: str) -> None:
        self.entered.set()
        assert self.may_write.wait(HANG_S)
        self.written.append(text)

    @property
    def accesses(self) -> list[dict[str, Any]]:
        return [json.loads(line) for text in self.written for line in text.splitlines()]


def access(number: int) -> Access:
    return Access(0.0, "http", "GET", f"/{number}", None, None, 200, 0.001, None, 2, "127.0.0.1", None, None)


@virtual
async def test_accesses_are_written_together_in_order_and_nothing_wakes_without_them() -> None:
    lines = Lines()
    log = AccessLog("json", lines.write)
    log.open()
    assert virtual_loop().pending_timers() == []

    for number in range(3):
        log.note(access(number))
    assert len(virtual_loop().pending_timers()) == 1
    log.close()

    assert [each["path"] for each in lines.accesses] == ["/0", "/1", "/2"]
    assert len(lines.written) == 1
    assert virtual_loop().pending_timers() == []


@virtual
async def test_where_nobody_takes_the_lines_the_rest_is_dropped_counted_and_told() -> None:
    lines = Lines()
    lines.may_write.clear()
    log = AccessLog("json", lines.write, limit=4)
    log.open()
    for number in range(4):
        log.note(access(number))
    log._hand_over()
    assert lines.entered.wait(HANG_S)
    for number in range(4, 9):
        log.note(access(number))
    assert log.dropped == 5

    lines.may_write.set()
    log.close()

    *first, told = lines.accesses
    assert [each["path"] for each in first] == ["/0", "/1", "/2", "/3"]
    assert (told["event"], told["lines"], told["level"]) == ("access_log_dropped", 5, "warning")


@virtual
async def test_a_stderr_that_is_gone_costs_lines_and_no_answers() -> None:
    def write(text: str) -> None:
        raise BrokenPipeError

    log = AccessLog("json", write)
    log.open()
    log.note(access(1))
    log._hand_over()
    log.note(access(2))
    log.close()

    assert log.dropped == 2


def logged(site: Site, lines: Lines) -> list[dict[str, Any]]:
    """End the log; return its lines, without what differs from run to run."""

    async def close() -> None:
        site.service.close()

    site.run(close())
    for each in lines.accesses:
        assert each["event"] == "access"
        assert each["time"].endswith("Z")
        assert each["ms"] >= 0
    changing = ("event", "time", "ms")
    return [{key: value for key, value in each.items() if key not in changing} for each in lines.accesses]


class LoggedSite(Site):
    """A site whose access log is in `lines`."""

    def __init__(self, models: Any, **settings: Any) -> None:
        super().__init__(models, access_log=True, **settings)
        self.lines = Lines()
        self.service.access = AccessLog("json", self.lines.write)


def test_every_request_is_a_line_with_its_status_and_what_the_client_was_told() -> None:
    body = infer_body([1, 2], id="mine")
    with LoggedSite({"doubling": doubling()}) as site:
        assert site.request("POST", PATH, body).status == 200
        assert site.request("POST", PATH, b"{").status == 400
        assert site.get("/v2/health/live").status == 200
        assert site.get("/nowhere").status == 404
        found = logged(site, site.lines)

    good, bad, live, nowhere = found
    assert good == {
        "level": "info", "protocol": "http", "method": "POST", "path": PATH, "model": "doubling", "id": "mine", "status": 200,
        "bytes_in": len(body), "bytes_out": good["bytes_out"],
    }  # fmt: skip
    assert (bad["status"], bad["model"], "id" in bad) == (400, "doubling", False)
    assert bad["error"].startswith("the body is not an inference request: ")
    assert (live["path"], live["status"], live["bytes_out"]) == ("/v2/health/live", 200, len(b'{"live":true}'))
    assert nowhere["status"] == 404
    assert nowhere["error"].startswith("there is nothing at /nowhere; ")


@pytest.mark.parametrize("kind", [Connection, ShortPathProtocol])
def test_the_short_path_says_what_the_ordinary_one_says(kind: type[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.batching.batcher._is_quick", lambda *_: True)
    requests = [post(infer_body([1, 2])), post(infer_body([1, 2], id="mine")), post(b"{"), post(infer_body([1, 2], [3, 4]))]
    with LoggedSite({"doubling": doubling()}) as site:

        async def talk() -> None:
            wire = Wire(site, kind)
            for number, request in enumerate(requests, 1):
                wire.protocol.data_received(request)
                await wire.transport.answers(number)
            wire.protocol.connection_lost(None)

        site.run(talk())
        found = logged(site, site.lines)

    assert [(each["status"], each.get("id"), each["model"], each["bytes_in"]) for each in found] == [
        (200, "1", "doubling", len(infer_body([1, 2]))),
        (200, "mine", "doubling", len(infer_body([1, 2], id="mine"))),
        (400, None, "doubling", 1),
        (200, "2", "doubling", len(infer_body([1, 2], [3, 4]))),
    ]
    assert {(each["protocol"], each["method"], each["path"]) for each in found} == {("http", "POST", PATH)}


def test_the_id_in_the_log_is_the_answers_own_though_others_are_answered_meanwhile() -> None:
    with LoggedSite({"doubling": doubling()}, max_batch_size=4) as site:

        async def many() -> list[str]:
            bodies = [infer_body([float(i), 0.0], id=f"id-{i}") for i in range(30)]
            replies = await asyncio.gather(*(asgi(site.app, "POST", PATH, body) for body in bodies))
            return [reply.json["id"] for reply in replies if reply is not None]

        ids = site.run(many())
        found = logged(site, site.lines)

    assert sorted(each["id"] for each in found) == sorted(ids)


def test_a_client_that_leaves_is_499() -> None:
    gate = Gate()
    with LoggedSite({"gated": gate.model()}) as site:

        async def leave() -> None:
            left = asyncio.Event()
            asked = asyncio.create_task(
                asgi(site.app, "POST", "/v2/models/gated/infer", infer_body([GATE, 1]), left=left.wait())
            )
            await gate.wait_entered()
            left.set()
            assert await asked is None
            gate.opened.set()

        site.run(leave())
        (line,) = logged(site, site.lines)

    assert (line["status"], line["model"], line["bytes_out"], "id" in line) == (499, "gated", 0, False)


def test_without_the_option_there_is_no_log_and_no_thread() -> None:
    with Site({"doubling": doubling()}) as site:
        assert site.infer("doubling", x([1, 2])).status == 200
        assert site.service.access is None
        assert not [each for each in threading.enumerate() if each.name == "nograd-access-log"]


def test_the_app_alone_ends_its_log_with_its_lifespan() -> None:
    coming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def live(app: App) -> list[str]:
        sent: list[str] = []
        started = asyncio.Event()

        async def receive() -> Any:
            if len(coming) == 1:
                await asgi(app, "GET", "/v2/health/live")
            return coming.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])
            started.set()

        await app({"type": "lifespan"}, receive, send)
        return sent

    with LoggedSite({"doubling": doubling()}, started=False) as site:
        assert site.run(live(site.app)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [each["path"] for each in site.lines.accesses] == ["/v2/health/live"]
