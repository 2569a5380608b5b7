"""Threads for work that must not run in the event loop: a model's pre- and postprocessing, and long bodies.

User code may sleep, hang or compute for long. In the event loop it would stop every model and every probe. Each model has its
own threads and queue, so that a slow model does not delay another one (docs/adr/0030).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from nograd.batching.collate import model_error
from nograd.batching.refusals import late
from nograd.errors import OverloadedError, UnavailableError
from nograd.server.models.code_queue import CodeJob, CodeQueue
from nograd.server.models.liveness import stack_of, stuck_after
from nograd.server.telemetry.logs import event

__all__ = ["CodeThreads"]

Result = TypeVar("Result")
Value = TypeVar("Value")

SMOOTHING = 0.1
"""Weight of the newest job in the running mean of seconds per item."""

REPORT_EVERY_S = 10.0
"""Seconds between two log lines about requests whose timeout passed while their code ran."""


class CodeThreads:
    """Runs calls that may block in its own threads, with a bounded queue. For one event loop.

    Args:
        name: name of the model, for logs and errors.
        threads: number of threads; they start with the first call. With one thread, calls never overlap.
        max_items: maximum waiting items; further calls are rejected.
        stuck_after_s: seconds of one call after which its thread counts as stuck, or 20 times the predicted duration if that
            is longer.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int = 1,
        max_items: int = 1024,
        stuck_after_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._num_threads = threads
        self._max_items = max_items
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._queue = CodeQueue(clock)
        self._is_started = False
        self._item_s = 0.0
        self._reported_at = -REPORT_EVERY_S
        self._end = weakref.finalize(self, self._queue.close)
        self.overdue = 0
        """Requests whose timeout passed while their call ran."""

    # -- calls

    async def run(
        self, work: Callable[[], Result], what: str, *, timeout_s: float | None, items: int = 1, is_finishing: bool = False
    ) -> Result:
        """Call a function in a thread, and return its result.

        Args:
            work: the function; it may block.
            what: name of the work in errors and logs, such as `preprocess`.
            timeout_s: seconds for the wait and the call together; None: no limit.
            items: number of rows, which count in the queue.
            is_finishing: whether the work ends a request that the model has computed. Such work runs first and is never
                rejected.

        Raises:
            DeadlineError: the timeout passed.
            OverloadedError: the queue is full.
            UnavailableError: the model was closed.
            Exception: any error of `work`. A BaseException that is not an Exception becomes a ModelError.
        """
        job = CodeJob(work, what, items, asyncio.get_running_loop().create_future())
        result: Result = await self._result_of(job, timeout_s, is_finishing=is_finishing)
        return result

    async def run_each(
        self, work: Callable[[Value], Result], values: Sequence[Value], what: str, *, timeout_s: float | None
    ) -> list[Result]:
        """Call a function for each value, and return the results; arguments and errors as for `run`.

        If the caller leaves or its time is up, the work ends before the next value.
        """
        future = asyncio.get_running_loop().create_future()
        job = CodeJob(partial(_results, work, values, future.done), what, len(values), future)
        results: list[Result] = await self._result_of(job, timeout_s, is_finishing=False)
        return results

    async def _result_of(self, job: CodeJob, timeout_s: float | None, *, is_finishing: bool) -> Any:
        if timeout_s is not None and timeout_s <= 0:
            raise late(0.0)
        if not is_finishing:
            self._require_room(job.items)
        self._start()
        job.deliver = partial(_deliver, asyncio.get_running_loop(), weakref.WeakMethod(self._note))
        if not self._queue.put(job, first=is_finishing):
            raise UnavailableError(f"model {self._name!r} was stopped")
        timer = None
        if timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(timeout_s, self._expire, job, timeout_s)
        try:
            return await job.future
        finally:
            self._queue.discard(job)
            if timer is not None:
                timer.cancel()

    def _require_room(self, items: int) -> None:
        waiting = self._queue.items
        if waiting and waiting + items > self._max_items:
            wait_s = max(1.0, waiting * self._item_s / self._num_threads)
            raise OverloadedError(
                f"{waiting} items of at most {self._max_items} wait for preprocessing; try again in {wait_s:.1f} s",
                retry_after_s=wait_s,
            )

    def _expire(self, job: CodeJob, timeout_s: float) -> None:
        """Answer a request whose time is up; report it if its code runs."""
        if job.future.done():
            return
        job.future.set_exception(late(timeout_s))
        if job.begun is not None:
            self.overdue += 1
            self._report_overdue(job)

    def _report_overdue(self, job: CodeJob) -> None:
        now = self._clock()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            seconds = round(now - (job.begun or now), 3)
            event("code_overdue", logging.WARNING, model=self._name, code=job.what, seconds=seconds, stack=stack_of(job.thread))

    def _note(self, job: CodeJob) -> None:
        """Update the mean seconds per item, in the event loop."""
        item_s = job.seconds / max(1, job.items)
        self._item_s += SMOOTHING * (item_s - self._item_s) if self._item_s else item_s

    # -- threads

    def _start(self) -> None:
        if self._is_started:
            return
        self._is_started = True
        for number in range(self._num_threads):
            name = f"nograd-code-{self._name}-{number}"
            threading.Thread(target=_serve, args=(self._queue,), name=name, daemon=True).start()

    def close(self) -> None:
        """End each thread after its running call; waiting calls fail."""
        for job in self._end() or ():
            if not job.future.done():
                job.future.set_exception(UnavailableError(f"model {self._name!r} was stopped"))

    @property
    def waiting_items(self) -> int:
        """Number of items that wait for a thread."""
        return self._queue.items

    def stuck(self) -> list[CodeJob]:
        """Return the calls that count as stuck; each is logged once."""
        now = self._clock()
        found = [job for job in self._queue.running() if now - (job.begun or now) > self._limit_s(job)]
        for job in found:
            if not job.is_reported:
                job.is_reported = True
                seconds = round(now - (job.begun or now), 3)
                event("code_stuck", logging.ERROR, model=self._name, code=job.what, seconds=seconds, stack=stack_of(job.thread))
        return found

    def _limit_s(self, job: CodeJob) -> float:
        return stuck_after(self._item_s * job.items, self._stuck_after_s, is_first=False)

    def trouble(self) -> str:
        """Return why a restart is needed, in one sentence; empty unless all threads are stuck."""
        found = self.stuck()
        if len(found) < self._num_threads:
            return ""
        seconds = self._clock() - min(job.begun or 0.0 for job in found)
        every = "its thread" if self._num_threads == 1 else f"all {self._num_threads} threads"
        return f"{found[0].what} has run for {seconds:.0f} s and occupies {every}"

    def snapshot(self) -> dict[str, Any]:
        """Return the data for the live page and the metrics."""
        return {
            "threads": self._num_threads,
            "stuck": len(self.stuck()),
            "waiting_items": self.waiting_items,
            "overdue": self.overdue,
            "item_ms": self._item_s * 1000,
        }


