"""The DynamicBatcher, on the virtual loop: what runs with what, when, and who hears of it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from nograd import CostCurve, DeadlinePolicy, Decision, DynamicBatcher
from nograd.batching import BatchRecord, DeadlineQueue, DeviceState, Execution, RequestTimes, Waiting
from nograd.core.tensors import Batch, Batching
from nograd.errors import (
    ConfigError,
    DeadlineError,
    DeviceLostError,
    ModelError,
    OverloadedError,
    SignatureError,
    TooLargeError,
)
from tests.virtual_loop import Device, at, outcome, statistics_of, virtual, virtual_loop

THREAD_OR_INLINE = pytest.mark.parametrize("inline", [False, True], ids=["thread", "inline"])


def rows(*values: float) -> list[list[float]]:
    return [[value] for value in values]


async def gathered(*work: Coroutine[Any, Any, Any]) -> list[tuple[float, Any]]:
    """When each ended, and how."""
    return list(await asyncio.gather(*map(outcome, work)))


# -- forming batches


@THREAD_OR_INLINE
@virtual
async def test_what_is_queued_runs_as_soon_as_the_device_is_free(inline: bool) -> None:
    device = Device(seconds=1.0)
    async with device.batcher(inline=inline) as batcher:
        answers = await gathered(
            batcher.predict(rows(1)), at(0.25, batcher.predict(rows(2))), at(0.5, batcher.predict(rows(3)))
        )

    assert [run.started for run in device.runs] == [0.0, 1.0]
    assert device.batches == [[1], [2, 3]]
    assert answers == [(1.0, [[2]]), (2.0, [[4]]), (2.0, [[6]])]


@THREAD_OR_INLINE
@virtual
async def test_requests_of_one_turn_of_the_loop_share_a_batch(inline: bool) -> None:
    device = Device()
    async with device.batcher(inline=inline) as batcher:
        answers = await asyncio.gather(*(batcher.predict(rows(value)) for value in range(10)))

    assert device.batches == [list(range(10))]
    assert answers == [[[value * 2]] for value in range(10)]


@THREAD_OR_INLINE
@virtual
async def test_no_run_holds_more_rows_than_max_batch_size_and_the_oldest_go_first(inline: bool) -> None:
    device = Device()
    async with device.batcher(max_batch_size=4, inline=inline) as batcher:
        await asyncio.gather(*(batcher.predict(rows(*[value] * (1 + value % 3))) for value in range(7)))

    assert device.batches == [[0, 1, 1], [2, 2, 2, 3], [4, 4], [5, 5, 5, 6]]


@virtual
async def test_max_batch_size_is_the_policys_where_none_is_given() -> None:
    device = Device(seconds=0.0)
    device.batcher()  # lends it the loop's clock
    async with DynamicBatcher(device, max_batch_size=2, inline=True) as batcher:
        await asyncio.gather(*(batcher.predict(rows(value)) for value in range(5)))

    assert device.batches == [[0, 1], [2, 3], [4]]


@virtual
async def test_the_window_counts_from_the_arrival_of_the_oldest() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_wait_ms=500) as batcher:
        await gathered(
            batcher.predict(rows(1)),
            at(0.25, batcher.predict(rows(2))),
            at(0.75, batcher.predict(rows(3))),  # arrives while the device is busy: 0.75 + 0.5 has passed when it is free
            at(5.0, batcher.predict(rows(4))),
        )

    assert device.batches == [[1, 2], [3], [4]]
    assert [run.started for run in device.runs] == [0.5, 1.5, 5.5]


@virtual
async def test_a_batch_that_fills_up_does_not_wait_for_its_window() -> None:
    device = Device()
    async with device.batcher(max_batch_size=2, max_wait_ms=10_000) as batcher:
        await gathered(batcher.predict(rows(1)), at(0.5, batcher.predict(rows(2))))
        assert virtual_loop().pending_timers() == []

    assert [run.started for run in device.runs] == [0.5]


@virtual
async def test_a_request_above_max_batch_size_is_cut_and_joined_again_in_order() -> None:
    device = Device()
    async with device.batcher(max_batch_size=4) as batcher:
        answer = await batcher.predict(rows(*range(10)))

    assert answer == rows(*range(0, 20, 2))
    assert device.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("batching", "batches"), [("pad", [[1, 2, 3, 4]]), ("equal_lengths", [[1, 3], [2, 4]]), ("alone", [[1], [2], [3], [4]])]
)
@virtual
async def test_rows_of_several_lengths_meet_only_where_that_is_right(batching: Batching, batches: list[list[float]]) -> None:
    device = Device(batching=batching)
    async with device.batcher() as batcher:
        answers = await asyncio.gather(*(batcher.predict([row]) for row in ([1.0], [2.0, 2.0], [3.0], [4.0, 4.0])))

    assert device.batches == batches
    assert answers == [[[2]], [[4, 4]], [[6]], [[8, 8]]]


@virtual
async def test_two_lanes_run_two_batches_side_by_side() -> None:
    device = Device(lanes=2, seconds=0.5, seconds_per_row=0.25)
    async with device.batcher(max_batch_size=2) as batcher:
        answers = await gathered(batcher.predict(rows(1, 2)), batcher.predict(rows(3)), at(0.25, batcher.predict(rows(4))))

    assert sorted(run.started for run in device.runs) == [0.0, 0.0, 0.75]
    assert answers == [(1.0, [[2], [4]]), (0.75, [[6]]), (1.5, [[8]])]


# -- refusing


@virtual
async def test_a_full_queue_refuses_at_once_and_says_when_it_will_have_emptied() -> None:
    device = Device(seconds=0.0, seconds_per_row=0.25)
    async with device.batcher(max_batch_size=4, max_queue_rows=8) as batcher:
        await batcher.predict(rows(0))
        begun = [asyncio.create_task(at(when, batcher.predict(rows(1, 2, 3, 4)))) for when in (0.25, 0.5, 0.5)]
        when, refusal = await outcome(at(0.75, batcher.predict(rows(5))))  # one batch runs, 8 rows wait
        answers = await asyncio.gather(*begun)

    assert when == 0.75
    assert isinstance(refusal, OverloadedError)
    assert 2.0 <= refusal.retry_after_s <= 3.0  # 8 rows at 0.25 s, with or without what is left of the running batch
    assert str(refusal).startswith("the queue has 8 of at most 8 rows; try again in ")
    assert answers == [rows(2, 4, 6, 8)] * 3
    assert statistics_of(batcher) == {"requests": 4, "rows": 13, "batches": 4, "refused": 1}


@virtual
async def test_a_request_that_no_queue_could_hold_is_too_large_rather_than_to_be_tried_again() -> None:
    async with Device().batcher(max_queue_rows=8) as batcher:
        with pytest.raises(TooLargeError, match="the request has 9 rows; the queue takes at most 8: send fewer"):
            await batcher.predict(rows(*range(9)))


@virtual
async def test_inputs_that_are_not_the_models_never_reach_the_queue() -> None:
    device = Device()
    async with device.batcher() as batcher:
        with pytest.raises(SignatureError):
            await batcher.predict([["text"]])
        assert statistics_of(batcher) == {}
    assert device.runs == []


@pytest.mark.parametrize("setting", ["max_batch_size", "max_queue_rows"])
@virtual
async def test_a_limit_below_one_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is 0; it must be at least 1"):
        DynamicBatcher(Device(), **{setting: 0})  # type: ignore[arg-type]


# -- time-outs and cancellation


@virtual
async def test_a_timeout_counts_from_arrival_and_is_told_when_it_passes() -> None:
    device = Device(seconds=10.0)
    async with device.batcher() as batcher:
        (busy, _), (running, late), (queued, never) = await gathered(
            batcher.predict(rows(1)),
            at(1.0, batcher.predict(rows(2), timeout_s=15.0)),
            at(2.0, batcher.predict(rows(3), timeout_s=4.0)),
        )

    assert (busy, running, queued) == (10.0, 16.0, 6.0)
    assert isinstance(late, DeadlineError)
    assert isinstance(never, DeadlineError)
    assert str(never) == "no answer within 4 s; give more time, or send less at once"
    assert device.batches == [[1], [2]]
    assert statistics_of(batcher) == {"requests": 3, "rows": 3, "batches": 2, "expired": 2}


@virtual
async def test_an_answer_in_time_leaves_no_timer_behind() -> None:
    async with Device().batcher(max_wait_ms=500) as batcher:
        await gathered(*(batcher.predict(rows(*range(count)), timeout_s=30.0) for count in (1, 2, 40)))
        assert virtual_loop().pending_timers() == []


@virtual
async def test_a_cancelled_request_that_waits_never_runs_and_makes_room() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_queue_rows=2) as batcher:
        first, gone, other = (asyncio.create_task(at(value / 8, batcher.predict(rows(value)))) for value in (1, 2, 3))
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(0)
        fourth = asyncio.create_task(batcher.predict(rows(4)))
        answers = await asyncio.gather(first, other, fourth)

    assert list(answers) == [[[2]], [[6]], [[8]]]
    assert gone.cancelled()
    assert device.batches == [[1], [3, 4]]
    assert statistics_of(batcher)["cancelled"] == 1


@virtual
async def test_cancelling_a_running_request_harms_no_neighbour() -> None:
    device = Device(seconds=1.0)
    async with device.batcher() as batcher:
        tasks = [asyncio.create_task(batcher.predict(rows(value))) for value in (1, 2, 3)]
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        later = await batcher.predict(rows(4))

    assert [answers[0], answers[2], later] == [[[2]], [[6]], [[8]]]
    assert isinstance(answers[1], asyncio.CancelledError)
    assert statistics_of(batcher) == {"requests": 4, "rows": 4, "batches": 2, "cancelled": 1}


@virtual
async def test_a_thousand_clients_that_left_while_they_waited_cost_the_device_nothing() -> None:
    device = Device(seconds=1.0)
    async with device.batcher() as batcher:
        first = asyncio.create_task(batcher.predict(rows(0)))
        await asyncio.sleep(0.5)
        gone = [asyncio.create_task(batcher.predict(rows(value))) for value in range(1, 1001)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await first

    assert device.batches == [[0]]
    assert statistics_of(batcher)["cancelled"] == 1000


# -- failures


@THREAD_OR_INLINE
@pytest.mark.parametrize("error", [ValueError("bad row"), MemoryError("bad row"), SystemExit("bad row")], ids=type)
@virtual
async def test_one_bad_row_among_32_fails_alone_and_costs_ten_runs_more(error: BaseException, inline: bool) -> None:
    device = Device(poison={13.0}, error=error)
    async with device.batcher(inline=inline) as batcher:
        answers = await gathered(*(batcher.predict(rows(value)) for value in range(32)))
        later = await batcher.predict(rows(7))

    bad = [value for value, (_, answer) in enumerate(answers) if isinstance(answer, Exception)]
    assert bad == [13]
    assert isinstance(answers[13][1], ModelError)
    assert str(answers[13][1]) == f"the model raised {type(error).__name__}: bad row"
    assert [answer for value, (_, answer) in enumerate(answers) if value != 13] == [rows(v * 2) for v in range(32) if v != 13]
    assert len(device.runs) == 1 + 2 * 5 + 1
    assert later == [[14]]
    assert statistics_of(batcher) == {"requests": 33, "rows": 33, "batches": 2, "failed": 1}


class Raising(DeadlinePolicy):
    """A policy that raises until it is mended."""

    mended = False

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        if self.mended:
            return super().decide(queue, now, device)
        raise KeyError("no rule")


@pytest.mark.parametrize("requests", [1, 100])
@virtual
async def test_a_policy_that_raises_fails_what_waits_and_the_batcher_lives_on(requests: int) -> None:
    policy = Raising()
    async with Device().batcher(policy=policy) as batcher:
        answers = await gathered(*(batcher.predict(rows(value), timeout_s=60.0) for value in range(requests)))
        policy.mended = True
        assert await batcher.predict(rows(1)) == [[2]]

    assert {str(answer) for _, answer in answers} == {"the batch policy raised KeyError: 'no rule'"}
    assert statistics_of(batcher)["failed"] == requests


class Answering(DeadlinePolicy):
    """A policy that decides as it is told."""

    def __init__(self, rule: Callable[[DeadlineQueue], Decision]) -> None:
        super().__init__()
        self.rule = rule

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        return self.rule(queue)


@pytest.mark.parametrize(
    "rule",
    [
        lambda queue: Decision(take=(Waiting(1, 0.0),)),
        lambda queue: Decision(take=(queue.items[0],) * 2),
        lambda queue: Decision(take=queue.items[:1], late=queue.items[:1]),
        lambda queue: Decision(),
    ],
    ids=["what is not there", "twice the same", "to run and to refuse", "nothing"],
)
@virtual
async def test_a_policy_that_decides_what_cannot_be_fails_what_waits(rule: Callable[[DeadlineQueue], Decision]) -> None:
    async with Device().batcher(policy=Answering(rule)) as batcher:
        ((_, answer),) = await gathered(batcher.predict(rows(1), timeout_s=60.0))

    assert isinstance(answer, ModelError)
    assert "policy" in str(answer)


@virtual
async def test_a_request_in_several_parts_fails_as_one_and_leaves_nothing_behind() -> None:
    device = Device(poison={13.0})
    async with device.batcher(max_batch_size=4) as batcher:
        ((_, answer),) = await gathered(batcher.predict(rows(*range(10, 30))))
        assert batcher.statistics().queue_rows == 0

    assert isinstance(answer, ModelError)


# -- classes, predictions, faults of the device

CURVE = CostCurve((1, 8), (1.0, 2.4))


def patient(device: Device, **settings: Any) -> DynamicBatcher:
    """A batcher that knows how long runs take: 0.8 s, and 0.2 s a row."""
    return device.batcher(policy=DeadlinePolicy(8, cost=CURVE), **settings)


@virtual
async def test_a_request_that_would_be_late_is_refused_at_once_with_the_time_of_its_turn() -> None:
    device = Device(seconds=0.8, seconds_per_row=0.2)
    async with patient(device) as batcher:
        begun = [asyncio.create_task(batcher.predict(rows(value))) for value in range(25)]
        await asyncio.sleep(0.125)
        (when, refusal), (_, answer) = await gathered(
            batcher.predict(rows(90), timeout_s=2.0), batcher.predict(rows(91), timeout_s=60.0)
        )
        await asyncio.gather(*begun)

    assert when == 0.125
    assert isinstance(refusal, OverloadedError)
    assert refusal.retry_after_s > 2.0
    assert "it may take 2 s in all; try again later, or give more time" in str(refusal)
    assert answer == [[182]]
    assert statistics_of(batcher)["refused"] == 1


@virtual
async def test_the_earliest_deadline_overtakes_and_the_hopeless_is_told_before_its_time() -> None:
    device = Device(seconds=1.7, seconds_per_row=0.2)  # slower than predicted
    async with patient(device) as batcher:
        waiting = [
            asyncio.create_task(outcome(at(when, batcher.predict(rows(value), timeout_s=timeout_s))))
            for value, when, timeout_s in ((1, 0.0, None), (2, 0.25, None), (3, 0.5, 9.0), (4, 0.75, 2.0))
        ]
        ends = await asyncio.gather(*waiting)

    assert device.batches == [[1], [3, 2]]
    assert isinstance(ends[3][1], DeadlineError)
    assert ends[3][0] == 1.9  # when the device became free: it could not end by 2.75


@virtual
async def test_a_higher_class_goes_first_and_a_lower_one_fills_its_batch() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(policy=DeadlinePolicy(2)) as batcher:
        first = asyncio.create_task(batcher.predict(rows(0)))
        await asyncio.sleep(0.5)
        low = [asyncio.create_task(batcher.predict(rows(value), priority=1)) for value in (1, 2, 3)]
        await asyncio.sleep(0)
        high = [asyncio.create_task(batcher.predict(rows(value))) for value in (7, 8, 9)]
        await asyncio.gather(first, *low, *high)

    assert device.batches == [[0], [7, 8], [9, 1], [2, 3]]


@virtual
async def test_a_full_queue_makes_room_for_a_higher_class_only() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_queue_rows=2) as batcher:
        first = asyncio.create_task(batcher.predict(rows(0)))
        await asyncio.sleep(0.5)
        low = [asyncio.create_task(outcome(batcher.predict(rows(value), priority=1))) for value in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.predict(rows(3), priority=1)
        high = asyncio.create_task(batcher.predict(rows(4)))
        await asyncio.sleep(0)
        ends = await asyncio.gather(*low)
        assert await high == [[8]]
        await first

    assert ends[0][1] == [[2]]
    assert isinstance(ends[1][1], OverloadedError)
    assert ends[1][0] == 0.5
    assert (batcher.statistics().displaced, batcher.statistics().refused) == (1, 1)


@virtual
async def test_a_queue_is_bounded_in_bytes_too() -> None:
    device = Device(seconds=1.0)
    async with device.batcher(max_queue_bytes=8) as batcher:  # a row of one float32 has 4
        first = asyncio.create_task(batcher.predict(rows(0)))
        await asyncio.sleep(0.5)
        begun = [asyncio.create_task(batcher.predict(rows(value))) for value in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="the queue has 8 of at most 8 bytes"):
            await batcher.predict(rows(3))
        with pytest.raises(TooLargeError, match="the request has 12 bytes of inputs; the queue takes at most 8"):
            await batcher.predict(rows(1, 2, 3))
        await asyncio.gather(first, *begun)


@virtual
async def test_a_batch_too_large_for_memory_runs_in_halves_and_later_ones_are_smaller() -> None:
    device = Device(seconds=1.0, max_rows=4)
    async with device.batcher(policy=DeadlinePolicy(16)) as batcher:
        answers = await asyncio.gather(*(batcher.predict(rows(value)) for value in range(16)))
        runs = len(device.runs)
        later = await asyncio.gather(*(batcher.predict(rows(value)) for value in range(16)))

    assert answers == later == [[[value * 2]] for value in range(16)]
    assert [len(run.rows) for run in device.runs[:runs]] == [16, 8, 4, 4, 8, 4, 4]
    assert [len(run.rows) for run in device.runs[runs:]] == [4, 4, 4, 4]


@THREAD_OR_INLINE
@virtual
async def test_a_lost_device_fails_all_who_wait_at_once_and_takes_nobody_in(inline: bool) -> None:
    device = Device(seconds=1.0, poison={13.0}, error=RuntimeError("CUDA error: device-side assert triggered"))
    async with device.batcher(inline=inline, policy=DeadlinePolicy(1)) as batcher:
        ends = await gathered(batcher.predict(rows(13)), batcher.predict(rows(1)), batcher.predict(rows(2)))
        assert not batcher.is_open
        with pytest.raises(DeviceLostError, match="the device is lost; this server must be restarted"):
            await batcher.predict(rows(3))

    assert [type(end) for _, end in ends] == [DeviceLostError] * 3
    assert len({id(end) for _, end in ends}) == 3
    assert all(isinstance(end, DeviceLostError) and isinstance(end.__cause__, RuntimeError | ModelError) for _, end in ends)
    assert device.batches == [[13]]


@virtual
async def test_a_device_thread_that_ends_is_noticed() -> None:
    device = Device(seconds=1.0)
    batcher = device.batcher()

    def breaking(job: object) -> None:
        virtual_loop_of_test.add_working(-1)
        raise SystemError("a bug of ours")

    virtual_loop_of_test = virtual_loop()
    assert batcher._batcher is not None
    batcher._batcher._lanes.execute = breaking  # type: ignore[method-assign]
    threading.excepthook, before = lambda _: None, threading.excepthook
    try:
        async with batcher:
            ((_, end),) = await gathered(batcher.predict(rows(1)))
            assert not batcher.is_open
    finally:
        threading.excepthook = before

    assert isinstance(end, DeviceLostError)
    assert str(end) == "the device's thread has ended; restart this server"


@pytest.mark.parametrize(
    ("request_settings", "said"),
    [
        ({"timeout_s": 0}, "timeout_s is 0; it must be a number of seconds above 0, or None"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0; it must be"),
        ({"timeout_s": float("nan")}, "timeout_s is nan; it must be"),
        ({"timeout_s": "5"}, "timeout_s is '5'; it must be"),
        ({"priority": "high"}, "priority is 'high'; it must be a whole number"),
        ({"priority": -1}, "priority is -1; it must be a whole number"),
    ],
)
@virtual
async def test_what_cannot_be_asked_for_is_refused_with_what_can(request_settings: dict[str, Any], said: str) -> None:
    async with Device().batcher() as batcher:
        with pytest.raises(ConfigError, match=re.escape(said)):
            await batcher.predict(rows(1), **request_settings)


@virtual
async def test_a_curve_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="the cost curve counts rows, and this model's rows differ in length"):
        DynamicBatcher(Device(), cost=CURVE)
    with pytest.raises(ConfigError, match=r"cost is float; it must be a nograd\.CostCurve"):
        DynamicBatcher(Device(), cost=0.1)  # type: ignore[arg-type]


@virtual
async def test_a_run_that_failed_tells_nothing_of_speed() -> None:
    device = Device(seconds=8.0, poison={13.0})
    policy = DeadlinePolicy(8, cost=CURVE)
    async with device.batcher(policy=policy) as batcher:
        await outcome(batcher.predict(rows(13)))
        assert policy.cost.scale.value == 1.0
        await outcome(batcher.predict(rows(1)))
        assert policy.cost.scale.value > 1.0


# -- where the time goes


def part(*values: float) -> Batch:
    return {"x": np.array(rows(*values), np.float32)}


@virtual
async def test_a_request_is_told_where_its_time_went_and_a_record_tells_it_of_all() -> None:
    device, records, spent = Device(seconds=1.0, seconds_per_row=0.5), list[BatchRecord](), RequestTimes()
    async with device.batcher(max_batch_size=4, observer=records.append) as batcher:
        await asyncio.gather(
            batcher.predict(rows(1)),
            at(0.25, batcher.run([part(2, 3)], spent=spent)),
            at(0.5, batcher.predict(rows(4))),
        )

    assert spent == RequestTimes(queue_s=1.25, input_s=0.0, infer_s=2.5, output_s=0.0, batch_rows=3)
    assert [each.executions for each in records] == [(Execution(1, 0.0, 1.5, 0.0),), (Execution(3, 0.0, 2.5, 0.0),)]
    assert [each.answered_s for each in records] == [(0.0,), (1.25, 1.0)]


@virtual
async def test_a_request_in_parts_waits_until_its_last_part_runs_and_is_one_request() -> None:
    device, records, spent = Device(seconds=1.0), list[BatchRecord](), RequestTimes()
    async with device.batcher(max_batch_size=2, observer=records.append) as batcher:
        await batcher.run([part(1, 2, 3, 4, 5)], spent=spent)

    assert spent == RequestTimes(queue_s=2.0, infer_s=1.0, batch_rows=1)
    assert [each.answered_s for each in records] == [(), (), (2.0,)]


@virtual
async def test_a_batch_that_is_run_again_in_pieces_tells_the_calls_that_succeeded() -> None:
    device, records = Device(seconds=1.0, poison={13.0}), list[BatchRecord]()
    async with device.batcher(observer=records.append) as batcher:
        found = await gathered(*(batcher.predict(rows(value)) for value in (1, 13, 2)))

    assert [isinstance(answer, ModelError) for _, answer in found] == [False, True, False]
    (record,) = records
    assert record.answered_s == (0.0, 0.0)
    assert sum(each.rows for each in record.executions) == 2
    assert sum(each.input_s + each.infer_s + each.output_s for each in record.executions) == record.run_s


@virtual
async def test_whoever_left_or_was_late_is_not_told_of_as_answered() -> None:
    device, records = Device(seconds=1.0), list[BatchRecord]()
    async with device.batcher(observer=records.append) as batcher:
        found = await gathered(batcher.predict(rows(1), timeout_s=0.5), batcher.predict(rows(2)))

    assert isinstance(found[0][1], DeadlineError)
    assert [each.answered_s for each in records] == [(0.0,)]
