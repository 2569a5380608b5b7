"""What holds for a DynamicBatcher whatever comes: random traffic on the virtual loop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nograd.batching import BatchRecord, Statistics
from nograd.core.tensors import Batching
from nograd.errors import DeadlineError, ModelError, NogradError, OverloadedError, TooLargeError, UnavailableError
from tests.virtual_loop import PADDING, Device, Run, at, outcome, run, virtual_loop


@dataclass(frozen=True, slots=True)
class Request:
    """One client; times in seconds, all of them multiples of 1/128, which floats add exactly."""

    arrives: float
    rows: int = 1
    length: int = 1
    bad: bool = False
    timeout_s: float | None = None
    leaves_after: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A device and its batcher."""

    seconds: float = 0.5
    seconds_per_row: float = 0.0
    lanes: int = 1
    inline: bool = False
    batching: Batching = "pad"
    max_batch_size: int = 4
    max_wait_ms: float = 0.0
    max_queue_rows: int = 1000
    closes: float = 64.0
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Story:
    """What happened: for each request when it ended and how; for the device every run."""

    ends: list[tuple[float, Any]]
    runs: list[Run]
    records: list[BatchRecord]
    done: Statistics


def value(number: int, row: int = 0) -> float:
    """The number that stands in a row of a request: no two rows of a trace have the same."""
    return 100.0 * number + row + 1


def inputs(number: int, request: Request) -> list[list[float]]:
    return [[value(number, row)] * request.length for row in range(request.rows)]


async def client(batcher: Any, number: int, request: Request) -> Any:
    work = asyncio.ensure_future(batcher.predict(inputs(number, request), timeout_s=request.timeout_s))
    if request.leaves_after is None:
        return await work
    leaving = virtual_loop().call_later(request.leaves_after, work.cancel)
    try:
        return await work
    finally:
        leaving.cancel()


def play(setting: Setting, requests: list[Request]) -> Story:
    """Send the requests at their times, close the batcher at its own; return what happened."""

    async def story() -> Story:
        device = Device(
            setting.seconds,
            seconds_per_row=setting.seconds_per_row,
            lanes=setting.lanes,
            batching=setting.batching,
            poison={value(number) for number, request in enumerate(requests) if request.bad},
        )
        records: list[BatchRecord] = []
        batcher = device.batcher(
            max_batch_size=setting.max_batch_size,
            max_wait_ms=setting.max_wait_ms,
            max_queue_rows=setting.max_queue_rows,
            inline=setting.inline,
            observer=records.append,
        )
        async with batcher:
            closing = asyncio.ensure_future(at(setting.closes, batcher.close(setting.grace_s)))
            clients = {}
            for number, request in sorted(enumerate(requests), key=lambda each: each[1].arrives):
                await asyncio.sleep(request.arrives - virtual_loop().time())
                clients[number] = asyncio.ensure_future(outcome(client(batcher, number, request)))
            ends = [await clients[number] for number in range(len(requests))]
            await closing
        assert virtual_loop().pending_timers() == []
        return Story(ends, device.runs, records, batcher.statistics())

    return run(story())


def sixtyfourths(low: int, high: int, offset: float = 0.0) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda n: (n + offset) / 64)


plain_requests = st.builds(Request, sixtyfourths(0, 200), st.integers(1, 6))
requests = st.builds(
    Request,
    sixtyfourths(0, 200),
    st.integers(1, 6),
    st.integers(1, 4),
    bad=st.sampled_from([False, False, False, True]),
    timeout_s=st.none() | sixtyfourths(1, 150),
    leaves_after=st.none() | st.none() | sixtyfourths(0, 150, offset=0.5),  # never the moment of anything else
)
plain_settings = st.builds(Setting, sixtyfourths(1, 64), sixtyfourths(0, 8), max_batch_size=st.integers(1, 9))
any_settings = st.builds(
    Setting,
    sixtyfourths(1, 64),
    sixtyfourths(0, 8),
    lanes=st.sampled_from([1, 1, 2]),
    inline=st.booleans(),
    batching=st.sampled_from(["pad", "equal_lengths", "alone"]),
    max_batch_size=st.integers(1, 9),
    max_wait_ms=st.sampled_from([0.0, 0.0, 250.0]),
    max_queue_rows=st.sampled_from([4, 12, 1000]),
    closes=sixtyfourths(0, 300),
    grace_s=st.sampled_from([0.0, 1.0, 30.0]),
)


@given(any_settings, st.lists(requests, max_size=16))
def test_every_request_ends_once_with_its_own_answer_or_an_error_that_is_due(setting: Setting, traffic: list[Request]) -> None:
    story = play(setting, traffic)

    for number, (request, (ended, end)) in enumerate(zip(traffic, story.ends, strict=True)):
        match end:
            case list():
                assert end == [[2 * x for x in row] for row in inputs(number, request)]
                assert not request.bad
            case ModelError():
                assert request.bad
            case DeadlineError():
                assert request.timeout_s is not None
                assert ended >= request.arrives + request.timeout_s
                assert setting.inline or ended == request.arrives + request.timeout_s
            case asyncio.CancelledError():
                assert request.leaves_after is not None
            case TooLargeError():
                assert request.rows > setting.max_queue_rows
            case OverloadedError():
                assert setting.max_queue_rows < 1000
                assert setting.inline or ended == request.arrives
                assert end.retry_after_s >= 0
            case UnavailableError():
                assert ended >= setting.closes
            case _:
                raise AssertionError(f"request {number} ended with {end!r}")


