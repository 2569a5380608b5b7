"""DynamicBatcher: concurrent requests of one event loop, run in batches. It opens at the first request."""

from __future__ import annotations

import asyncio
import time
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nograd.backends import Backend
from nograd.batching.batcher import MAX_QUEUE_BYTES, Batcher, Runner, check_settings
from nograd.batching.first_request import RequestLearner
from nograd.batching.jobs import BatchReply
from nograd.batching.policy import BatchPolicy
from nograd.batching.records import BatchRecord, RequestTimes, RunningBatch, Statistics
from nograd.batching.refusals import check_request, late, not_open
from nograd.core.cost import CostCurve
from nograd.core.inputs import holds_tensors, is_module, one_row
from nograd.core.tensors import Batch, Signature
from nograd.errors import ConfigError, SignatureError, UnavailableError, UnsupportedError
from nograd.predictors.as_predictor import as_predictor
from nograd.predictors.predictor import Predictor

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["DynamicBatcher"]


class DynamicBatcher:
    """Gathers concurrent requests into batches.

    The first request opens the batcher in the running event loop. If the model's inputs are not known yet, the model is probed
    with this request in a thread, while further requests wait; then they share batches. Rows are batched only as the probe
    allows, so answers equal the model's own. `close`, or leaving an `async with` block, completes accepted requests and ends
    the device threads. A batcher that is not closed ends with its event loop.

    >>> async def both(model, a, b):
    ...     async with DynamicBatcher(model, max_batch_size=32) as batcher:
    ...         return await asyncio.gather(batcher.predict(a), batcher.predict(b))

    Args:
        model: a torch module, a Predictor or a Backend.
        device: device of a module: `auto`, or a torch device. A Predictor and a Backend have their own.
        predictor: former name of `model`.
        max_batch_size: maximum rows per run. A longer request runs in several parts.
        max_wait_ms: maximum time that a request waits for a batch to fill, in milliseconds. 0 runs as soon as the device is
            free, which is best on one device.
        max_queue_rows: maximum rows in the queue; further requests are rejected immediately.
        max_queue_bytes: maximum bytes of inputs in the queue.
        max_batch_tokens: maximum padded elements per run (rows x longest row), for rows that vary in length.
        cost: measured cost curve (see `measure_cost`); default: the predictor's, which comes from its bundle. Without a curve,
            late answers cannot be predicted.
        inline: run batches in the event loop's thread. Use it only for a model that takes less time than a thread switch and
            back (0.1 ms). None decides from the cost.
        policy: batch policy; default: the one that suits the model (see `policy_for`).
        observer: called in the event loop with a record of each batch.
        clock: returns seconds and never decreases. (The loop's own clock is not used: uvloop's has steps of a millisecond.)

    Raises:
        ConfigError: a limit is out of its range, or `model` has another type.
    """

    def __init__(  # noqa: PLR0913  all but the first two by keyword
        self,
        model: nn.Module | Runner | Backend | None = None,
        device: str | torch.device = "auto",
        *,
        predictor: Runner | None = None,
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
        check_settings(max_batch_size, max_wait_ms, max_queue_rows, max_queue_bytes, cost)
        self._runner = _runner(model if predictor is None else predictor, device)
        self._make = partial(
            Batcher, self._runner, max_batch_size=max_batch_size, max_wait_ms=max_wait_ms, max_queue_rows=max_queue_rows,
            max_queue_bytes=max_queue_bytes, max_batch_tokens=max_batch_tokens, cost=cost, inline=inline, policy=policy,
            observer=observer, clock=clock,
        )  # fmt: skip
        self._max_waiting = max_queue_rows
        self._is_inline = bool(inline)
        self._batcher: Batcher | None = self._make() if _is_known(self._runner) else None
        self._teaching: RequestLearner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._state = "new"

    # -- opening and closing

    @property
    def inline(self) -> bool:
        """Whether batches run in the event loop's thread. Until the model is known, this is the setting."""
        return self._is_inline if self._batcher is None else self._batcher.inline

    @property
    def is_open(self) -> bool:
        """True while requests are accepted: from the first request until it is closed or the device is lost."""
        return self._state == "open" and not self.is_lost

    @property
    def is_lost(self) -> bool:
        """True if the device or its thread is lost; the process must be restarted."""
        return self._batcher is not None and self._batcher.is_lost

    def running(self) -> list[RunningBatch]:
        """Return the batches that are currently on the device; always none if batches run in the event loop."""
        return [] if self._batcher is None else self._batcher.running()

    def statistics(self) -> Statistics:
        """Return a snapshot of the counts since the batcher opened in its event loop."""
        return Statistics() if self._batcher is None else self._batcher.statistics()

    @property
    def seconds_per_row(self) -> float:
        """Running mean of device seconds per row; 0 before the first batch."""
        return 0.0 if self._batcher is None else self._batcher.seconds_per_row

    def predicted_wait_s(self) -> float:
        """Return the expected seconds for all rows in the queue, from the running mean of seconds per row."""
        return 0.0 if self._batcher is None else self._batcher.predicted_wait_s()

    async def __aenter__(self) -> Self:
        if self._state not in ("new", "open"):
            raise UnavailableError(f"this batcher is {self._state}; make a new one")
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace_s: float = 30.0) -> None:
        """Reject new requests, answer queued ones, and end the device threads.

        Args:
            grace_s: seconds for queued requests. Later they fail, and only the running batch is awaited, for at most 30 s.
        """
        if self._state != "open":
            self._state = "closed" if self._state == "new" else self._state
            return
        self._state = "draining"
        if self._teaching is not None and not _is_known(self._runner):
            begun = time.monotonic()
            await self._close_teaching(self._teaching, grace_s)
            grace_s = max(0.0, grace_s + begun - time.monotonic())
        if self._batcher is not None:
            await self._batcher.close(grace_s)
        self._state = "closed"

    @staticmethod
    async def _close_teaching(teaching: RequestLearner, grace_s: float) -> None:
        try:
            await asyncio.wait_for(teaching.wait_empty(), grace_s)
        except TimeoutError:
            teaching.stop(UnavailableError(f"the batcher was closed before the model was known (grace {grace_s:g} s)"))

    # -- requests

    async def predict(self, inputs: Any, *, timeout_s: float | None = None, priority: int = 0) -> Any:
        """Return the model's answer to these inputs. They share a batch with other queued requests.

        Args:
            inputs: as for `Predictor.predict`. Without `preprocess`, they may also be one row without the batch dimension:
                every input has one dimension less than the model's. Its answer has no batch dimension either. The first
                request to an unknown model decides which rank that is (see `Predictor.learn`).
            timeout_s: seconds from now until the answer must be ready; None: no limit.
            priority: priority of the request; 0 is the highest. Requests of lower priority wait, or fill up a batch.

        Raises:
            SignatureError: the inputs do not fit the model's signature.
            ConfigError: `timeout_s` or `priority` is out of its range.
            OverloadedError: the queue is full, or the answer would be late; `retry_after_s` is the time until a retry makes
                sense.
            DeadlineError: `timeout_s` passed, or can no longer be met.
            UnavailableError: the batcher is closed, or belongs to another event loop.
            ModelError: the model raised on these inputs; other requests of the same batch are not affected.
        """
        batcher = self._batcher
        if batcher is None or self._state != "open" or get_running_loop() is not self._loop:
            batcher, timeout_s = await self._ready(inputs, timeout_s, priority)
        try:
            parts, finish = self._runner.prepare(inputs)
        except SignatureError as error:
            parts, finish = self._prepared_row(inputs, error)
        future: asyncio.Future[list[Batch]] = get_running_loop().create_future()  # as `Batcher.run`, without its coroutine
        forget = batcher.submit(parts, future, timeout_s=timeout_s, priority=priority)
        try:
            return finish(await future)
        except asyncio.CancelledError:
            forget()
            raise

    async def run(
        self, parts: Sequence[Batch], *, timeout_s: float | None = None, priority: int = 0, spent: RequestTimes | None = None
    ) -> list[Batch]:
        """Return the outputs of each prepared part. Either all parts are admitted, or none.

        Args:
            parts: checked parts of one or more rows each.
            timeout_s: as for `predict`.
            priority: as for `predict`.
            spent: receives the times of the request.

        Raises:
            NogradError: as for `predict`.
            UnsupportedError: the model is not known yet.
        """
        return await self._require_batcher().run(parts, timeout_s=timeout_s, priority=priority, spent=spent)

    def submit(
        self,
        part: Batch,
        done: Callable[[Batch | Exception], None],
        *,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Callable[[], None]:
        """Run one part and call back in the event loop: like `run`, but without a waiting task.

        Args:
            part: a checked part of one or more rows.
            done: called once with the part's outputs or the error, after this call has returned.
            timeout_s: as for `predict`.
            priority: as for `predict`.

        Returns:
            A function that abandons the request, after which `done` is not called.

        Raises:
            NogradError: as for `predict`, if a request is rejected immediately.
            UnsupportedError: the model is not known yet.
        """

        def answer(outputs: list[Batch] | Exception) -> None:
            done(outputs if isinstance(outputs, Exception) else outputs[0])

        return self._require_batcher().submit([part], BatchReply(answer), timeout_s=timeout_s, priority=priority)

    # -- internals

    def _enter(self) -> None:
        """Open in the running event loop, or check that it is open there."""
        loop = get_running_loop()
        if self._state not in ("new", "open"):
            raise not_open(self._state)
        if self._loop is not None and self._loop is not loop:
            if not self._loop.is_closed():
                raise UnavailableError("this batcher is open in another event loop; make one batcher for each event loop")
            self._restart()
        self._loop, self._state = loop, "open"
        if self._batcher is not None and self._batcher.state == "new":
            self._batcher.open()

    def _restart(self) -> None:
        """Reset the state after the event loop was closed, together with its requests."""
        self._teaching = None
        if self._batcher is not None:
            self._batcher.discard()
            self._batcher = self._make()

    async def _ready(self, inputs: Any, timeout_s: float | None, priority: int) -> tuple[Batcher, float | None]:
        """Return the open batcher of a known model, and the request's remaining time."""
        check_request(timeout_s, priority)
        self._enter()
        if self._batcher is not None:
            return self._batcher, timeout_s
        self._teaching = self._teaching or RequestLearner(
            partial(_learn, self._runner), partial(_is_known, self._runner), self._max_waiting
        )
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._teaching.wait(inputs)
        except TimeoutError:
            if timeout_s is not None and limit.expired():
                raise late(timeout_s) from None
            raise
        if self._batcher is None:
            self._batcher = self._make()
            self._batcher.open()
        return self._batcher, None if until is None else max(1e-9, until - time.monotonic())

    def _require_batcher(self) -> Batcher:
        self._enter()
        if self._batcher is None:
            if not _is_known(self._runner):
                raise UnsupportedError("the model's inputs are not known yet; give the Predictor `sample=`, or predict once")
            self._batcher = self._make()
            self._batcher.open()
        return self._batcher

    def _prepared_row(self, inputs: Any, error: SignatureError) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        """Prepare one row without the batch dimension. If that also fails, raise the error of the unchanged inputs."""
        runner = self._runner
        if not isinstance(runner, Predictor) or runner.has_preprocess:
            raise error
        try:
            part = runner.check(one_row(inputs))
        except SignatureError:
            raise error from None
        as_tensors = holds_tensors(inputs)
        return [part], lambda outputs: next(runner.answers(outputs[0], as_tensors=as_tensors))


def _is_known(runner: Runner) -> bool:
    return not isinstance(runner, Predictor) or runner.is_probed


def _learn(runner: Runner, inputs: Any) -> None:
    if isinstance(runner, Predictor):
        runner.learn(inputs)


def _runner(model: Any, device: str | torch.device) -> Runner:
    if isinstance(model, Predictor | Backend) or is_module(model):
        return as_predictor(model, device)
    if isinstance(getattr(model, "signature", None), Signature):
        runner: Runner = model
        return runner
    raise ConfigError(
        f"model is {type(model).__name__}; a DynamicBatcher takes a torch.nn.Module, a nograd.Predictor or a nograd Backend"
    )
