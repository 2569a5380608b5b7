"""Single-flight on a virtual loop, and whether a cache pays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.caching import Cache, CacheStatistics, MemoryCache
from nograd.caching.flight import SingleFlight
from nograd.caching.governor import REST, WINDOW, CacheGovernor
from nograd.caching.remote import MAX_PENDING_BYTES, RemoteTier
from nograd.errors import DeadlineError, ModelError, OverloadedError
from nograd.runtime.callbacks import run_in_task, wait_for
from tests.virtual_loop import at, outcome, run, virtual
from tests.waiting import HANG_S


def key(number: int) -> bytes:
    return bytes([number]) * 16


class Computer:
    """Computes `value-of-<key>` in a second of virtual time, and remembers what it was asked for."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.asked: list[list[bytes]] = []
        self.failing: dict[bytes, BaseException] = {}
        self.cancelled = 0

    def of(self, keys: Sequence[bytes]) -> Any:
        async def compute(positions: Sequence[int]) -> list[bytes]:
            wanted = [keys[position] for position in positions]
            self.asked.append(wanted)
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            for each in wanted:
                if each in self.failing:
                    raise self.failing[each]
            return [b"value-of-" + each for each in wanted]

        return compute


def ask(flights: SingleFlight, computer: Computer, *numbers: int, timeout_s: float | None = None, shared: bool = True) -> Any:
    """Return a coroutine that waits for the values of some keys."""
    keys = [key(number) for number in numbers]
    compute = computer.of(keys)
    return wait_for(
        lambda done: flights.fetch(
            keys,
            lambda positions, computed: run_in_task(compute(positions), computed),
            done,
            timeout_s=timeout_s,
            shared=shared,
        )
    )


def values(*numbers: int) -> list[bytes]:
    return [b"value-of-" + key(number) for number in numbers]


@virtual
async def test_a_stampede_computes_once() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    found = await asyncio.gather(*(ask(flights, computer, 1) for _ in range(1000)))
    assert found == [values(1)] * 1000
    assert computer.asked == [[key(1)]]
    assert await ask(flights, computer, 1) == values(1)
    assert len(computer.asked) == 1


@virtual
async def test_a_request_computes_only_what_nobody_knows_or_computes() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    flights.near.put(key(1), values(1)[0])
    first = asyncio.ensure_future(ask(flights, computer, 2, 3))
    await asyncio.sleep(0.5)
    assert await ask(flights, computer, 4, 1, 3, 4, 2) == values(4, 1, 3, 4, 2)
    assert await first == values(2, 3)
    assert computer.asked == [[key(2), key(3)], [key(4)]]


@virtual
async def test_who_leaves_takes_nothing_from_the_others() -> None:
    for leaving in range(3):
        flights, computer = SingleFlight(MemoryCache()), Computer()
        tasks = [asyncio.ensure_future(ask(flights, computer, 1)) for _ in range(3)]
        await asyncio.sleep(0.5)
        for number in range(3):
            if number != leaving:
                tasks[number].cancel()
        assert await tasks[leaving] == values(1)
        assert computer.asked == [[key(1)]]


