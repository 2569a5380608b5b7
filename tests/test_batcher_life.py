"""A DynamicBatcher's life: open, drained, closed; and what it tells of itself."""

from __future__ import annotations

import asyncio
import threading
import weakref

import numpy as np
import pytest

from nograd import Backend, DynamicBatcher, Predictor, Signature
from nograd.batching import BatchRecord, Execution
from nograd.core.tensors import Batch
from nograd.errors import UnavailableError
from tests.fakes import OUTPUT, X
from tests.virtual_loop import Device, at, outcome, run, statistics_of, virtual, virtual_loop


def rows(*values: float) -> list[list[float]]:
    return [[value] for value in values]


# -- open and closed


@virtual
async def test_the_first_request_opens_a_batcher_outside_of_async_with() -> None:
    batcher = Device().batcher()
    states = [batcher.is_open]

    assert await batcher.predict(rows(1)) == [[2]]
    states.append(batcher.is_open)
    async with batcher as same:  # a batcher that opened itself can still be used in a block
        assert same is batcher
    assert [*states, batcher.is_open] == [False, True, False]


@virtual
async def test_a_closed_batcher_refuses_and_cannot_be_opened_again() -> None:
    async with Device().batcher() as batcher:
        pass

    with pytest.raises(UnavailableError, match="closed"):
        await batcher.predict(rows(1))
    with pytest.raises(UnavailableError, match="this batcher is closed; make a new one"):
        await batcher.__aenter__()


@virtual
async def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_batch_size=1, max_wait_ms=60_000) as batcher:
        accepted = [asyncio.create_task(outcome(batcher.predict(rows(value)))) for value in range(3)]
        await asyncio.sleep(0.5)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.25)
        with pytest.raises(UnavailableError, match="draining"):
            await batcher.predict(rows(9))
        await closing
        assert virtual_loop().time() == 3.0

    assert await asyncio.gather(*accepted) == [(1.0, [[0]]), (2.0, [[2]]), (3.0, [[4]])]


@virtual
async def test_closing_does_not_wait_for_a_window() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_wait_ms=60_000) as batcher:
        answer = asyncio.create_task(batcher.predict(rows(1)))
        await asyncio.sleep(0.5)

    assert await answer == [[2]]
    assert (virtual_loop().time(), batcher.statistics().reasons) == (1.5, {"draining": 1})


@virtual
async def test_after_the_grace_what_waits_is_refused_and_what_runs_is_answered() -> None:
    device = Device(seconds=8.0)
    async with device.batcher(max_batch_size=1) as batcher:
        running, waiting = (asyncio.create_task(outcome(batcher.predict(rows(value)))) for value in (1, 2))
        await asyncio.sleep(0.5)
        await batcher.close(grace_s=2.0)

    assert await running == (8.0, [[2]])
    refused, error = await waiting
    assert (refused, str(error)) == (2.5, "the server stopped before this request's turn (grace 2 s)")
    assert isinstance(error, UnavailableError)
    assert device.batches == [[1]]


@virtual
async def test_closing_twice_is_closing_once() -> None:
    async with Device().batcher() as batcher:
        answer = asyncio.create_task(batcher.predict(rows(1)))
        await asyncio.sleep(0.5)
        await asyncio.gather(batcher.close(), batcher.close())
        assert answer.done()
        await batcher.close()

    assert await answer == [[2]]


@virtual
async def test_a_closed_batcher_has_no_thread_left() -> None:
    before = threading.active_count()
    async with Device(lanes=3).batcher() as batcher:
        await batcher.predict(rows(1))
    await virtual_loop().shutdown_default_executor()

    assert threading.active_count() == before


@virtual
async def test_an_error_in_the_body_still_answers_what_was_accepted() -> None:
    batcher = await Device().batcher().__aenter__()
    answer = asyncio.create_task(batcher.predict(rows(1)))
    await asyncio.sleep(0)
    await batcher.__aexit__(KeyError, KeyError("the user's"), None)

    assert await answer == [[2]]


def test_a_batcher_whose_loop_was_closed_under_it_does_not_keep_the_process() -> None:
    async def forgets_to_close() -> DynamicBatcher:
        batcher = await Device().batcher().__aenter__()
        await batcher.predict(rows(1))
        return batcher

    batcher = run(forgets_to_close())
    assert statistics_of(batcher) == {"requests": 1, "rows": 1, "batches": 1}


# -- idle


@pytest.mark.parametrize("max_wait_ms", [0.0, 500.0])
@virtual
async def test_an_idle_batcher_has_no_timer(max_wait_ms: float) -> None:
    async with Device().batcher(max_wait_ms=max_wait_ms) as batcher:
        assert virtual_loop().pending_timers() == []
        await asyncio.gather(batcher.predict(rows(1), timeout_s=30.0), batcher.predict(rows(2)))
        await outcome(batcher.predict(rows(3), timeout_s=0.25))
        cancelled = asyncio.create_task(batcher.predict(rows(4), timeout_s=30.0))
        await asyncio.sleep(0.25)
        cancelled.cancel()
        await asyncio.sleep(8.0)
        assert virtual_loop().pending_timers() == []


