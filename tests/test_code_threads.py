"""User code runs in a model's own threads: the event loop, other models and probes never wait for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nograd import Predictor, TensorSpec
from nograd.errors import DeadlineError, ModelError, OverloadedError, UnavailableError
from nograd.server.models.code_threads import CodeThreads
from tests.fakes import Site, asgi, doubling, tensor, x
from tests.test_service import Letters, lengths, texts
from tests.waiting import HANG_S

LIVE = "/v2/health/live"


class Held:
    """A function that waits at its door, if its argument says so, and knows the threads that called it."""

    item = TensorSpec("text", "bytes")

    def __init__(self, function: Callable[[Any], Any], *, stops_at: Callable[[Any], bool]) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.threads: set[int] = set()
        self.calls: list[Any] = []
        self._function, self._stops_at = function, stops_at

    def __call__(self, value: Any) -> Any:
        self.threads.add(threading.get_ident())
        self.calls.append(value)
        if self._stops_at(value):
            self.entered.set()
            assert self.opened.wait(HANG_S)
        return self._function(value)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 20)


def held_preprocess() -> Held:
    return Held(Letters(), stops_at=lambda text: text == "wait")


async def wait_items(site: Site, count: int) -> None:
    """Return when so many items wait for a thread."""
    while site.service.model("m").snapshot()["code"]["waiting_items"] != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


def infer(site: Site, model: str, *inputs: dict[str, Any], **more: Any) -> Any:
    """Return a coroutine with the reply to an infer call."""
    return asgi(site.app, "POST", f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **more}).encode())


@pytest.mark.parametrize("stage", ["preprocess", "postprocess"])
@pytest.mark.parametrize("cache_mb", [0, 1])
def test_probes_and_other_models_are_answered_while_user_code_waits(stage: str, cache_mb: int) -> None:
    held = held_preprocess() if stage == "preprocess" else Held(float, stops_at=lambda row: row["length"] == len("wait"))
    preprocess = held if stage == "preprocess" else Letters()
    postprocess = held if stage == "postprocess" else None
    if postprocess is not None:
        held._function = lambda row: float(row["length"])
    slow = Predictor(lengths(), preprocess=preprocess, postprocess=postprocess, sample=["abc"])

    async def meanwhile(site: Site) -> None:
        waiting = asyncio.ensure_future(infer(site, "slow", texts("wait")))
        await held.wait_entered()
        for answer in (asgi(site.app, "GET", LIVE), asgi(site.app, "GET", "/metrics"), infer(site, "other", x([1, 2]))):
            reply = await answer
            assert reply is not None
            assert reply.status == 200
        assert not waiting.done()
        held.opened.set()
        reply = await waiting
        assert reply.status == 200
        assert reply.json["outputs"][0]["data"] == [4]

    with Site({"slow": slow, "other": doubling()}, cache_mb=cache_mb) as site:
        held.threads.clear()
        site.run(meanwhile(site))
        assert threading.get_ident() not in held.threads  # the event loop's thread
        assert len(held.threads) == 1


def test_a_preprocess_is_called_by_one_thread_at_a_time() -> None:
    inside, most = 0, 0

    def count(text: str) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        row = Letters()(text)
        inside -= 1
        return row

    async def many(site: Site) -> list[Any]:
        return list(await asyncio.gather(*(infer(site, "m", texts("ab", "abc")) for _ in range(50))))

    predictor = Predictor(lengths(), preprocess=count, postprocess=lambda row: row["length"] + 0.0, sample=["abc"])
    with Site({"m": predictor}) as site:
        assert [reply.json["outputs"][0]["data"] for reply in site.run(many(site))] == [[2, 3]] * 50
    assert most == 1


def test_a_preprocess_that_hangs_is_answered_with_504_and_counted_and_fails_liveness() -> None:
    held = held_preprocess()
    with Site({"m": Predictor(lengths(), preprocess=held, sample=["abc"])}, stuck_after_s=0.001) as site:
        reply = site.infer("m", texts("wait"), parameters={"timeout": 20_000})
        assert reply.status == 504
        assert "no answer within 0.0" in reply.error
        live = site.get(LIVE)
        assert live.status == 503
        assert "model 'm': preprocess has run for 0 s and occupies its thread" in live.json["error"]
        (code,) = [model["code"] for model in site.get("/live.json").json["models"]]
        assert (code["threads"], code["stuck"], code["overdue"]) == (1, 1, 1)
        metrics = site.get("/metrics").body.decode()
        assert 'nograd_code_threads_stuck{model="m"} 1.0' in metrics
        assert 'nograd_code_overdue_total{model="m"} 1.0' in metrics

        held.opened.set()
        assert site.infer("m", texts("ab")).data("length") == [2]
        assert site.get(LIVE).status == 200


def test_liveness_holds_while_one_of_two_threads_works() -> None:
    held = held_preprocess()
    predictor = Predictor(lengths(), preprocess=held, sample=["abc"])
    with Site({"m": predictor}, stuck_after_s=0.001, preprocess_threads=2) as site:
        assert site.infer("m", texts("wait"), parameters={"timeout": 20_000}).status == 504
        assert site.get(LIVE).status == 200
        assert site.infer("m", texts("ab")).data("length") == [2]
        assert site.infer("m", texts("wait"), parameters={"timeout": 20_000}).status == 504
        assert "occupies all 2 threads" in site.get(LIVE).json["error"]
        held.opened.set()


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_full_queue_refuses_with_503_and_a_waiting_request_that_leaves_makes_room(cache_mb: int) -> None:
    held = held_preprocess()

    async def main(site: Site) -> None:
        first = asyncio.ensure_future(infer(site, "m", texts("wait")))
        await held.wait_entered()
        second = asyncio.ensure_future(infer(site, "m", texts("a", "b", "c")))
        await wait_items(site, 3)
        refused = await infer(site, "m", texts("d", "e"))
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert "3 items of at most 4 wait for preprocessing" in refused.error
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await wait_items(site, 0)
        third = asyncio.ensure_future(infer(site, "m", texts("d", "e")))
        held.opened.set()
        assert [reply.status for reply in await asyncio.gather(first, third)] == [200, 200]
        assert {"a", "b", "c"}.isdisjoint(held.calls)

    with Site({"m": Predictor(lengths(), preprocess=held, sample=["xyz"])}, max_queue_rows=4, cache_mb=cache_mb) as site:
        site.run(main(site))


def test_a_request_whose_time_is_up_is_not_prepared_further() -> None:
    held = held_preprocess()
    with Site({"m": Predictor(lengths(), preprocess=held, sample=["abc"])}) as site:
        assert site.infer("m", texts("wait", "later", "last"), parameters={"timeout": 20_000}).status == 504
        held.opened.set()
        assert site.infer("m", texts("ab")).status == 200
    assert "later" not in held.calls
    assert "last" not in held.calls


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("stage", ["preprocess", "postprocess"])
def test_any_exception_of_user_code_fails_one_request(kind: type[BaseException], stage: str) -> None:
    def before(text: str) -> Any:
        if text == "bad" and stage == "preprocess":
            raise kind
        return Letters()(text)

    def after(row: Any) -> float:
        if row["length"] == len("bad") and stage == "postprocess":
            raise kind
        return float(row["length"])

    with Site({"m": Predictor(lengths(), preprocess=before, postprocess=after, sample=["ab"])}) as site:
        reply = site.infer("m", texts("bad"))
        assert reply.status == (400 if stage == "preprocess" else 500)
        assert f"{stage} raised " in reply.error
        assert kind.__name__ in reply.error
        assert site.infer("m", texts("good")).json["outputs"][0]["data"] == [4]


def test_server_timing_has_the_time_of_preprocess_with_and_without_a_cache() -> None:
    class Named(Letters):
        def fingerprint(self) -> str:
            return "letters"

    for preprocess in (Letters(), Named()):
        with Site({"m": Predictor(lengths(), preprocess=preprocess, sample=["abc"])}, cache_mb=1) as site:
            body = json.dumps({"inputs": [texts("ab")]}).encode()
            reply = site.request("POST", "/v2/models/m/infer", body, headers={"x-server-timing": "1"})
            stages = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", ") if ";dur=" in part)
            assert float(stages["prepare"]) > 0


# -- the threads alone


def test_work_that_finishes_a_request_goes_first_and_is_never_refused() -> None:
    order: list[str] = []
    entered, opened = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert opened.wait(HANG_S)

    async def main() -> None:
        threads = CodeThreads("m", max_items=1)
        calls = [asyncio.ensure_future(threads.run(hold, "preprocess", timeout_s=None))]
        assert await asyncio.to_thread(entered.wait, 20)
        for name, is_finishing in (("begin", False), ("finish", True)):
            work = threads.run(lambda name=name: order.append(name), name, timeout_s=None, is_finishing=is_finishing)  # type: ignore[misc]
            calls.append(asyncio.ensure_future(work))
            await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await threads.run(hold, "preprocess", timeout_s=None)
        opened.set()
        await asyncio.gather(*calls)
        threads.close()

    asyncio.run(main())
    assert order == ["finish", "begin"]


def test_closing_fails_the_calls_that_wait_and_refuses_new_ones() -> None:
    entered, opened = threading.Event(), threading.Event()

    def hold() -> str:
        entered.set()
        assert opened.wait(HANG_S)
        return "done"

    async def main() -> None:
        threads = CodeThreads("m")
        running = asyncio.ensure_future(threads.run(hold, "preprocess", timeout_s=None))
        assert await asyncio.to_thread(entered.wait, 20)
        waiting = asyncio.ensure_future(threads.run(hold, "preprocess", timeout_s=None))
        await asyncio.sleep(0)
        threads.close()
        with pytest.raises(UnavailableError, match="was stopped"):
            await waiting
        with pytest.raises(UnavailableError, match="was stopped"):
            await threads.run(hold, "preprocess", timeout_s=None)
        opened.set()
        assert await running == "done"

    asyncio.run(main())


def test_a_call_whose_time_is_up_before_it_begins_never_runs() -> None:
    async def main() -> None:
        threads = CodeThreads("m")
        with pytest.raises(DeadlineError):
            await threads.run(lambda: pytest.fail("it ran"), "preprocess", timeout_s=0.0)
        threads.close()

    asyncio.run(main())


def test_what_is_no_exception_becomes_a_model_error() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        threads = CodeThreads("m")
        with pytest.raises(ModelError, match="decode raised SystemExit: 3"):
            await threads.run(leave, "decode", timeout_s=None)
        assert await threads.run(lambda: 1, "decode", timeout_s=None) == 1
        threads.close()

    asyncio.run(main())


def test_threads_end_when_their_model_is_dropped() -> None:
    async def main() -> None:
        threads = CodeThreads("dropped", threads=2)
        await threads.run(lambda: None, "preprocess", timeout_s=None)

    def alive() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("nograd-code-dropped")]

    asyncio.run(main())
    for thread in alive():
        thread.join(20)
    assert not alive()


def test_items_of_numbers_are_prepared_in_threads_too() -> None:
    held = Held(lambda row: {"x": row}, stops_at=lambda row: bool(row[0] == 7))
    predictor = Predictor(doubling(), preprocess=held, sample=[[1.0, 2.0]], item=TensorSpec("row", "float32", (2,)))

    async def main(site: Site) -> None:
        waiting = asyncio.ensure_future(infer(site, "m", tensor("row", "FP32", [1, 2], [7, 1])))
        await held.wait_entered()
        reply = await asgi(site.app, "GET", LIVE)
        assert reply is not None
        assert reply.status == 200
        held.opened.set()
        assert (await waiting).data() == [14, 2]

    with Site({"m": predictor}) as site:
        site.run(main(site))
