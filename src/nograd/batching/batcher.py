"""Batcher: the asyncio shell around a policy, with one device thread per lane of the backend.

It serves a model with a known signature in one event loop. `nograd.DynamicBatcher` is its public interface.

The thread of the event loop owns all queue state, so there are no locks. A device thread receives the parts of one batch, joins
them, runs the model, splits the outputs and returns them. There is no polling: only an arrival, a finished batch, a deadline or
a policy's `wake_at` triggers a decision.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Protocol, Self, cast

from nograd.batching.choice import policy_for
from nograd.batching.collate import chunks, model_error
from nograd.batching.expiry import ExpiryTimer
from nograd.batching.jobs import BatchReply, Job, QueueEntry, SplitReply, entry_of, record_of
from nograd.batching.lanes import Lanes
from nograd.batching.policy import BatchPolicy, Decision, DeviceState, checked_limits
from nograd.batching.queue import DeadlineQueue
from nograd.batching.records import BatchRecord, RequestTimes, RunningBatch, Statistics
from nograd.batching.refusals import check_request, copy_error, full, late, not_open, too_large, too_late
from nograd.core.cost import CostCurve
from nograd.core.tensors import Batch, Signature, num_rows
from nograd.errors import ConfigError, DeadlineError, DeviceLostError, NogradError, UnavailableError

__all__ = ["Batcher", "Runner", "check_settings"]

SMOOTHING = 0.1
"""Weight of the newest batch in the moving mean of seconds per row, which predicts when a full queue will be empty."""

INLINE_S = 2e-4
"""Models whose largest batch takes less time run in the event loop's thread, because a thread switch costs as much."""

MAX_QUEUE_BYTES = 256 * 1024 * 1024

RUNNING_BATCH_S = 30.0
"""Maximum seconds for the running batch after the grace period of `close`: a thread cannot be cancelled."""


class Runner(Protocol):
    """The interface of a model for the batcher; `nograd.Predictor` implements it."""

    @property
    def signature(self) -> Signature:
        """Signature of the parts that `run` takes."""
        ...

    @property
    def lanes(self) -> int:
        """Maximum number of concurrent calls to `run`."""
        ...

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Return checked parts, and a function that converts their outputs to the caller's answer."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Run one batch, blocking."""
        ...


@dataclass(slots=True)
class _BatcherCounts:
    requests: int = 0
    rows: int = 0
    batches: int = 0
    refused: int = 0
    displaced: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0


