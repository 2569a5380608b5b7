"""ModelStreamInfer: many infer calls on one stream. They run concurrently and are answered in the order of arrival.

A failed request is answered with its error message, and the stream continues; the gRPC status applies to the stream as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

__all__ = ["MOST_AT_ONCE", "in_order"]

MOST_AT_ONCE = 128
"""Maximum requests of a stream that run or wait to be written; further requests are not read."""


async def in_order(
    requests: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[bytes]], most: int = MOST_AT_ONCE
) -> AsyncGenerator[bytes, None]:
    """Yield the answer to each request, in the order of the requests.

    If the caller stops iterating, unanswered requests are cancelled.

    Args:
        requests: yields the requests.
        answer: answers one request; an error ends the stream.
        most: maximum number of concurrent requests.
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