@virtual
async def test_when_all_have_left_nothing_is_computed_for_nobody() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    tasks = [asyncio.ensure_future(ask(flights, computer, 1, number)) for number in (2, 3)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    await asyncio.sleep(0.1)
    assert computer.cancelled == 0  # the second still waits for 1
    tasks[1].cancel()
    await asyncio.sleep(0.1)
    assert computer.cancelled == 2
    assert await ask(flights, computer, 1) == values(1)


@virtual
async def test_who_comes_just_when_the_last_one_leaves_is_answered() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    first = asyncio.ensure_future(ask(flights, computer, 1))
    await asyncio.sleep(0.5)
    first.cancel()
    await asyncio.sleep(0)  # the first has left, its flight is told to end and has not yet
    second = asyncio.ensure_future(ask(flights, computer, 1))
    third = asyncio.ensure_future(ask(flights, computer, 1))
    assert list(await asyncio.gather(second, third)) == [values(1)] * 2
    assert (len(computer.asked), computer.cancelled) == (2, 1)


@virtual
async def test_an_error_is_everybodys_who_asked_for_that_row_alone_and_is_not_kept() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    computer.failing[key(1)] = ModelError("poison")
    ends = await asyncio.gather(*(outcome(ask(flights, computer, 1)) for _ in range(5)))
    assert [str(end) for _, end in ends] == ["poison"] * 5
    assert computer.asked == [[key(1)]]
    computer.failing.clear()
    assert await ask(flights, computer, 1) == values(1)


@virtual
async def test_a_bad_row_in_somebodys_company_fails_nobody_else() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    computer.failing[key(9)] = ModelError("poison")
    bad, good = await asyncio.gather(outcome(ask(flights, computer, 1, 9)), at(0.5, outcome(ask(flights, computer, 1))))
    assert str(bad[1]) == "poison"
    assert good == (2.0, values(1))
    assert computer.asked == [[key(1), key(9)], [key(1)]]


@virtual
async def test_a_bad_row_that_several_ask_for_fails_nobody_who_does_not() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    computer.failing[key(9)] = ModelError("poison")
    bad, also_bad, good = await asyncio.gather(
        outcome(ask(flights, computer, 1, 9)),
        at(0.1, outcome(ask(flights, computer, 1, 9))),
        at(0.2, outcome(ask(flights, computer, 1))),
    )
    assert [str(end) for _, end in (bad, also_bad)] == ["poison"] * 2
    assert good == (2.0, values(1))


@virtual
async def test_who_waits_a_second_time_has_only_the_time_that_is_left() -> None:
    flights = SingleFlight(MemoryCache())
    full, slow = Computer(0.5), Computer(10.0)
    full.failing[key(1)] = OverloadedError("full")
    first = asyncio.ensure_future(outcome(ask(flights, full, 1)))
    await asyncio.sleep(0.1)
    patient = asyncio.ensure_future(ask(flights, slow, 1))
    await asyncio.sleep(0)
    when, end = await outcome(ask(flights, slow, 1, timeout_s=1.0))
    assert when == pytest.approx(1.1)
    assert isinstance(end, DeadlineError)
    assert isinstance((await first)[1], OverloadedError)
    assert await patient == values(1)
    assert len(slow.asked) == 1


@pytest.mark.parametrize("error", [DeadlineError("late"), OverloadedError("full")])
def test_somebody_elses_time_out_is_not_mine(error: Exception) -> None:
    async def both() -> None:
        flights, computer = SingleFlight(MemoryCache()), Computer()
        computer.failing[key(1)] = error
        first = asyncio.ensure_future(outcome(ask(flights, computer, 1)))
        await asyncio.sleep(0.5)
        second = asyncio.ensure_future(outcome(ask(flights, computer, 1)))
        await asyncio.sleep(0.7)
        computer.failing.clear()
        assert (await first)[1] is error
        assert (await second)[1] == values(1)

    run(both())


@virtual
async def test_an_error_twice_is_told() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    computer.failing[key(1)] = OverloadedError("full")
    ends = await asyncio.gather(*(outcome(ask(flights, computer, 1)) for _ in range(4)))
    assert [str(end) for _, end in ends] == ["full"] * 4
    assert len(computer.asked) == 2


@virtual
async def test_who_joins_waits_no_longer_than_they_said() -> None:
    flights, computer = SingleFlight(MemoryCache()), Computer()
    first = asyncio.ensure_future(ask(flights, computer, 1))
    await asyncio.sleep(0.1)
    when, end = await outcome(ask(flights, computer, 1, timeout_s=0.3))
    assert when == pytest.approx(0.4)
    assert isinstance(end, DeadlineError)
    assert await first == values(1)


Scenario = list[tuple[int, list[int], int | None]]  # tenths of a second, keys, tenths until it leaves


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.none() | st.integers(1, 20)),
        max_size=12,
    )
)
def test_any_mix_of_arrivals_and_departures(requests: Scenario) -> None:
    async def all_of_them() -> None:
        flights, computer = SingleFlight(MemoryCache()), Computer()

        async def one(numbers: list[int], leaves: int | None) -> None:
            work = asyncio.ensure_future(ask(flights, computer, *numbers))
            if leaves is not None:
                asyncio.get_running_loop().call_later(leaves / 10, work.cancel)
            try:
                assert await work == values(*numbers)
            except asyncio.CancelledError:
                assert leaves is not None

        await asyncio.gather(*(at(start / 10, one(numbers, leaves)) for start, numbers, leaves in requests))
        done = [each for group in computer.asked for each in group]
        if not computer.cancelled:
            assert len(done) == len(set(done))
        assert not flights._flights

    run(all_of_them())


# -- the far cache