# -- what it tells


@virtual
async def test_every_batch_is_told_to_the_observer() -> None:
    records: list[BatchRecord] = []
    device = Device(seconds=1.0, poison={13.0})
    async with device.batcher(max_batch_size=4, observer=records.append) as batcher:
        await asyncio.gather(
            batcher.predict(rows(1)),
            at(0.25, batcher.predict([[2, 2, 2, 2]])),
            at(0.5, outcome(batcher.predict([[13]]))),
        )

    assert records == [
        BatchRecord(
            rows=1,
            requests=1,
            reason="device free",
            run_s=1.0,
            waited_s=(0.0,),
            padding_share=0.0,
            failed=0,
            executions=(Execution(1, input_s=0.0, infer_s=1.0, output_s=0.0),),
            answered_s=(0.0,),
        ),
        BatchRecord(
            2,
            2,
            "device free",
            run_s=3.0,
            waited_s=(0.75, 0.5),
            padding_share=3 / 8,
            failed=1,
            runs=3,
            longest=4,
            executions=(Execution(1, input_s=1.0, infer_s=1.0, output_s=1.0),),
            answered_s=(0.75,),
        ),
    ]


@pytest.mark.parametrize(
    ("size", "max_wait_ms", "reasons"),
    [
        (8, 0.0, {"device free": 2}),
        (2, 0.0, {"full": 1, "device free": 1}),
        (8, 500.0, {"waited": 1}),
        (2, 500.0, {"full": 1, "waited": 1}),
    ],
)
@virtual
async def test_every_batch_has_the_reason_of_its_release(size: int, max_wait_ms: float, reasons: dict[str, int]) -> None:
    async with Device().batcher(max_batch_size=size, max_wait_ms=max_wait_ms) as batcher:
        await asyncio.gather(batcher.predict(rows(1)), batcher.predict(rows(2)), at(0.25, batcher.predict(rows(3))))

    assert batcher.statistics().reasons == reasons


@virtual
async def test_statistics_tell_what_waits_and_what_runs() -> None:
    async with Device().batcher(max_batch_size=4) as batcher:
        work = [asyncio.create_task(batcher.predict(rows(*range(count)))) for count in (3, 2, 2)]
        await asyncio.sleep(0.5)
        assert statistics_of(batcher) == {"requests": 3, "rows": 7, "queue_rows": 4, "running_rows": 3}
        await asyncio.gather(*work)
        assert statistics_of(batcher) == {"requests": 3, "rows": 7, "batches": 2}


@virtual
async def test_a_snapshot_of_the_statistics_does_not_change() -> None:
    async with Device().batcher() as batcher:
        await batcher.predict(rows(1))
        before = batcher.statistics()
        await batcher.predict(rows(1))

    assert (before.requests, before.batches, before.reasons) == (1, 1, {"device free": 1})


@virtual
async def test_a_request_in_parts_whose_time_runs_out_as_it_is_answered_counts_once() -> None:
    def late(record: BatchRecord) -> None:
        virtual_loop().advance(1.0)  # the loop is busy elsewhere between the answer and its delivery

    async with Device(seconds=1.0).batcher(max_batch_size=2, observer=late) as batcher:
        assert await batcher.predict(rows(1, 2, 3, 4), timeout_s=3.5) == rows(2, 4, 6, 8)
        assert statistics_of(batcher) == {"requests": 2, "rows": 4, "batches": 2}


@virtual
async def test_a_request_whose_client_leaves_as_its_time_runs_out_counts_once() -> None:
    async with Device(seconds=1.0).batcher() as batcher:
        request = asyncio.create_task(batcher.predict(rows(1), timeout_s=0.5))
        virtual_loop().call_later(0.5, request.cancel)
        await asyncio.wait([request])

    done = batcher.statistics()
    assert done.expired + done.cancelled == 1


@virtual
async def test_an_observer_that_raises_costs_nobody_an_answer() -> None:
    def observer(record: BatchRecord) -> None:
        raise ValueError("the observer's own fault")

    async with Device().batcher(observer=observer) as batcher:
        answers = [await batcher.predict(rows(1)), await batcher.predict(rows(2))]
        problems = [str(problem["exception"]) for problem in virtual_loop().problems]
        virtual_loop().problems.clear()

    assert answers == [[[2]], [[4]]]
    assert problems == ["the observer's own fault"] * 2


class Forgetful(Backend):
    """Doubles, and remembers nothing."""

    name = "forgetful"
    device = "cpu"
    signature = Signature((X,), (OUTPUT,))

    def run(self, batch: Batch) -> Batch:
        return {"output": batch["x"] * 2}


def test_a_device_that_waits_keeps_nothing_of_what_it_ran() -> None:
    async def story() -> None:
        async with DynamicBatcher(Predictor(Forgetful()), inline=False) as batcher:
            array = np.ones((1, 2), np.float32)
            kept = weakref.ref(array)
            await batcher.run([{"x": array}])
            del array
            while kept() is not None:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)

    asyncio.run(story())