def _serve(queue: CodeQueue) -> None:
    """Run jobs until the queue is closed. An idle thread references only the queue."""
    while (job := queue.get()) is not None:
        result: Any = None
        error: Exception | None = None
        try:
            result = job.work()
        except StopIteration as raised:  # a future cannot store it
            error = model_error(job.what, raised)
        except Exception as raised:  # noqa: BLE001  the request gets it
            error = raised
        except BaseException as raised:  # noqa: BLE001  user code raised it: signals are handled in the main thread only
            error = model_error(job.what, raised)
        queue.finish(job)
        job.deliver(job, result, error)
        del job, result, error


def _deliver(
    loop: asyncio.AbstractEventLoop, note: weakref.WeakMethod[Callable[[CodeJob], None]], job: CodeJob, result: Any, error: Any
) -> None:
    """Pass a result from a thread to the event loop."""
    try:
        loop.call_soon_threadsafe(_settle, note, job, result, error)
    except RuntimeError:  # the loop is closed, so there is no caller
        return


def _settle(note: weakref.WeakMethod[Callable[[CodeJob], None]], job: CodeJob, result: Any, error: Exception | None) -> None:
    found = note()
    if found is not None:
        found(job)
    if job.future.done():
        return
    if error is None:
        job.future.set_result(result)
    else:
        job.future.set_exception(error)


def _results(work: Callable[[Value], Result], values: Sequence[Value], is_left: Callable[[], bool]) -> list[Result]:
    found: list[Result] = []
    for value in values:
        if is_left():
            break
        found.append(work(value))
    return found
