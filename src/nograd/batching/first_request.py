"""Learning a model's signature from the first request, off the event loop, while further requests wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nograd.batching.refusals import copy_error
from nograd.errors import NogradError, OverloadedError
from nograd.runtime.threads import in_own_thread

__all__ = ["RequestLearner"]


class RequestLearner:
    """Learns from one request at a time. If learning fails, only that request fails, and the next request is used.

    Args:
        learn: learns from inputs, blocking; runs in its own thread.
        is_done: whether the model is known; evaluated in the event loop, so that all waiting requests continue together.
        max_waiting: maximum number of waiting requests.
    """

    def __init__(self, learn: Callable[[Any], None], is_done: Callable[[], bool], max_waiting: int) -> None:
        self._learn = learn
        self._check_done = is_done
        self._is_done = False
        self._max_waiting = max_waiting
        self._waiting = 0
        self._attempt: asyncio.Future[BaseException | None] | None = None
        self._stopped: NogradError | None = None
        self._empty: asyncio.Event | None = None

    async def wait(self, inputs: Any) -> None:
        """Return when the model is known.

        Args:
            inputs: inputs to learn from, unless an earlier request supplies them.

        Raises:
            OverloadedError: too many requests wait.
            NogradError: the model cannot run these inputs, or waiting was stopped.
        """
        if self._waiting >= self._max_waiting:
            raise OverloadedError(f"{self._waiting} requests wait until the model is known; try again in 1 s")
        self._waiting += 1
        try:
            while not self._is_done:
                await self._take_part(inputs)
        finally:
            self._waiting -= 1
            if not self._waiting and self._empty is not None:
                self._empty.set()

    async def wait_empty(self) -> None:
        """Return when no request waits."""
        self._empty = asyncio.Event()
        if self._waiting:
            await self._empty.wait()

    def stop(self, error: NogradError) -> None:
        """Fail the waiting requests; a running attempt finishes in its thread."""
        self._stopped = error
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result(None)

    async def _take_part(self, inputs: Any) -> None:
        """Start an attempt, or wait for the running one; raise only errors of this request."""
        is_own = self._attempt is None
        attempt = self._attempt or self._begin(inputs)
        await asyncio.wait({attempt})  # a cancelled caller must not cancel the attempt of the others
        if self._stopped is not None:
            raise copy_error(self._stopped)
        error = attempt.result()
        if is_own and error is not None:
            raise error

    def _begin(self, inputs: Any) -> asyncio.Future[BaseException | None]:
        loop = asyncio.get_running_loop()
        self._attempt = attempt = loop.create_future()

        def end(error: BaseException | None) -> None:
            self._attempt, self._is_done = None, self._check_done()
            if not attempt.done():
                attempt.set_result(error)

        def learn() -> None:
            error: BaseException | None = None
            try:
                self._learn(inputs)
            except BaseException as raised:  # noqa: BLE001  raised in the request that supplied the inputs
                error = raised
            with suppress(RuntimeError):  # the loop is closed: no requests are left
                loop.call_soon_threadsafe(end, error)

        in_own_thread(learn)
        return attempt
