"""DynamicBatcher: the asyncio shell around a policy, and one device thread for each lane of the backend.

All queue state lives in the event loop's thread, so there are no locks. A device thread receives the parts of one
batch, joins, runs and parts them, and hands the outputs back. Nothing polls: an arrival, a finished batch, a deadline
or a policy's `wake_at` are the only things that wake it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self

from nograd.batching.collate import chunks, merge, model_error, padding_share, run_apart
from nograd.batching.policy import LOOK_AHEAD, BatchPolicy, Decision, DeviceState, Reason, Waiting, WindowPolicy
from nograd.errors import ConfigError, DeadlineError, NogradError, OverloadedError, TooLargeError, UnavailableError
from nograd.tensors import Batch, Signature, num_rows
from nograd.threads import in_own_thread

__all__ = ["BatchRecord", "DynamicBatcher", "Runner", "Statistics"]

TIMER_RESOLUTION_S = 0.002
"""A timer may fire this much early: uvloop counts in milliseconds."""

SMOOTHING = 0.1
"""Weight of the newest batch in the running mean of seconds per row, which predicts when a full queue has emptied."""


class Runner(Protocol):
    """What a batcher drives; `nograd.Predictor` is one."""

    @property
    def signature(self) -> Signature:
        """Of the parts that `run` takes."""
        ...

    @property
    def lanes(self) -> int:
        """Calls to `run` that may go on side by side."""
        ...

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts, and the function that makes the caller's answer of their outputs."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Run one batch, blocking."""
        ...


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch as it was run."""

    rows: int
    requests: int
    reason: Reason
    run_s: float
    """Joining, running and parting, in the device thread."""

    waited_s: tuple[float, ...]
    """How long each part waited in the queue."""

    padding_share: float
    failed: int
    """Parts whose rows made the model raise."""


@dataclass(slots=True)
class Statistics:
    """What a batcher did since it was made, and what it holds now. Requests are counted in parts, as they are queued."""

    requests: int = 0
    rows: int = 0
    batches: int = 0
    refused: int = 0
    """Requests for which the queue had no room."""

    expired: int = 0
    """Answered late: their time ran out."""

    cancelled: int = 0
    """Left by their callers."""

    failed: int = 0
    """Made the model raise."""

    queue_rows: int = 0
    running_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Batches by release reason."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One part in the queue, and the future that answers it."""

    part: Batch
    waiting: Waiting
    future: asyncio.Future[Batch]


@dataclass(slots=True)
class _Job:
    """One batch on its way to the device thread and back."""

    entries: list[_Entry]
    reason: Reason
    started: float
    outcomes: list[Batch | Exception] = field(default_factory=list)
    run_s: float = 0.0


