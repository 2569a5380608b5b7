"""Clients that leave before their answer: noticed, and nothing more is computed for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nograd.server.http.asgi import ClientLeftError, ClientWatch, Receive
from tests.fakes import GATE, Gate, Reply, Site, asgi, doubling, x
from tests.virtual_loop import at, outcome, virtual, virtual_loop


def client(leaves: float | None, asked: list[float] | None = None) -> Receive:
    """ASGI's `receive` of a client that leaves at a time, or never."""

    async def receive() -> dict[str, Any]:
        if asked is not None:
            asked.append(virtual_loop().time())
        if leaves is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(leaves - virtual_loop().time())
        return {"type": "http.disconnect"}

    return receive


async def watched(watch: ClientWatch, receive: Receive, seconds: float) -> str:
    """Work as the application does it."""
    worker = watch.begin(receive)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if watch.has_left(worker):
            raise ClientLeftError from None
        raise
    finally:
        watch.end(worker)
    return "answer"


@virtual
async def test_work_is_cancelled_when_its_client_leaves_and_nobody_elses() -> None:
    watch = ClientWatch()

    gone, stays, late = await asyncio.gather(
        outcome(watched(watch, client(leaves=1.0), 5.0)),
        outcome(watched(watch, client(leaves=None), 5.0)),
        outcome(at(0.5, watched(watch, client(leaves=2.0), 5.0))),
    )

    assert [gone[0], stays[0], late[0]] == pytest.approx([1.0, 5.0, 2.0])
    assert stays[1] == "answer"
    assert isinstance(gone[1], ClientLeftError)
    assert isinstance(late[1], ClientLeftError)


@virtual
async def test_a_client_that_had_left_before_is_noticed_soon() -> None:
    ended, error = await outcome(watched(ClientWatch(), client(leaves=0.0), 5.0))

    assert isinstance(error, ClientLeftError)
    assert ended < 0.1


@virtual
async def test_a_quick_answer_costs_no_watching_and_leaves_no_timer() -> None:
    watch, asked = ClientWatch(), list[float]()

    for _ in range(100):
        assert await watched(watch, client(None, asked), 0.001) == "answer"
    await asyncio.sleep(1.0)

    assert asked == []
    assert virtual_loop().pending_timers() == []


@virtual
async def test_work_that_others_cancel_is_cancelled_and_not_left() -> None:
    work = asyncio.create_task(watched(ClientWatch(), client(None), 5.0))
    await asyncio.sleep(1.0)
    work.cancel()

    _, error = await outcome(asyncio.wait_for(work, 1.0))

    assert isinstance(error, asyncio.CancelledError)
    assert len(asyncio.all_tasks()) == 1  # nobody watches any more


@virtual
async def test_nothing_is_kept_of_a_client_that_left() -> None:
    watch = ClientWatch()

    await outcome(watched(watch, client(leaves=1.0), 5.0))
    ended, answer = await outcome(watched(watch, client(leaves=None), 1.0))

    assert ended == pytest.approx(2.02, abs=0.03)
    assert answer == "answer"


def infer_body(*row: float) -> bytes:
    return json.dumps({"inputs": [x(row)]}).encode()


@pytest.mark.parametrize("leave", [lambda: asyncio.sleep(0), lambda: asyncio.sleep(0.001)], ids=["at once", "later"])
def test_a_client_that_leaves_while_it_waits_never_reaches_the_device(leave: Callable[[], Awaitable[None]]) -> None:
    gate = Gate()
    model = gate.model()
    with Site({"gated": model}) as site:
        warm = len(model.runs)

        async def traffic() -> tuple[Reply | None, Reply | None]:
            running = asyncio.create_task(asgi(site.app, "POST", "/v2/models/gated/infer", infer_body(GATE, 0)))
            await gate.wait_entered()
            left = await asgi(site.app, "POST", "/v2/models/gated/infer", infer_body(7, 7), left=leave())
            gate.opened.set()
            return await running, left

        answered, left = site.run(traffic())

    assert left is None
    assert answered is not None
    assert answered.status == 200
    assert [batch["x"].tolist() for batch in model.runs[warm:]] == [[[GATE, 0]]]


def test_a_client_that_leaves_while_it_sends_gets_no_answer() -> None:
    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def never(message: Any) -> None:
        raise AssertionError("nobody is there")

    path = "/v2/models/doubling/infer"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
    with Site({"doubling": doubling()}) as site:
        site.run(site.app(scope, leave, never))
        assert site.get("/live.json").json["models"][0]["totals"]["requests"] == 0