class Batcher:
    """Collects concurrent parts into batches, in the event loop that opened it.

    Args:
        runner: runs the batches; its signature is known.
        max_batch_size: as for `nograd.DynamicBatcher`; the other settings likewise.

    Raises:
        ConfigError: a limit is out of its range.
    """

    def __init__(  # noqa: PLR0913  all but the first by keyword
        self,
        runner: Runner,
        *,
        max_batch_size: int = 32,
        max_wait_ms: float = 0.0,
        max_queue_rows: int = 1024,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        max_batch_tokens: int | None = None,
        cost: CostCurve | None = None,
        inline: bool | None = None,
        policy: BatchPolicy | None = None,
        observer: Callable[[BatchRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        cost = getattr(runner, "cost", None) if cost is None else cost  # `cost` is optional for runners
        check_settings(max_batch_size, max_wait_ms, max_queue_rows, max_queue_bytes, cost)
        signature = runner.signature
        self._runner = runner
        self._is_foreign = policy is not None
        self._policy = chosen = policy or policy_for(
            signature,
            max_batch_size=max_batch_size,
            max_wait_ms=max_wait_ms,
            max_batch_tokens=max_batch_tokens,
            cost=cost,
        )
        self.inline = _is_quick(runner, cost) if inline is None else inline
        """Whether batches run in the event loop's thread."""
        self._max_queue_rows = max_queue_rows
        self._max_queue_bytes = max_queue_bytes
        self._row_bytes = signature.row_bytes
        self._varies = bool(signature.lengths)
        self._observer = observer
        self._clock = clock
        self._queue = DeadlineQueue()
        self._device = DeviceState(free_lanes=runner.lanes, lanes=runner.lanes)
        self._running: set[Job] = set()
        self._running_rows = 0
        self._delivering = 0
        self._expiry = ExpiryTimer(self._expire, clock)
        self._seconds_per_row = 0.0
        self._pump_scheduled = False
        self._wake: asyncio.TimerHandle | None = None
        self.lost_because = ""
        """Error of the device, once it is lost."""

        self._state = "new"
        self._idle: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._lanes = Lanes(
            runner,
            seconds=lambda count: chosen.expected_s(count, 1),
            clock=clock,
            finished=self._finish,
            lost=self._lose,
        )
        self._counts = _BatcherCounts()
        self._reasons: Counter[str] = Counter()

    # -- lifecycle

    @property
    def is_open(self) -> bool:
        """Whether requests are accepted; False before `open`, after `close`, and after the loss of the device or its thread."""
        return self._state == "open"

    @property
    def is_lost(self) -> bool:
        """Whether the device or its thread is lost. If so, restart the process."""
        return self._state == "lost"

    def running(self) -> list[RunningBatch]:
        """Return the batches on the device; always empty if batches run in the event loop."""
        now = self._clock()
        return [RunningBatch(now - job.started, job.predicted_s) for job in self._running]

    @property
    def state(self) -> str:
        """`new`, `open`, `draining`, `closed` or `lost`."""
        return self._state

    def open(self) -> None:
        """Start the device threads and accept requests, in the running event loop.

        Raises:
            UnavailableError: the batcher was opened before.
        """
        if self._state != "new":
            raise UnavailableError(f"this batcher is {self._state}; make a new one")
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._lanes.start(0 if self.inline else self._device.lanes)
        self._state = "open"

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def discard(self) -> None:
        """End the device threads of a batcher whose event loop was closed."""
        self._state = "closed"
        self._lanes.end()

    async def close(self, grace_s: float = 30.0) -> None:
        """Reject new requests, complete waiting ones, and end the device threads.

        Args:
            grace_s: seconds for waiting requests. After it they fail, and only the running batch may finish, within 30 s.
        """
        if self._state not in ("open", "lost"):
            return
        if self._state == "open":
            self._state = "draining"
            self._device.draining = True
            self._schedule_pump()
            await self._drain(grace_s)
        self._state = "closed"
        self._cancel_wake()
        self._expiry.stop()
        await self._lanes.stop(wait=not self._running)

    async def _drain(self, grace_s: float) -> None:
        self._idle.clear()
        self._note_idle()
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
            return
        except TimeoutError:
            self._fail_all(UnavailableError(f"the server stopped before this request's turn (grace {grace_s:g} s)"))
        try:
            await asyncio.wait_for(self._idle.wait(), RUNNING_BATCH_S)
        except TimeoutError:
            for job in self._running:
                for entry in job.entries:
                    self._fail(
                        entry, UnavailableError(f"the server stopped, and the batch did not end in {RUNNING_BATCH_S:g} s")
                    )

    # -- requests

    async def run(
        self, parts: Sequence[Batch], *, timeout_s: float | None = None, priority: int = 0, spent: RequestTimes | None = None
    ) -> list[Batch]:
        """Return the outputs of prepared parts, one per part. Either all parts are admitted, or none.

        Args:
            parts: checked parts of one or more rows each.
            timeout_s: as for `DynamicBatcher.predict`.
            priority: priority class; 0 is served first.
            spent: receives the times of the request.

        Raises:
            NogradError: as for `DynamicBatcher.predict`.
        """
        future: asyncio.Future[list[Batch]] = self._loop.create_future()
        forget = self.submit(parts, future, timeout_s=timeout_s, priority=priority, spent=spent)
        try:
            return await future
        except asyncio.CancelledError:
            forget()
            raise

    def submit(
        self,
        parts: Sequence[Batch],
        reply: BatchReply | asyncio.Future[list[Batch]],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        spent: RequestTimes | None = None,
    ) -> Callable[[], None]:
        """Queue prepared parts. All requests enter the batcher here.

        Args:
            parts: as for `run`; `timeout_s`, `priority` and `spent` likewise.
            reply: receives the outputs of each part, or the error, after this call has returned.

        Returns:
            A function that abandons the request; the reply is not used after it.

        Raises:
            NogradError: as for `DynamicBatcher.predict`, if the request is rejected immediately.
        """
        is_usual = (timeout_s is None or (type(timeout_s) is float and timeout_s > 0)) and type(priority) is int
        if self._state != "open" or not is_usual or priority < 0:
            self._check_request(timeout_s, priority)
        now = self._clock()
        deadline = inf if timeout_s is None else now + timeout_s
        rows = num_rows(parts[0])
        if len(parts) > 1 or (rows > 1 and rows > self._policy.chunk_rows):
            return self._submit_pieces(parts, reply, now, deadline, priority, spent)
        entry = self._entry(parts[0], reply, rows, now, deadline, priority)
        self._admit(entry, rows, entry.nbytes, now, 1)
        entry.spent = spent
        self._queue.add(entry)
        return partial(self.abandon, entry)

    def _submit_pieces(
        self,
        parts: Sequence[Batch],
        reply: BatchReply | asyncio.Future[list[Batch]],
        now: float,
        deadline: float,
        priority: int,
        spent: RequestTimes | None,
    ) -> Callable[[], None]:
        """Queue several parts, or one that must be split. Either all are admitted, or none."""
        cut = [chunks(part, self._policy.chunk_rows) for part in parts]
        pieces = [piece for some in cut for piece in some]
        entries: list[QueueEntry] = []
        forget = partial(self._abandon_all, entries)
        replies = SplitReply(reply, list(map(len, cut)), forget)
        entries += [
            self._entry(piece, replies.reply(position), num_rows(piece), now, deadline, priority)
            for position, piece in enumerate(pieces)
        ]
        self._admit(entries[0], sum(map(num_rows, parts)), sum(entry.nbytes for entry in entries), now, len(entries))
        entries[-1].spent = spent
        for entry in entries:
            entry.follows = entry is not entries[-1]
            self._queue.add(entry)
        return forget

    def _check_request(self, timeout_s: float | None, priority: int) -> None:
        """Raise if the request cannot be accepted."""
        if self._state != "open":
            raise not_open(self._state)
        check_request(timeout_s, priority)

    def statistics(self) -> Statistics:
        """Return a snapshot of the statistics."""
        counts = {name: getattr(self._counts, name) for name in _BatcherCounts.__slots__}
        return Statistics(**counts, queue_rows=self._queue.rows, running_rows=self._running_rows, reasons=dict(self._reasons))

    @property
    def queue_rows(self) -> int:
        """Rows that wait now."""
        return self._queue.rows

    @property
    def seconds_per_row(self) -> float:
        """Device seconds per row, as a moving mean; 0 before the first batch."""
        return self._seconds_per_row / self._device.lanes

    def predicted_wait_s(self) -> float:
        """Return the predicted seconds to run all waiting rows, from the moving mean of seconds per row."""
        return self._queue.rows * self.seconds_per_row

    def _entry(
        self,
        part: Batch,
        future: asyncio.Future[list[Batch]] | BatchReply,
        rows: int,
        now: float,
        deadline: float,
        priority: int,
    ) -> QueueEntry:
        nbytes = self._row_bytes * rows
        if nbytes:  # rows of fixed shape
            return QueueEntry(part, future, rows, now, deadline, 1, (), priority, nbytes)
        shape: tuple[int, ...] = ()
        length = 1
        if self._varies:
            shape = self._runner.signature.sizes_of(part)
            length = sum(shape)
        nbytes = sum(array.nbytes for array in part.values())
        return QueueEntry(part, future, rows, now, deadline, length, shape, priority, nbytes)

    def _admit(self, first: QueueEntry, rows: int, nbytes: int, now: float, parts: int) -> None:
        """Admit a request or raise. The caller must queue its parts in the same iteration of the loop.

        Args:
            first: its first part.
            rows: rows of all parts.
            nbytes: bytes of all parts.
            now: time in seconds.
            parts: number of parts.
        """
        queue = self._queue
        if queue.rows + rows > self._max_queue_rows or queue.nbytes + nbytes > self._max_queue_bytes:
            self._make_room(rows, nbytes, first.priority)
        wait_s = self._policy.admit(queue, first, rows, now, self._device)
        if wait_s is not None:
            self._counts.refused += 1
            raise too_late(wait_s, first.slack)
        counts = self._counts
        counts.requests += parts
        counts.rows += rows
        if first.deadline < self._expiry.earliest:
            self._expiry.watch(first.deadline, now)
        if not self._pump_scheduled and self._device.free_lanes:
            self._schedule_pump()

    def _make_room(self, rows: int, nbytes: int, priority: int) -> None:
        """Remove requests of lower priority from the end of the queue for a new request; raise if that is not sufficient."""
        impossible = too_large(rows, self._max_queue_rows, nbytes, self._max_queue_bytes)
        if impossible is not None:
            raise impossible
        queue = self._queue
        more_rows, more_bytes = queue.rows + rows - self._max_queue_rows, queue.nbytes + nbytes - self._max_queue_bytes
        error = full(queue, self._max_queue_rows, self._max_queue_bytes, self.predicted_wait_s(), of_rows=more_rows > 0)
        leaving = queue.last_below(priority, more_rows, more_bytes)
        if leaving is None:
            self._counts.refused += 1
            raise error
        for waiting in leaving:
            self._counts.displaced += 1
            self._fail(entry_of(waiting), copy_error(error))

    def abandon(self, entry: QueueEntry) -> None:
        """Remove a request whose caller left, or whose other parts failed."""
        if entry.queued:
            self._queue.remove(entry)
        if not entry.future.done():
            entry.future.cancel()
        self._counts.cancelled += entry.future.cancelled()
        self._note_idle()

    def _abandon_all(self, entries: Sequence[QueueEntry]) -> None:
        for entry in entries:
            self.abandon(entry)

    def _expire(self, until: float) -> float:
        """Fail expired requests, waiting or running; return the next deadline."""
        earliest = inf
        running = [entry for job in self._running for entry in job.entries if not entry.future.done()]
        for entry in [*map(entry_of, self._queue.items), *running]:
            if entry.deadline > until:
                earliest = min(earliest, entry.deadline)
            else:
                self._fail_late(entry)
        return earliest

    def _fail_late(self, entry: QueueEntry) -> None:
        self._counts.expired += not entry.future.done()
        self._fail(entry, late(entry.slack))

    def _fail(self, entry: QueueEntry, error: NogradError) -> None:
        """Answer with an error; a waiting request leaves the queue."""
        if entry.queued:
            self._queue.remove(entry)
        if not entry.future.done():
            entry.future.set_exception(error)
        self._note_idle()

    def _fail_all(self, error: NogradError) -> None:
        for waiting in list(self._queue.items):
            self._fail(entry_of(waiting), copy_error(error))

    # -- batches

    def _schedule_pump(self) -> None:
        """Decide in the next iteration of the loop, so that requests of one iteration share a batch."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start all batches that can start now."""
        self._pump_scheduled = False
        if self._wake is not None:
            self._cancel_wake()
        while self._queue.items and self._device.free_lanes and self._state != "lost":
            now = self._clock()
            try:
                decision = self._policy.decide(self._queue, now, self._device)
                if self._is_foreign:
                    _check(decision)
            except Exception as error:  # noqa: BLE001  the policy may be user code
                failure = model_error("the batch policy", error)
                self._counts.failed += len(self._queue)
                self._fail_all(failure)
                return
            for waiting in decision.late:
                self._fail_late(entry_of(waiting))
            if decision.take:
                self._start(decision, now)
                if self.inline:
                    return  # answered callers continue first; `_finish` has scheduled the next batch
            elif decision.wake_at is not None:
                self._wake = self._loop.call_later(max(0.0, decision.wake_at - now), self._pump)
                return

    def _start(self, decision: Decision, now: float) -> None:
        self._queue.take(decision.take)
        entries = cast("Sequence[QueueEntry]", decision.take)  # only the batcher fills the queue
        rows = sum([entry.rows for entry in entries])
        job = Job(entries, rows, decision.reason, now, now + decision.predicted_s, decision.predicted_s)
        self._running.add(job)
        self._running_rows += rows
        self._device.free_lanes -= 1
        self._note_free_at()
        if self.inline:
            self._lanes.execute(job)
            self._finish(job)
        else:
            self._lanes.submit(job)

    def _note_free_at(self) -> None:
        self._device.free_at = -inf if self._device.free_lanes else min(job.done_at for job in self._running)

    def _finish(self, job: Job) -> None:
        """Handle a finished batch in the event loop.

        With device threads, the next batch starts before the answers are delivered, so that the device is never idle. If the
        loop itself is the device, the answers are delivered first.

        Between the two steps the loop runs one iteration and releases the GIL. The device thread, which needs the GIL to start,
        therefore does not wait until all answers are delivered (2 ms per batch of MiniLM).
        """
        if job not in self._running:
            return
        if job.lost is not None:
            self._lose(job.lost)
            return
        self._running.remove(job)
        self._delivering += 1
        self._device.free_lanes += 1
        self._note_free_at()
        self._running_rows -= job.rows
        self._learn(job)
        self._counts.batches += 1
        self._reasons[job.reason] += 1
        if self.inline:
            self._deliver(job)
            self._loop.call_soon(self._schedule_pump)
        else:
            self._pump()
            self._loop.call_soon(self._deliver, job)

    def _deliver(self, job: Job) -> None:
        """Answer all requests of a batch."""
        for entry, answer in zip(job.entries, job.outcome.answers, strict=True):
            future = entry.future
            if not isinstance(answer, Exception):
                if not future.done():  # cancelled or expired during the run: drop the result
                    if not entry.follows:
                        job.answered_s.append(job.started - entry.arrived)
                        if entry.spent is not None:
                            job.record_spent(entry.spent, entry)
                    future.set_result([answer])
            elif isinstance(answer, DeadlineError):
                self._fail_late(entry)
            else:
                self._counts.failed += 1
                if not future.done():
                    future.set_exception(answer)
        self._delivering -= 1
        self._note_idle()
        if self._observer is not None:
            self._observer(record_of(job))

    def _learn(self, job: Job) -> None:
        """Update the estimates of speed and memory; failed batches do not count for speed."""
        weight = SMOOTHING if self._counts.batches else 1.0
        self._seconds_per_row += weight * (job.run_s / job.rows - self._seconds_per_row)
        if job.outcome.runs == 1 and not isinstance(job.outcome.answers[0], Exception):
            longest = max(entry.length for entry in job.entries) if self._varies else 1
            self._policy.finished(job.rows, longest, job.run_s)
        elif job.outcome.too_many_rows:
            self._policy.limit(job.outcome.too_many_rows, job.outcome.too_long)

    def _lose(self, error: DeviceLostError) -> None:
        """Handle the loss of the device or its thread: fail all requests and accept no more."""
        if self._state == "closed":
            return
        self._state = "lost"
        self.lost_because = str(error)
        jobs, self._running = self._running, set()
        self._running_rows = 0
        for job in jobs:
            for entry in job.entries:
                self._fail(entry, copy_error(error))
        self._fail_all(error)
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._queue.items and not self._running and not self._delivering:
            self._idle.set()
            self._expiry.stop()

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None


def check_settings(
    max_batch_size: int, max_wait_ms: float, max_queue_rows: int, max_queue_bytes: int, cost: CostCurve | None
) -> None:
    """Check the settings that do not depend on the model.

    Raises:
        ConfigError: a limit is out of its range, or the cost is not a CostCurve.
    """
    checked_limits(max_batch_size, max_wait_ms)
    for name, value in (("max_queue_rows", max_queue_rows), ("max_queue_bytes", max_queue_bytes)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    if cost is not None and not isinstance(cost, CostCurve):
        raise ConfigError(f"cost is {type(cost).__name__}; it must be a nograd.CostCurve, such as measure_cost returns")


def _is_quick(predictor: Runner, cost: CostCurve | None) -> bool:
    """Return whether a model is known to be quick. With varying lengths, the curve does not bound the longest run."""
    known = cost is not None and cost.unit == "rows" and cost.seconds[-1] < INLINE_S
    return known and not predictor.signature.lengths and predictor.lanes == 1


def _check(decision: Decision) -> None:
    """Raise if a policy chose requests that are not in the queue, or nothing."""
    chosen = [*decision.take, *decision.late]
    if not all(waiting.queued for waiting in chosen) or len(set(map(id, chosen))) < len(chosen):
        raise ValueError("it selected a request that is not in the queue, or the same request twice")
    if not chosen and decision.wake_at is None:
        raise ValueError("it selected no request and returned no time for the next decision")
