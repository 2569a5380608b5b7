"""Liveness fails where only a restart helps: a device that hangs, or is lost; and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import Signature
from nograd.batching import RunningBatch
from nograd.core.tensors import Batch
from nograd.server.grpc.messages import SERVICE, ServerLiveRequest, ServerLiveResponse
from nograd.server.models.liveness import FIRST_TIMES, TIMES, stuck, stuck_after
from tests.fakes import GATE, OUTPUT, Fake, Gate, Reply, Site, X, asgi, doubling, x
from tests.grpc_site import GrpcSite
from tests.test_short_path import infer_body
from tests.virtual_loop import Device, virtual, virtual_loop

LIVE, READY = "/v2/health/live", "/v2/health/ready"

# -- the rule


@pytest.mark.parametrize(
    ("predicted_s", "is_first", "limit_s"),
    [(0.0, False, 30), (0.01, False, 30), (1.5, False, 30), (2.0, False, 40), (0.0, True, 300), (2.0, True, 400)],
)
def test_a_run_is_stuck_after_the_time_that_is_set_or_many_times_its_prediction(
    predicted_s: float, is_first: bool, limit_s: float
) -> None:
    assert stuck_after(predicted_s, 30, is_first=is_first) == limit_s
    assert stuck([RunningBatch(limit_s, predicted_s)], 30, is_first=is_first) == ""
    assert stuck([RunningBatch(limit_s * 1.01, predicted_s)], 30, is_first=is_first) != ""


def test_what_is_wrong_is_said_with_figures() -> None:
    running = [RunningBatch(0.1, 0.2), RunningBatch(45.0, 0.2)]

    assert stuck(running, 30, is_first=False) == "a batch has run for 45 s, predicted 0.2 s; it counts as stuck after 30 s"
    assert stuck([RunningBatch(31, 0)], 30, is_first=False) == "a batch has run for 31 s; it counts as stuck after 30 s"


@given(st.floats(0, 100), st.floats(0.001, 100), st.floats(0, 19))
def test_a_run_within_many_times_its_prediction_is_never_stuck(predicted_s: float, least_s: float, times: float) -> None:
    assert stuck([RunningBatch(predicted_s * times, predicted_s)], least_s, is_first=False) == ""


def test_the_first_batch_may_take_longer() -> None:
    assert (TIMES, FIRST_TIMES) == (20, 10)
    assert stuck([RunningBatch(200.0, 0.01)], 30, is_first=True) == ""
    assert stuck([], 30, is_first=True) == ""


# -- the batcher knows what runs


@virtual
async def test_a_batcher_says_how_long_its_batches_have_run() -> None:
    device = Device(seconds=3.0)
    async with device.batcher() as batcher:
        assert batcher.running() == []
        asked = asyncio.create_task(batcher.predict([[1.0]]))
        await asyncio.sleep(2)
        assert batcher.running() == [RunningBatch(2.0, 0.0)]
        await asked
        assert batcher.running() == []
    assert virtual_loop().time() == 3.0


# -- the server


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_clock(site: Site, model: str) -> Clock:
    """Give a model's batcher a clock of the test's."""
    clock = Clock()
    engine: Any = site.service.model(model)._engine
    batcher = engine.batcher
    batcher._clock = clock
    return clock


async def get(site: Site, path: str) -> Reply:
    reply = await asgi(site.app, "GET", path)
    assert reply is not None
    return reply


async def infer(site: Site, *rows: list[float]) -> Reply | None:
    return await asgi(site.app, "POST", "/v2/models/gated/infer", infer_body(*rows, parameters={"timeout": 10_000_000_000}))


def test_a_device_that_hangs_fails_liveness_and_readiness_until_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with Site({"gated": gate.model()}, stuck_after_s=5.0) as site, caplog.at_level(logging.WARNING):

        async def hang() -> list[Reply]:
            clock = with_clock(site, "gated")
            await infer(site, [1, 1])  # no batch is the first any more
            asked = asyncio.create_task(infer(site, [GATE, 1]))
            await gate.wait_entered()
            clock.now += 4.9
            found = [await get(site, LIVE), await get(site, READY)]
            clock.now += 0.2
            found += [await get(site, LIVE), await get(site, READY), await get(site, LIVE)]
            gate.opened.set()
            await asked
            return [*found, await get(site, LIVE), await get(site, READY)]

        good, good_ready, stuck_live, stuck_ready, _again, live, ready = site.run(hang())

    assert [(each.status, each.json) for each in (good, good_ready, live, ready)] == [
        (200, {"live": True}),
        (200, {"ready": True, "live": True}),
    ] * 2
    assert stuck_live.status == 503
    assert stuck_live.json["live"] is False
    assert stuck_live.json["error"].startswith("model 'gated': a batch has run for 5 s, predicted ")
    assert (stuck_ready.status, stuck_ready.json) == (503, {"ready": False, "live": False, "error": stuck_live.json["error"]})
    told = [(record.msg, record.fields) for record in caplog.records if hasattr(record, "fields")]
    assert [name for name, _ in told] == ["not_live", "live_again"]
    assert "pass_through" in told[0][1]["stacks"]  # where it hangs


def test_a_first_batch_that_is_slow_is_no_alarm() -> None:
    gate = Gate()
    with Site({"gated": gate.model()}, stuck_after_s=5.0) as site:

        async def slow() -> list[int]:
            clock = with_clock(site, "gated")
            asked = asyncio.create_task(infer(site, [GATE, 1]))
            await gate.wait_entered()
            clock.now += 49
            statuses = [(await get(site, LIVE)).status]
            clock.now += 2
            statuses.append((await get(site, LIVE)).status)
            gate.opened.set()
            await asked
            return statuses

        assert site.run(slow()) == [200, 503]


def losing(cause: str = "CUDA error: an illegal memory access was encountered") -> Fake:
    def run(batch: Batch) -> Batch:
        if (batch["x"] == 13).any():
            raise RuntimeError(cause)
        return {"output": batch["x"] * 2}

    return Fake(run, Signature((X,), (OUTPUT,), reason="rows are independent"))


def test_a_device_that_is_lost_fails_liveness() -> None:
    with Site({"losing": losing(), "other": doubling()}) as site:
        assert site.get(LIVE).status == 200
        assert site.infer("losing", x([13, 1])).status == 503
        lost, ready, later = site.get(LIVE), site.get(READY), site.infer("losing", x([1, 1]))
        assert site.infer("other", x([1, 1])).status == 200
        page = site.get("/live.json").json

    cause = "the device is lost: CUDA error: an illegal memory access was encountered"
    said = f"model 'losing': device lost, restart needed ({cause})"
    assert (lost.status, lost.json) == (503, {"live": False, "error": said})
    assert (ready.status, ready.json) == (503, {"ready": False, "live": False, "error": said})
    assert (later.status, later.json) == (503, {"error": said})
    assert page["server"]["lost"]
    assert [model.get("state") for model in page["models"]] == ["lost", None]


def test_the_loss_of_a_device_is_logged_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with Site({"losing": losing("CUDA error: device-side assert triggered")}) as site, caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert site.infer("losing", x([13, 1])).status == 503
    (record,) = [each for each in caplog.records if each.msg == "request_failed"]
    assert record.fields["request"] == "model 'losing': device lost, restart needed"  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert "device-side assert" in str(record.exc_info[1])


def test_a_server_that_warms_up_or_drains_is_live() -> None:
    with Site({"doubling": doubling()}, started=False) as site:
        warming = site.get(LIVE).status, site.get(READY).status
        site.run(site.service.start())
        site.service.drain()
        draining = site.get(LIVE).status, site.get(READY).status
        site.run(site.service.stop())

    assert (warming, draining) == ((200, 503), (200, 503))


def test_grpc_says_the_same() -> None:
    with GrpcSite({"losing": losing()}) as site:

        def live() -> bool:
            body = site.run(site.bytes_call(ServerLiveRequest().SerializeToString(), f"/{SERVICE}/ServerLive"))
            return bool(ServerLiveResponse.FromString(body).live)

        before = live()
        site.infer("losing", x([13, 1]))
        after = live()

    assert (before, after) == (True, False)
