"""ModelStreamInfer: many infer calls over one stream. They run side by side, and are answered in the order in which they came.

A request that fails is answered with its sentence, and the stream goes on; gRPC's own status is for the stream as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

__all__ = ["MOST_AT_ONCE", "in_order"]

MOST_AT_ONCE = 128
"""Requests of one stream that run, or wait for their turn to be written, at once; then no more are read."""


async def in_order(
    requests: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[bytes]], most: int = MOST_AT_ONCE
) -> AsyncGenerator[bytes, None]:
    """Yield the answer to each request, in the order of the requests.

    Args:
        requests: come one by one, and may end.
        answer: answers one, and raises nothing but what ends the stream.
        most: requests that are worked on at once; more are not taken.

    What is not answered when the caller stops listening is cancelled.
    """
    room = asyncio.Semaphore(most)
    waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[Any]] = set()

    def begin(work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def take() -> None:
        try:
            async for request in requests:
                await room.acquire()
                waiting.put_nowait(begin(answer(request)))
        finally:
            waiting.put_nowait(None)

    taking = begin(take())
    try:
        while (task := await waiting.get()) is not None:
            done = await task
            room.release()
            yield done
        await taking
    finally:
        for each in list(tasks):
            each.cancel()
