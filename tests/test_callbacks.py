"""A coroutine over a callback, and a callback over a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nograd.runtime.callbacks import Cancel, call_back, run_in_task, wait_for
from tests.virtual_loop import run, virtual


class Work:
    """Calls back when the test says so."""

    def __init__(self) -> None:
        self.done: Callable[[Any], None] | None = None
        self.cancelled = 0

    def start(self, done: Callable[[Any], None]) -> Cancel:
        self.done = done
        return self.cancel

    def cancel(self) -> None:
        self.cancelled += 1


@virtual
async def test_waiting_returns_the_result_also_if_it_is_there_at_once() -> None:
    work = Work()
    waiting = asyncio.ensure_future(wait_for(work.start))
    await asyncio.sleep(0)
    assert work.done is not None
    work.done(3)
    assert await waiting == 3

    def at_once(done: Callable[[int | Exception], None]) -> Cancel:
        done(4)
        return work.cancel

    assert await wait_for(at_once) == 4
    assert work.cancelled == 0


@virtual
async def test_waiting_raises_the_error_that_was_called_back_or_raised() -> None:
    def fails(done: Callable[[int | Exception], None]) -> Cancel:
        done(KeyError("called back"))
        return lambda: None

    def raises(_: Callable[[int | Exception], None]) -> Cancel:
        raise ValueError("raised")

    with pytest.raises(KeyError, match="called back"):
        await wait_for(fails)
    with pytest.raises(ValueError, match="raised"):
        await wait_for(raises)


@virtual
async def test_a_cancelled_waiter_cancels_the_work_and_a_late_result_is_dropped() -> None:
    work = Work()
    waiting = asyncio.ensure_future(wait_for(work.start))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled == 1
    assert work.done is not None
    work.done(5)


@virtual
async def test_a_task_calls_back_with_its_result_or_its_error() -> None:
    found: list[Any] = []

    async def later(result: int) -> int:
        await asyncio.sleep(1)
        if result < 0:
            raise ValueError(result)
        return result

    run_in_task(later(1), found.append)
    run_in_task(later(-1), found.append)
    await asyncio.sleep(2)

    assert found[0] == 1
    assert isinstance(found[1], ValueError)


@virtual
async def test_a_task_that_was_cancelled_does_not_call_back_even_if_it_ends_in_the_same_turn() -> None:
    found: list[Any] = []
    cancels: list[Cancel] = []
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append("waits")

    async def ends() -> None:
        cancels[1]()
        ended.append("ends")

    cancels.append(run_in_task(waits(), found.append))
    cancels.append(run_in_task(ends(), found.append))
    await asyncio.sleep(1)
    cancels[0]()
    await asyncio.sleep(1)

    assert found == []
    assert ended == ["ends", "waits"]


def test_an_exception_of_a_callback_is_reported_to_the_loop() -> None:
    reported: list[dict[str, Any]] = []

    def failing(_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        call_back(failing, 1)

    run(main())

    assert [type(each["exception"]) for each in reported] == [ZeroDivisionError]