class DynamicBatcher:
    """Gathers concurrent requests into batches.

    >>> async def both(predictor, a, b):
    ...     async with DynamicBatcher(predictor, max_batch_size=32) as batcher:
    ...         return await asyncio.gather(batcher.predict(a), batcher.predict(b))

    Args:
        predictor: what runs the batches.
        max_batch_size: rows in one run, at most. A longer request runs in several parts.
        max_wait_ms: longest wait of a request for company, in milliseconds; 0 (work-conserving) is best on one device.
        max_queue_rows: rows that may wait; a request beyond is refused at once.
        inline: runs batches in the event loop's own thread: right for a model that takes less than handing a batch to a
            thread and back does (0.1 ms), wrong for any other.
        policy: decides instead of `WindowPolicy(max_batch_size, max_wait_ms)`.
        observer: called in the event loop with a record of each batch.
        clock: gives seconds that never go back. (Not the loop's: uvloop's own goes in milliseconds.)
    """

    def __init__(
        self,
        predictor: Runner,
        *,
        max_batch_size: int = 32,
        max_wait_ms: float = 0.0,
        max_queue_rows: int = 1024,
        inline: bool = False,
        policy: BatchPolicy | None = None,
        observer: Callable[[BatchRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_queue_rows < 1:
            raise ConfigError(f"max_queue_rows is {max_queue_rows}; it must be at least 1")
        if not isinstance(getattr(predictor, "signature", None), Signature):
            raise ConfigError(f"a DynamicBatcher takes a nograd.Predictor, not {type(predictor).__name__}")
        default = WindowPolicy(max_batch_size, max_wait_ms, predictor.signature.batching)
        self._runner = predictor
        self._policy: BatchPolicy = policy or default
        self._max_batch_size = max_batch_size
        self._max_queue_rows = max_queue_rows
        self._observer = observer
        self._inline = inline
        self._clock = clock
        self._unanswered: dict[int, _Entry] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = inf
        self._queue: dict[int, _Entry] = {}
        self._queue_rows = 0
        self._running_rows = 0
        self._free_lanes = 0
        self._seconds_per_row = 0.0
        self._pump_scheduled = False
        self._wake: asyncio.TimerHandle | None = None
        self._state = "new"
        self._idle: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._counts = Statistics()
        self._reasons: Counter[str] = Counter()

    # -- life

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise UnavailableError(f"this batcher is {self._state}; make a new one")
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._free_lanes = self._runner.lanes
        lanes = 0 if self._inline else self._free_lanes
        self._threads = [
            threading.Thread(target=self._device_thread, name=f"nograd-device-{i}", daemon=True) for i in range(lanes)
        ]
        for thread in self._threads:
            thread.start()
        self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace_s: float = 30.0) -> None:
        """Refuse new requests, answer those that wait, end the device threads.

        Args:
            grace_s: seconds for what waits; then the queue is failed and only the running batch is awaited.
        """
        if self._state != "open":
            return
        self._state = "draining"
        self._schedule_pump()
        self._idle.clear()
        self._note_idle()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            for entry in list(self._queue.values()):
                self._fail(entry, UnavailableError(f"the server stopped before this request's turn (grace {grace_s:g} s)"))
            await self._idle.wait()
        self._state = "closed"
        self._cancel_wake()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.wrap_future(in_own_thread(thread.join))

    # -- requests

    async def predict(self, inputs: Any, *, timeout_s: float | None = None) -> Any:
        """Return what `predictor.predict(inputs)` returns, run together with whatever else waits.

        Args:
            inputs: as for the predictor.
            timeout_s: seconds from now after which nobody needs the answer; None waits for as long as it takes.

        Raises:
            SignatureError: the inputs are not the model's.
            OverloadedError: the queue is full; `retry_after_s` says when it should have emptied.
            DeadlineError: `timeout_s` passed.
            UnavailableError: the batcher is closed.
            ModelError: the model raised on these inputs; others of the same batch are not concerned.
        """
        parts, finish = self._runner.prepare(inputs)
        return finish(await self.run(parts, timeout_s=timeout_s))

    async def run(self, parts: Sequence[Batch], *, timeout_s: float | None = None) -> list[Batch]:
        """Return the outputs of prepared parts, one for each; all are admitted or none.

        Raises:
            As `predict`.
        """
        rows = num_rows(parts[0]) if len(parts) == 1 else sum(map(num_rows, parts))
        self._admit(rows)
        now = self._clock()
        deadline = inf if timeout_s is None else now + timeout_s
        if len(parts) == 1 and rows <= self._max_batch_size:
            entry = self._enqueue(parts[0], rows, now, deadline)
            try:
                return [await entry.future]
            finally:
                self._leave(entry)
        cut = [chunks(part, self._max_batch_size) for part in parts]
        entries = [self._enqueue(piece, num_rows(piece), now, deadline) for pieces in cut for piece in pieces]
        try:
            outputs = iter(await asyncio.gather(*(entry.future for entry in entries)))
            return [merge(list(islice(outputs, len(pieces)))) for pieces in cut]
        finally:
            for entry in entries:
                self._leave(entry)

    def statistics(self) -> Statistics:
        """Return a snapshot."""
        return replace(self._counts, queue_rows=self._queue_rows, running_rows=self._running_rows, reasons=dict(self._reasons))

    def predicted_wait_s(self) -> float:
        """Return how long the rows that wait now should take, from the running mean of seconds per row."""
        return self._queue_rows * self._seconds_per_row / self._runner.lanes

    def _admit(self, rows: int) -> None:
        if self._state == "new":
            raise UnavailableError("the batcher is not open; use it inside `async with`")
        if self._state != "open":
            raise UnavailableError(f"the server is {self._state}")
        if self._queue_rows + rows <= self._max_queue_rows:
            return
        if rows > self._max_queue_rows:
            raise TooLargeError(
                f"the request has {rows} rows; the queue takes at most {self._max_queue_rows}: send fewer at a time"
            )
        self._counts.refused += 1
        wait_s = self.predicted_wait_s()
        full = f"the queue holds {self._queue_rows} of at most {self._max_queue_rows} rows"
        raise OverloadedError(f"{full}; try again in {wait_s:.1f} s", retry_after_s=wait_s)

    def _enqueue(self, part: Batch, rows: int, now: float, deadline: float) -> _Entry:
        sizes = self._runner.signature.sizes_of(part)
        waiting = Waiting(rows, now, deadline, sum(sizes) if sizes else 1, sizes)
        entry = _Entry(part, waiting, self._loop.create_future())
        self._queue[id(entry)] = entry
        self._unanswered[id(entry)] = entry
        self._queue_rows += rows
        self._counts.requests += 1
        self._counts.rows += rows
        if deadline < self._expiry_at:
            self._watch_deadline(deadline, now)
        self._schedule_pump()
        return entry

    def _leave(self, entry: _Entry) -> None:
        """Forget a request that was answered, or whose caller went away; one that still waits leaves the queue."""
        if self._unanswered.pop(id(entry), None) is None:
            return
        if self._queue.pop(id(entry), None) is not None:
            self._queue_rows -= entry.waiting.rows
        if not entry.future.done():
            entry.future.cancel()
        self._counts.cancelled += entry.future.cancelled()
        if not self._unanswered:
            self._note_idle()

    # -- deadlines

    def _watch_deadline(self, deadline: float, now: float) -> None:
        """Keep one timer, for the earliest deadline of all."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = deadline
        self._expiry = self._loop.call_later(max(0.0, deadline - now), self._expire)

    def _expire(self) -> None:
        self._expiry, self._expiry_at = None, inf
        now = self._clock()
        for entry in list(self._unanswered.values()):
            if entry.waiting.deadline <= now + TIMER_RESOLUTION_S:
                timeout_s = entry.waiting.deadline - entry.waiting.arrived
                self._counts.expired += not entry.future.done()
                self._fail(entry, DeadlineError(f"no answer within {timeout_s:g} s; give more time, or send less at once"))
        earliest = min((entry.waiting.deadline for entry in self._unanswered.values()), default=inf)
        if earliest < inf:
            self._watch_deadline(earliest, now)

    def _fail(self, entry: _Entry, error: NogradError) -> None:
        if not entry.future.done():
            entry.future.set_exception(error)
        self._leave(entry)

    # -- batches

    def _schedule_pump(self) -> None:
        """Decide in the loop's next turn, so that requests read in this one can share a batch."""
        if not self._pump_scheduled and self._free_lanes:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        self._cancel_wake()
        while self._queue and self._free_lanes:
            oldest = list(islice(self._queue.values(), LOOK_AHEAD))
            now = self._clock()
            decision = self._decide(oldest, now)
            if decision is None:
                continue
            if not decision.take:
                if decision.wake_at is not None:
                    self._wake = self._loop.call_later(max(0.0, decision.wake_at - now), self._pump)
                return
            self._start([oldest[position] for position in decision.take], decision.reason, now)

    def _decide(self, oldest: list[_Entry], now: float) -> Decision | None:
        """Ask the policy; where it raises, its requests get the error and the batcher lives on."""
        state = DeviceState(self._free_lanes, draining=self._state != "open")
        try:
            decision = self._policy.decide([entry.waiting for entry in oldest], now, state)
            if len({position for position in decision.take if 0 <= position < len(oldest)}) != len(decision.take):
                raise ValueError(f"take is {decision.take}; it must hold positions from 0 to {len(oldest) - 1}, each once")
            return decision
        except Exception as error:  # noqa: BLE001  a user's policy may raise anything
            self._counts.failed += len(oldest)
            for entry in oldest:
                self._fail(entry, model_error("the batch policy", error))
            return None

    def _start(self, entries: list[_Entry], reason: Reason, now: float) -> None:
        for entry in entries:
            del self._queue[id(entry)]
            self._queue_rows -= entry.waiting.rows
            self._running_rows += entry.waiting.rows
        self._free_lanes -= 1
        job = _Job(entries, reason, now)
        if self._inline:
            self._execute(job)
            self._loop.call_soon(self._finish, job)
        else:
            self._jobs.put(job)

    def _device_thread(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._execute(job)
            with suppress(RuntimeError):  # the loop was closed without closing the batcher: nobody is left to answer
                self._loop.call_soon_threadsafe(self._finish, job)

    def _execute(self, job: _Job) -> None:
        begun = self._clock()
        parts = [entry.part for entry in job.entries]
        try:
            job.outcomes = [*run_apart(parts, self._runner.run, self._runner.signature)]
        except BaseException as error:  # noqa: BLE001  SystemExit from a model must not end the thread that serves the others
            job.outcomes = [model_error("the model", error) for _ in parts]
        job.run_s = self._clock() - begun

    def _finish(self, job: _Job) -> None:
        """Back in the event loop: a device thread gets its next batch before anybody is answered, so that it is never idle;
        where the loop itself is the device, answers go out first."""
        self._free_lanes += 1
        rows = sum(entry.waiting.rows for entry in job.entries)
        self._running_rows -= rows
        self._seconds_per_row += (SMOOTHING if self._counts.batches else 1.0) * (job.run_s / rows - self._seconds_per_row)
        self._counts.batches += 1
        self._reasons[job.reason] += 1
        if not self._inline:
            self._pump()
        for entry, outcome in zip(job.entries, job.outcomes, strict=True):
            self._answer(entry, outcome)
        if self._inline:
            self._loop.call_soon(self._schedule_pump)
        self._note_idle()
        if self._observer is not None:
            self._observer(_record(job, rows))

    def _answer(self, entry: _Entry, outcome: Batch | Exception) -> None:
        self._counts.failed += isinstance(outcome, Exception)
        if entry.future.done():  # cancelled or expired while it ran: the result is dropped
            return
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)

    def _note_idle(self) -> None:
        if self._queue or self._running_rows or self._unanswered:
            return
        self._idle.set()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry, self._expiry_at = None, inf

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None


def _record(job: _Job, rows: int) -> BatchRecord:
    waits = tuple(job.started - entry.waiting.arrived for entry in job.entries)
    padding = padding_share([entry.waiting.rows for entry in job.entries], [entry.waiting.length for entry in job.entries])
    failed = sum(isinstance(outcome, Exception) for outcome in job.outcomes)
    return BatchRecord(rows, len(job.entries), job.reason, job.run_s, waits, padding, failed)