class Far(Cache):
    """Remembers its calls; `gate` holds them up."""

    def __init__(self, **kept: bytes) -> None:
        self.kept: dict[bytes, bytes] = {key(int(number[1:])): value for number, value in kept.items()}
        self.gets: list[list[bytes]] = []
        self.puts: list[dict[bytes, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.gets.append(list(keys))
        assert self.gate.wait(HANG_S)
        return [self.kept.get(each) for each in keys]

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        assert self.gate.wait(HANG_S)
        self.puts.append(dict(items))

    def statistics(self) -> CacheStatistics:
        return CacheStatistics()

    def clear(self) -> None:
        self.kept.clear()


def test_requests_of_one_turn_ask_the_far_cache_together() -> None:
    async def both() -> None:
        found: list[list[bytes]]
        far = Far(_1=b"one", _2=b"two")
        flights, computer = SingleFlight(MemoryCache(), far), Computer(0.0)
        found = await asyncio.gather(*(ask(flights, computer, *numbers) for numbers in ((1, 2), (3,), (2, 1))))
        assert found == [[b"one", b"two"], values(3), [b"two", b"one"]]
        assert far.gets == [[key(1), key(2), key(3)]]
        assert computer.asked == [[key(3)]]
        assert flights.near.get_many([key(1), key(3)]) == [b"one", *values(3)]
        await flights.close()
        assert far.puts == [{key(3): values(3)[0]}]

    asyncio.run(both())


def test_what_is_not_to_be_shared_never_leaves_the_process() -> None:
    async def both() -> None:
        far = Far()
        flights, computer = SingleFlight(MemoryCache(), far), Computer(0.0)
        assert await ask(flights, computer, 1, shared=False) == values(1)
        await flights.close()
        assert not far.gets
        assert not far.puts

    asyncio.run(both())


def test_while_the_far_cache_is_busy_questions_gather_and_puts_are_bounded() -> None:
    async def main() -> None:
        far = Far()
        tier = RemoteTier(far)
        far.gate.clear()
        first = asyncio.ensure_future(tier.get([key(1)]))
        while not far.gets:  # noqa: ASYNC110  another thread tells
            await asyncio.sleep(0)
        more = [asyncio.ensure_future(tier.get([key(number)])) for number in (2, 3, 2)]
        half = bytes(MAX_PENDING_BYTES // 2)
        for number in range(3):
            tier.put({key(number): half})
        await asyncio.sleep(0)
        far.gate.set()
        assert await first == {}
        assert await asyncio.gather(*more) == [{}, {}, {}]
        assert far.gets == [[key(1)], [key(2), key(3)]]
        await tier.close()
        assert [len(items) for items in far.puts] == [2]
        assert tier.dropped == 1

    asyncio.run(main())


def test_who_sets_out_waits_for_the_far_cache_no_longer_than_they_said() -> None:
    async def main() -> None:
        far = Far()
        far.gate.clear()
        flights, computer = SingleFlight(MemoryCache(), far), Computer(0.0)
        with pytest.raises(DeadlineError, match=r"no answer after 0.01 s"):
            await ask(flights, computer, 1, timeout_s=0.01)
        far.gate.set()
        await flights.close()
        assert computer.asked == []

    asyncio.run(main())


def test_a_far_cache_that_hangs_is_left_out_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        far = Far(_1=b"one", _2=b"two")
        tier = RemoteTier(far, patience_s=0.01)
        far.gate.clear()
        assert list(await asyncio.gather(tier.get([key(1)]), tier.get([key(2)]))) == [{}, {}]
        assert await tier.get([key(2)]) == {}
        assert len(far.gets) == 1
        far.gate.set()
        while await tier.get([key(2)]) != {key(2): b"two"}:  # noqa: ASYNC110  another thread ends the call that hung
            await asyncio.sleep(0)
        await tier.close()

    asyncio.run(main())
    assert "a call to the far cache hangs" in caplog.text


def test_a_far_cache_that_raises_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Raising(Far):
        def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            raise OSError("no disk")

        def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
            raise OSError("no room")

    async def main() -> None:
        flights, computer = SingleFlight(MemoryCache(), Raising()), Computer(0.0)
        assert await ask(flights, computer, 1) == values(1)
        await asyncio.sleep(0)
        assert await ask(flights, computer, 2) == values(2)
        await flights.close()

    asyncio.run(main())
    assert "its answers are taken as misses" in caplog.text
    assert "1 values were not stored" in caplog.text


# -- worth


def is_on(worth: CacheGovernor) -> bool:
    return worth.is_on


def test_it_steps_aside_where_it_does_not_pay_and_tries_again() -> None:
    worth = CacheGovernor()
    worth.note(WINDOW, 10, WINDOW * 20e-6, row_s=5e-3)  # 50 ms saved for 10 ms
    assert is_on(worth)
    worth.note(WINDOW, 10, WINDOW * 20e-6, row_s=50e-6)  # half a ms saved for 10 ms
    assert not is_on(worth)
    worth.skip(REST - 1)
    assert not is_on(worth)
    worth.skip(1)
    assert is_on(worth)
    worth.note(WINDOW, 0, WINDOW * 20e-6, row_s=50e-6)
    worth.skip(REST)
    assert not is_on(worth)  # it failed twice: twice the rest
    worth.skip(REST)
    assert is_on(worth)
    worth.note(WINDOW // 2, WINDOW // 2, 1e-3, row_s=50e-6)
    assert is_on(worth)
    worth.note(WINDOW, WINDOW, WINDOW * 20e-6, row_s=50e-6)
    assert is_on(worth)


def test_nothing_is_decided_before_a_row_was_run() -> None:
    worth = CacheGovernor()
    worth.note(10 * WINDOW, 0, 1.0, row_s=0.0)
    assert is_on(worth)