@given(any_settings, st.lists(requests, max_size=16))
def test_no_run_breaks_a_limit_and_every_count_adds_up(setting: Setting, traffic: list[Request]) -> None:
    story = play(setting, traffic)
    ends = [end for _, end in story.ends]

    for each in story.runs:
        assert 1 <= len(each.rows) <= setting.max_batch_size
        owners = {int(row[0]) // 100 for row in each.rows}
        assert setting.batching != "alone" or len(owners) == 1
        assert setting.batching == "pad" or all(PADDING not in row for row in each.rows)
    for record in story.records:
        assert record.rows <= setting.max_batch_size
        assert record.requests == len(record.waited_s)
        assert min(record.waited_s) >= 0
    done = story.done
    refused = [sum(isinstance(end, kind) for end in ends) for kind in (OverloadedError, TooLargeError)]
    assert (done.queue_rows, done.running_rows) == (0, 0)
    assert (done.refused, done.batches) == (refused[0], len(story.records))
    assert sum(done.reasons.values()) == done.batches
    assert done.failed == sum(record.failed for record in story.records)
    if all(request.rows <= setting.max_batch_size for request in traffic):  # else one request counts several times
        kinds = (list, ModelError, DeadlineError, asyncio.CancelledError)
        answered, failed, expired, left = (sum(isinstance(end, kind) for end in ends) for kind in kinds)
        assert expired <= done.expired
        assert done.expired + done.cancelled <= expired + left  # one that leaves before it was admitted is not counted
        assert answered + failed + done.expired + done.cancelled <= done.requests <= len(traffic)


@given(plain_settings, st.lists(requests, min_size=1, max_size=12))
def test_the_most_urgent_is_in_every_batch_and_the_device_never_idles_while_something_waits(
    setting: Setting, traffic: list[Request]
) -> None:
    story = play(setting, traffic)
    seen: set[float] = set()
    batches = iter(story.records)
    free = 0.0

    for each in story.runs:
        new = {row[0] for row in each.rows} - seen
        if not new:
            continue  # a part of a batch that failed, run again
        owners = [traffic[int(first) // 100] for first in new]
        waiting = [
            request
            for number, (request, (ended, _)) in enumerate(zip(traffic, story.ends, strict=True))
            if request.arrives < each.started < ended and any(value(number, row) not in seen for row in range(request.rows))
        ]
        most_urgent = min(map(urgency, owners))
        assert most_urgent <= min(map(urgency, waiting), default=most_urgent)
        assert each.started == max(free, min(request.arrives for request in [*owners, *waiting]))
        free = each.started + next(batches).run_s
        seen |= new


def urgency(request: Request) -> tuple[float, float]:
    return (inf if request.timeout_s is None else request.arrives + request.timeout_s, request.arrives)


@given(plain_settings, st.lists(plain_requests, min_size=1, max_size=12, unique_by=lambda request: request.arrives))
def test_without_time_outs_and_lengths_batches_are_what_fits_in_the_order_of_arrival(
    setting: Setting, traffic: list[Request]
) -> None:
    traffic = sorted(traffic, key=lambda request: request.arrives)
    story = play(setting, [replace(request, rows=min(request.rows, setting.max_batch_size)) for request in traffic])

    waiting = [(r.arrives, number, min(r.rows, setting.max_batch_size)) for number, r in enumerate(traffic)]
    expected, free = [], 0.0
    while waiting:
        started = max(free, waiting[0][0])
        batch, rows = [], 0
        while waiting and waiting[0][0] <= started and rows + waiting[0][2] <= setting.max_batch_size:
            _, number, more = waiting.pop(0)
            batch += [value(number, row) for row in range(more)]
            rows += more
        expected.append((started, batch))
        free = started + setting.seconds + setting.seconds_per_row * rows
    assert [(each.started, [row[0] for row in each.rows]) for each in story.runs] == expected


@given(plain_settings, st.lists(requests, max_size=10), sixtyfourths(1, 200), sixtyfourths(0, 200, offset=0.5))
def test_one_that_leaves_while_it_waits_changes_nothing_for_the_others(
    setting: Setting, traffic: list[Request], arrives: float, leaves_after: float
) -> None:
    setting = replace(setting, seconds=8.0)  # all arrive while the first is running
    traffic = [Request(0.0), *(replace(request, arrives=request.arrives + 1 / 64) for request in traffic)]

    with_it, without = play(setting, [*traffic, Request(arrives, leaves_after=leaves_after)]), play(setting, traffic)

    assert with_it.runs == without.runs
    assert list(map(repr, with_it.ends[:-1])) == list(map(repr, without.ends))


@given(any_settings, st.lists(requests, max_size=12))
def test_the_same_traffic_gives_the_same_batches(setting: Setting, traffic: list[Request]) -> None:
    setting = replace(setting, lanes=1)

    first, second = play(setting, traffic), play(setting, traffic)

    assert (first.runs, first.records, first.done) == (second.runs, second.records, second.done)


@given(st.lists(requests, min_size=1, max_size=16))
def test_every_refusal_is_an_error_of_ours(traffic: list[Request]) -> None:
    story = play(Setting(max_queue_rows=4, closes=1.0, grace_s=0.25), traffic)

    for _, end in story.ends:
        assert isinstance(end, list | NogradError | asyncio.CancelledError)
