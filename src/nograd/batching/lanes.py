"""The device threads, one per lane. They take jobs from a queue and return them to the event loop.

An idle thread references only the job queue. If a batcher is dropped, it is therefore collected, and its threads end.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from nograd.batching.collate import model_error
from nograd.batching.faults import Outcome, run_apart
from nograd.batching.jobs import Job
from nograd.batching.records import Execution
from nograd.core.tensors import Batch, Signature, num_rows
from nograd.errors import DeviceLostError
from nograd.runtime.interrupts import is_interrupt
from nograd.runtime.threads import in_own_thread

__all__ = ["Lanes"]


class Runnable(Protocol):
    """An object that runs batches."""

    @property
    def signature(self) -> Signature:
        """Signature of the parts that `run` takes."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Run one batch, blocking."""
        ...


class Lanes:
    """Runs jobs in device threads, or in the caller's thread.

    Args:
        runner: the model.
        seconds: predicted run time by number of parts.
        clock: returns the time in seconds.
        finished: called in the event loop with each finished job.
        lost: called in the event loop if a thread ends unexpectedly.
    """

    def __init__(
        self,
        runner: Runnable,
        *,
        seconds: Callable[[int], float],
        clock: Callable[[], float],
        finished: Callable[[Job], None],
        lost: Callable[[DeviceLostError], None],
    ) -> None:
        self._runner = runner
        self._seconds = seconds
        self._clock = clock
        self._finished = finished
        self._lost = lost
        self._jobs: SimpleQueue[tuple[Lanes, Job] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ending: weakref.finalize[..., Lanes] | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self, count: int) -> None:
        """Start `count` threads; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=_device_thread, args=(self._jobs,), name=f"nograd-device-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()
        self._ending = weakref.finalize(self, _end, self._jobs, count)

    def submit(self, job: Job) -> None:
        """Queue a job for the first free thread."""
        self._jobs.put((self, job))

    def end(self) -> None:
        """End each thread after its current job."""
        if self._ending is not None:
            self._ending()

    async def stop(self, *, wait: bool) -> None:
        """End the threads.

        Args:
            wait: wait until they have ended; False abandons a thread that hangs in a run.
        """
        self.end()
        if wait:
            for thread in self._threads:
                await asyncio.wrap_future(in_own_thread(thread.join))

    def run(self, job: Job) -> None:
        """Execute a job in a device thread and report it to the loop, even if the thread must end."""
        is_executed = False
        try:
            self.execute(job)
            is_executed = True
        finally:
            with suppress(RuntimeError):  # the loop was closed before the batcher: no callers are left
                if is_executed:
                    self._loop.call_soon_threadsafe(self._finished, job)
                else:
                    lost = DeviceLostError("the device's thread has ended; restart this server")
                    self._loop.call_soon_threadsafe(self._lost, lost)

    def execute(self, job: Job) -> None:
        """Run a job in the calling thread."""
        begun = self._clock()
        entries = job.entries
        watched = _TimedRun(self._runner.run, self._clock)
        try:
            job.outcome = run_apart(
                [entry.part for entry in entries],
                watched.run,
                self._runner.signature,
                seconds=self._seconds,
                is_due=lambda position: entries[position].deadline >= self._clock() and not entries[position].future.done(),
            )
        except DeviceLostError as error:
            job.lost = error
        except BaseException as error:  # the device thread must survive any error
            if is_interrupt(error):  # quick models run in the thread of the event loop
                raise
            job.outcome = Outcome([model_error("the model", error) for _ in entries], runs=2)
        ended = self._clock()
        job.run_s = ended - begun
        job.executions = watched.executions(begun, ended)


def _device_thread(jobs: SimpleQueue[tuple[Lanes, Job] | None]) -> None:
    """Run jobs until the queue returns None."""
    while (item := jobs.get()) is not None:
        lanes, job = item
        lanes.run(job)
        del item, lanes, job  # release the callers' arrays while this thread waits for the next job


def _end(jobs: SimpleQueue[tuple[Lanes, Job] | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)


class _TimedRun:
    """Times the calls of a model's `run`."""

    __slots__ = ("_calls", "_clock", "_run")

    def __init__(self, run: Callable[[Batch], Batch], clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._calls: list[tuple[int, float, float]] = []

    def run(self, batch: Batch) -> Batch:
        """Run one batch; calls that raise are not recorded."""
        begun = self._clock()
        outputs = self._run(batch)
        self._calls.append((num_rows(batch), begun, self._clock()))
        return outputs

    def executions(self, begun: float, ended: float) -> tuple[Execution, ...]:
        """Return the recorded calls of a job.

        Args:
            begun: start of the job, in seconds.
            ended: end of the job, in seconds.
        """
        if len(self._calls) == 1:
            rows, start, end = self._calls[0]
            return (Execution(rows, start - begun, end - start, ended - end),)
        found = []
        for rows, start, end in self._calls:
            found.append(Execution(rows, start - begun, end - start, 0.0))
            begun = end
        if found:
            found[-1] = found[-1]._replace(output_s=ended - begun)
        return tuple(found)
