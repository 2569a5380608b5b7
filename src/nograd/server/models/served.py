"""One served model: warm-up, answers, draining. HTTP is in `http`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from nograd.batching import Batcher, BatchRecord, Statistics, measure_cost
from nograd.batching.measure import warm_up
from nograd.caching.flight import SingleFlight
from nograd.caching.key_units import why_not
from nograd.core.cost import CostCurve
from nograd.core.tensors import TEXT, Array, Signature, TensorSpec
from nograd.errors import DeviceLostError, NogradError
from nograd.predictors.predictor import Predictor
from nograd.runtime.callbacks import Cancel, wait_for
from nograd.runtime.threads import in_own_thread
from nograd.server.call import Call
from nograd.server.models.caching import ModelCache
from nograd.server.models.code_threads import CodeThreads
from nograd.server.models.in_flight import InFlight
from nograd.server.models.inference import Engine, Inference, Write, device_lost, not_ready
from nograd.server.models.live_data import describe_model, example_request
from nograd.server.models.liveness import stuck
from nograd.server.models.user_code import UserCode, example_of, item_of
from nograd.server.protocol.binary import BinaryAnswer
from nograd.server.protocol.datatypes import require_datatypes, tensor_metadata
from nograd.server.protocol.decoding import Decoder
from nograd.server.protocol.encoding import encode, encode_binary
from nograd.server.protocol.request import InferRequest, shorter
from nograd.server.protocol.request_limits import RequestLimits
from nograd.server.protocol.triton_config import configuration
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.logs import event, failure
from nograd.server.telemetry.metrics import Metrics, ModelMetrics
from nograd.server.telemetry.statistics import LookupCounts, describe_totals
from nograd.server.telemetry.tracing import note_batch

__all__ = ["ServedModel"]

Answer = TypeVar("Answer")


LONG_TENSORS = 2**18
"""Bytes of binary tensors from which a thread computes their keys for the cache: a millisecond, or 30 of very short rows."""


class ServedModel:
    """One served model with its batcher."""

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        config: ServeConfig,
        metrics: Metrics,
        flights: SingleFlight | None = None,
        *,
        version: str = "1",
    ) -> None:
        self.name = name
        self.version = version
        self.predictor = predictor
        self.config = config
        self.curve: CostCurve | None = None
        self.example: Mapping[str, Array] = {}
        self.inputs = Signature((item_of(name, predictor),)) if predictor.has_preprocess else predictor.signature
        self.outputs: tuple[TensorSpec, ...] = predictor.signature.outputs
        self.threads = CodeThreads(
            name,
            threads=config.preprocess_threads,
            max_items=config.max_queue_rows,
            stuck_after_s=config.stuck_after_s,
        )
        self._code = UserCode(predictor, self.inputs, self.threads)
        # without preprocessing, the batcher limits waiting rows, and an inline model accepts longer requests
        rows = config.max_queue_rows if predictor.has_preprocess else config.max_request_elements
        self.limits = RequestLimits(config.max_request_rows or rows, config.max_request_elements, config.max_text_chars)
        self.takes_texts = any(spec.dtype == TEXT for spec in self.inputs.inputs)
        """Whether clients send texts, which are converted one by one."""

        self._decode = Decoder(self.inputs.inputs, self.limits)
        self._all_metrics = metrics
        self._metrics = ModelMetrics(metrics, name)
        self.store = metrics.store(name)
        self._is_loss_logged = False
        self._has_opened = False
        """Whether clients' requests are accepted; batches during the start are not recorded."""

        self._flights = flights
        self._engine: Engine | None = None
        self._in_flight = InFlight()

    # -- start and stop

    @property
    def ready(self) -> bool:
        """True if it answers: warmed up, not draining, and with a working device."""
        return self._engine is not None and self._engine.is_ready

    @property
    def is_lost(self) -> bool:
        """True once its device is lost: only a restart helps."""
        return self._engine is not None and self._engine.batcher.is_lost

    def trouble(self) -> str:
        """Return why a restart is needed, in one sentence: the device is lost or hangs. Empty if it works."""
        if self._engine is None:
            return ""
        batcher = self._engine.batcher
        if batcher.is_lost:
            return str(device_lost(self.name, batcher.lost_because))
        wrong = stuck(batcher.running(), self.config.stuck_after_s, is_first=not batcher.statistics().batches)
        wrong = wrong or self.threads.trouble()
        return f"model {self.name!r}: {wrong}" if wrong else ""

    async def start(self) -> None:
        """Warm up the model, measure its cost by batch size, and open."""
        begun = time.monotonic()
        event(
            "warming",
            model=self.name,
            version=self.version,
            backend=self.predictor.backend.name,
            device=self.predictor.backend.device,
        )
        require_datatypes(self.inputs.inputs, self.outputs)
        self.example = example_of(self.predictor, self.inputs.inputs)
        self.curve = await asyncio.wrap_future(in_own_thread(self._warm_up))
        batcher = Batcher(
            self.predictor,
            max_batch_size=self.max_batch_size,
            max_wait_ms=self.config.max_wait_ms,
            max_queue_rows=self.config.max_queue_rows,
            cost=self.curve,
            observer=self._note_batch,
        )
        if (
            batcher.inline
        ):  # a second thread does not help for such short runs, and would spin between them: 1.7 cores instead of 0.8
            self.predictor.backend.limit_threads(1)
        batcher.open()
        cache = None
        if self._flights is not None and not why_not(self.predictor.signature):
            cache = ModelCache(self.predictor, self._flights, batcher, self._code)
        self._engine = engine = Engine(
            self.name, self.version, inputs=self.inputs, batcher=batcher, cache=cache, code=self._code, threads=self.threads,
            in_flight=self._in_flight, timeout_s=self.config.timeout_s,
        )  # fmt: skip
        if self.predictor.has_postprocess:
            parts = await self.threads.run(partial(self._code.parts, self.example), "preprocess", timeout_s=None)
            outputs = await batcher.run(parts)
            answered = await self.threads.run(partial(self._code.outputs, outputs), "postprocess", timeout_s=None)
            self.outputs = tuple(TensorSpec(name, _dtype(array), array.shape[1:]) for name, array in answered.items())
        engine.outputs = self.outputs
        engine.is_open = self._has_opened = True
        event("model_ready", model=self.name, version=self.version, seconds=round(time.monotonic() - begun, 3))

    def drain(self) -> None:
        """Reject new requests from now on; accepted requests are still answered."""
        if self._engine is not None:
            self._engine.is_open = False

    async def stop(self) -> None:
        """Answer accepted requests within the grace period, and stop."""
        self.drain()
        if self._engine is not None:
            until = time.monotonic() + self.config.grace_s
            await self._in_flight.wait_empty(self.config.grace_s)
            await self._engine.batcher.close(max(0.0, until - time.monotonic()))
        self.threads.close()

    async def leave(self) -> None:
        """Stop after the model was removed from the table, and release it, so that its memory is free."""
        await self.stop()
        self.refresh_metrics()
        self._all_metrics.remove_store(self.name, self.store)
        self._engine = None
        await asyncio.wrap_future(in_own_thread(self.predictor.close))

    def _warm_up(self) -> CostCurve:
        """Return the cost of a run, from the bundle or measured."""
        part, known = self._code.parts(self.example)[0], self.predictor.cost
        if known is None:
            return measure_cost(self.predictor, part, self.config.max_batch_size)
        warm_up(self.predictor, part, known, self.max_batch_size)
        return known

    @property
    def cache(self) -> ModelCache | None:
        """Cache of this model, if it is started and has one."""
        return None if self._engine is None else self._engine.cache

    @property
    def max_batch_size(self) -> int:
        """Maximum rows per run: the configured number, limited by the largest size of the predictor's cost curve.

        A curve over padded tokens sets no limit, because longer runs are extrapolated from its last seconds per token.
        """
        known = self.predictor.cost
        most = known.max_size if known is not None and known.unit == "rows" else self.config.max_batch_size
        return min(self.config.max_batch_size, most)

    # -- answering

    async def infer(
        self, call: Call, body: bytes, tail: memoryview | None = None, *, timeout_s: float | None = None
    ) -> bytes | BinaryAnswer:
        """Return the answer to an infer call's body; arguments as for `submit`.

        Raises:
            NogradError: see `protocol.status_of` for the HTTP status of each kind.
        """
        return await wait_for(lambda done: self.submit(call, body, done, tail, timeout_s=timeout_s))

    async def infer_as(
        self, call: Call, read: Callable[[], InferRequest], write: Write[Answer], *, nbytes: int = 0,
        writes_with_code: bool = False,
    ) -> Answer:  # fmt: skip
        """Return the answer to an infer call in any format; arguments as for `answer`.

        Raises:
            NogradError: as for `infer`, and the errors of `read` and `write`.
        """
        return await wait_for(
            lambda done: self.answer(call, read, write, done, nbytes=nbytes, writes_with_code=writes_with_code)
        )

    def submit(
        self,
        call: Call,
        body: bytes,
        done: Callable[[bytes | BinaryAnswer | Exception], None],
        tail: memoryview | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Cancel:
        """Answer an infer call's body through a callback: JSON, with binary tensors if requested.

        Args:
            call: record of the request.
            body: JSON; empty for a raw request.
            done: as for `answer`.
            tail: binary tensors after the JSON, if the request has a header with its length.
            timeout_s: timeout of the client, in seconds; the shorter one of this and the body's timeout applies.

        Returns:
            A function that cancels the request, after which `done` is not called.
        """

        def read() -> InferRequest:
            request = self._decode(body, tail)
            return request if timeout_s is None else request._replace(timeout_s=shorter(timeout_s, request.timeout_s))

        nbytes = len(body) if tail is None else len(body) + self.bytes_to_convert(len(tail))
        return self.answer(call, read, _body, done, nbytes=nbytes)

    def bytes_to_convert(self, nbytes: int) -> int:
        """Return how many bytes of binary tensors are work: those of texts, and long ones whose rows the cache has keys of."""
        is_work = self.takes_texts or (nbytes > LONG_TENSORS and self.cache is not None)
        return nbytes if is_work else 0  # numbers are not copied

    def answer(
        self,
        call: Call,
        read: Callable[[], InferRequest],
        write: Write[Answer],
        done: Callable[[Answer | Exception], None],
        *,
        nbytes: int = 0,
        writes_with_code: bool = False,
    ) -> Cancel:
        """Answer an infer call in any format through a callback; every request enters here.

        Args:
            call: record of the request; receives this model, the request's id and the times.
            read: returns the request.
            write: encodes the answer.
            done: called once in the event loop with the answer or the error, possibly before this call returns.
            nbytes: size of the body for `read`; a long body is decoded in a thread.
            writes_with_code: whether `write` calls the user's code, which then runs in a thread.

        Returns:
            A function that cancels the request, after which `done` is not called.
        """
        call.model, call.begun = self, time.monotonic()
        engine = self._engine
        if engine is None or not engine.is_ready:
            done(not_ready(self.name) if engine is None else engine.not_ready())
            return _nothing
        return Inference(engine, call, write, done, writes_with_code=writes_with_code).start(read, nbytes)

    def record(self, status: int, now: float, seconds: float, error: Exception | None) -> None:
        """Count one finished request.

        Args:
            status: status of the response.
            now: time of the response, on the monotonic clock.
            seconds: seconds since the body had arrived.
            error: error, if the request failed.
        """
        if isinstance(error, DeviceLostError) and not self._is_loss_logged:
            self._is_loss_logged = True
            failure(f"model {self.name!r}: device lost, restart needed", error)
        if error is None:
            self.store.note_request(now, seconds)
        else:
            self.store.note_error(now, status, seconds, str(error) if isinstance(error, NogradError) else repr(error))

    # -- monitoring

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": f"pytorch_{self.predictor.backend.name}",
            "inputs": tensor_metadata(self.inputs.inputs),
            "outputs": tensor_metadata(self.outputs),
        }

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of this model, in the form of the statistics extension."""
        looked = self.cache.looked() if self.cache is not None else LookupCounts()
        found = describe_totals(self.store, looked, time.monotonic(), time.time())
        return {"name": self.name, "version": self.version, **found}

    def configuration(self) -> dict[str, Any]:
        """Return the configuration of this model, in the form of the model_configuration extension."""
        return configuration(
            self.metadata(),
            self.version,
            self.inputs.inputs,
            self.outputs,
            backend=self.predictor.backend,
            max_batch_size=self.max_batch_size,
            limits=self.config,
            is_cached=self.cache is not None,
        )

    def example_request(self) -> dict[str, Any] | None:
        """Return the body of an example call of `infer`; None if it would be too long to read."""
        return example_request(self)

    def snapshot(self) -> dict[str, Any]:
        """Return the live page's data of this model."""
        return describe_model(self)

    def cache_told(self) -> str:
        """Return whether answers are cached, in one sentence."""
        if self.cache is not None:
            where = " and in Redis" if self.config.cache_url else ""
            return f"answers are cached in {self.config.cache_mb:g} MB of memory{where} (--cache-size 0 disables it)"
        if self._flights is None:
            return "answers are not cached (--cache-size 0, or cache = false)"
        return f"answers are not cached: {why_not(self.predictor.signature)}"

    def refresh_metrics(self) -> None:
        """Update the counts that are computed only when metrics are read."""
        self._metrics.refresh(self.predictor.backend.compilations)
        self._metrics.refresh_code(stuck=len(self.threads.stuck()), overdue=self.threads.overdue)
        if self.cache is not None:
            self._metrics.refresh_cache(self.cache.snapshot())

    @property
    def queue_rows(self) -> int:
        """Number of waiting rows."""
        return 0 if self._engine is None else self._engine.batcher.queue_rows

    @property
    def busy_s(self) -> float:
        """Total seconds of all runs on all lanes."""
        return self.store.totals.run.sum

    @property
    def backlog_s(self) -> float:
        """Predicted seconds for all waiting rows."""
        return 0.0 if self._engine is None else self._engine.batcher.predicted_wait_s()

    def batches(self) -> Statistics:
        """Return the batcher's counts."""
        return Statistics() if self._engine is None else self._engine.batcher.statistics()

    def _note_batch(self, record: BatchRecord) -> None:
        if not self._has_opened:
            return
        size = record.rows * record.longest if self.curve is not None and self.curve.unit == "tokens" else record.rows
        self.store.note_batch(time.monotonic(), record, self.queue_rows, size)
        if record.spent:
            note_batch(self.name, record)


def _nothing() -> None:
    """Do nothing: the request was answered immediately."""


def _body(
    request: InferRequest, name: str, version: str, request_id: str, outputs: Mapping[str, Array]
) -> bytes | BinaryAnswer:
    """Return the body of the HTTP response."""
    binary = request.binary_of(outputs)
    if binary:
        return encode_binary(name, version, request_id, outputs, binary, request.inputs)
    return encode(name, version, request_id, outputs, request.inputs)


def _dtype(array: Array) -> str:
    return TEXT if array.dtype == object else array.dtype.name
