"""Conversions between callbacks and coroutines of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias, TypeVar

__all__ = ["Cancel", "call_back", "run_in_task", "wait_for"]

T = TypeVar("T")

Cancel: TypeAlias = Callable[[], object]
"""Cancels the work; its callback is not called afterwards."""


async def wait_for(start: Callable[[Callable[[T | Exception], None]], Cancel]) -> T:
    """Wait for the result of callback-based work; cancel it if the caller is cancelled.

    Args:
        start: starts the work; receives the callback, and returns a function that cancels the work.

    Raises:
        Exception: the error passed to the callback, or raised by `start`.
    """
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    cancel = start(partial(_resolve, future))
    try:
        return await future
    except asyncio.CancelledError:
        cancel()
        raise


def _resolve(future: asyncio.Future[T], result: T | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def run_in_task(work: Coroutine[Any, Any, T], done: Callable[[T | Exception], None]) -> Cancel:
    """Run a coroutine in a task and call back with its result or its error.

    Returns:
        A function that cancels the task. A cancelled task does not call back.
    """
    task = asyncio.get_running_loop().create_task(work)

    def finish(_: asyncio.Task[T]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            done(task.result())
        elif isinstance(error, Exception):
            done(error)

    task.add_done_callback(finish)

    def cancel() -> None:
        task.remove_done_callback(finish)
        task.cancel()

    return cancel


def call_back(done: Callable[[T | Exception], None], result: T | Exception) -> None:
    """Call a callback. An exception in it is reported to asyncio's handler, so that later callbacks still run."""
    try:
        done(result)
    except Exception as error:  # noqa: BLE001  see above
        context = {"message": "answering a request failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
