"""One infer request of one model: decoding, lookup or run, encoding. It calls back with the answer; no task waits for it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from nograd.batching.jobs import BatchReply
from nograd.batching.refusals import late
from nograd.core.tensors import Array, Batch, Signature, TensorSpec, num_rows
from nograd.errors import DeviceLostError, UnavailableError
from nograd.runtime.callbacks import Cancel, call_back, run_in_task
from nograd.server.models.caching import MOST_KEYS, MOST_ROWS
from nograd.server.protocol.datatypes import require_outputs
from nograd.server.protocol.long_data import LONG_DATA
from nograd.server.protocol.request import InferRequest

if TYPE_CHECKING:
    from nograd.batching import Batcher
    from nograd.caching.key_units import Texts, Units
    from nograd.server.call import Call
    from nograd.server.models.caching import ModelCache
    from nograd.server.models.code_threads import CodeThreads
    from nograd.server.models.in_flight import InFlight
    from nograd.server.models.lookup import Outputs
    from nograd.server.models.user_code import UserCode

__all__ = ["Engine", "Inference", "Write", "device_lost", "not_ready"]

Answer = TypeVar("Answer")

Write = Callable[[InferRequest, str, str, str, Mapping[str, Array]], Answer]
"""Encodes an answer from the request, the model's name and version, the answer's id, and the requested outputs."""

LONG_ANSWER = 2**16
"""Minimum elements of a JSON answer that is encoded in a thread: about 3 ms."""


class Prepared(NamedTuple):
    """What a thread computes of a long request, so that the event loop need not."""

    request: InferRequest
    items: Array | None
    """Items for `preprocess`, `[rows, ...]`; None for a model without it."""

    part: Batch
    """Checked inputs of a model without `preprocess`."""

    units: Units | Texts | None
    """Keys for the cache; None if there is no cache, or the request is not looked up by them."""


class Engine:
    """The parts of a started model that answer its requests.

    Args:
        name: name of the model; `version` likewise.
        inputs: signature of the clients' inputs.
        batcher: runs the batches.
        cache: cache of the model, if any.
        code: pre- and postprocessing, which runs in `threads`.
        threads: threads of the model; they also decode and encode long bodies.
        in_flight: counts requests outside of the batcher.
        timeout_s: timeout of requests that set none.
    """

    def __init__(  # noqa: PLR0913  one for each model
        self,
        name: str,
        version: str,
        *,
        inputs: Signature,
        batcher: Batcher,
        cache: ModelCache | None,
        code: UserCode,
        threads: CodeThreads,
        in_flight: InFlight,
        timeout_s: float,
    ) -> None:
        self.name = name
        self.version = version
        self.outputs: tuple[TensorSpec, ...] = ()
        """Outputs that clients may request."""
        self.batcher = batcher
        self.cache = cache
        self.code = code
        self.threads = threads
        self.in_flight = in_flight
        self.timeout_s = timeout_s
        self.is_open = False
        self._inputs = inputs
        self._ids = itertools.count(1)

    @property
    def is_ready(self) -> bool:
        """True while requests are answered: open, and the device works."""
        return self.is_open and self.batcher.is_open

    def require_ready(self) -> None:
        """Raise UnavailableError unless requests are answered."""
        if not self.is_ready:
            raise self.not_ready()

    def not_ready(self) -> UnavailableError:
        """Return the error of this model while it is not ready."""
        return device_lost(self.name, self.batcher.lost_because) if self.batcher.is_lost else not_ready(self.name)

    def next_id(self) -> str:
        """Return an id for a request without one."""
        return f"{next(self._ids)}"

    def prepare(self, request: InferRequest) -> Prepared:
        """Check a request's inputs and compute its keys, in a thread.

        Raises:
            SignatureError: the inputs are not those of the model.
        """
        cache, units = self.cache, None
        if self.code.has_preprocess:
            items = self.code.items(request.inputs)
            if cache is not None and len(items) <= MOST_ROWS and cache.knows(texts := list(items)):
                units = cache.units(texts, [])
            return Prepared(request, items, {}, units)
        part = self._inputs.check(request.inputs)
        if cache is not None and num_rows(part) <= MOST_ROWS:
            units = cache.units(None, [part])
            if len(set(units.keys)) > MOST_KEYS:
                units = None
        return Prepared(request, None, part, units)

    def run(self, call: Call, request: InferRequest, done: Outputs, prepared: Prepared | None = None) -> Cancel:
        """Look up or run a request's rows, and call back with the outputs of its parts, possibly before this call returns.

        Raises:
            NogradError: the request is rejected immediately.
        """
        timeout_s = request.timeout_s or self.timeout_s
        cache, timing = self.cache, call.timing
        units = None if prepared is None else prepared.units
        if self.code.has_preprocess:
            items = self.code.items(request.inputs) if prepared is None or prepared.items is None else prepared.items
            is_cached = cache is not None and cache.takes(len(items))
            if cache is not None and is_cached and cache.knows(texts := list(items)):
                return cache.submit(texts, [], timeout_s, request.priority, timing, done, units)
            return run_in_task(self._prepare_and_run(call, items, timeout_s, request.priority, is_cached=is_cached), done)
        part = self._inputs.check(request.inputs) if prepared is None else prepared.part
        is_too_long = prepared is not None and units is None
        if cache is not None and not is_too_long and cache.takes(num_rows(part)):
            return cache.submit(None, [part], timeout_s, request.priority, timing, done, units)
        spent = None if timing is None else timing.spent
        return self.batcher.submit([part], BatchReply(done), timeout_s=timeout_s, priority=request.priority, spent=spent)

    async def _prepare_and_run(
        self, call: Call, items: Array, timeout_s: float, priority: int, *, is_cached: bool
    ) -> list[Batch]:
        timing = call.timing
        parts = await self.code.prepare(items, timeout_s, timing)
        timeout_s = left_s(call, timeout_s)
        if is_cached and self.cache is not None:
            return await self.cache.run(None, parts, timeout_s, priority, timing)
        spent = None if timing is None else timing.spent
        return await self.batcher.run(parts, timeout_s=timeout_s, priority=priority, spent=spent)


class Inference(Generic[Answer]):
    """One request in an engine.

    Args:
        engine: engine of the model.
        call: record of the request; receives the request's id and the times.
        write: encodes the answer.
        done: called once with the answer or the error, possibly before `start` returns.
        writes_with_code: whether `write` calls the user's code, which then runs in a thread.
    """

    __slots__ = (
        "_call",
        "_cancel",
        "_done",
        "_engine",
        "_has_outputs",
        "_is_counted",
        "_request",
        "_write",
        "_writes_with_code",
    )

    def __init__(
        self,
        engine: Engine,
        call: Call,
        write: Write[Answer],
        done: Callable[[Answer | Exception], None],
        *,
        writes_with_code: bool = False,
    ) -> None:
        self._engine = engine
        self._call = call
        self._write = write
        self._done = done
        self._writes_with_code = writes_with_code
        self._cancel: Cancel | None = None
        self._has_outputs = self._is_counted = False
        self._request: InferRequest

    def start(self, read: Callable[[], InferRequest], nbytes: int) -> Cancel:
        """Start the request that `read` returns.

        Args:
            read: decodes the request.
            nbytes: size of the body for `read`; a long body is decoded in a thread.

        Returns:
            A function that cancels the request, after which `done` is not called.
        """
        engine = self._engine
        if nbytes > LONG_DATA:
            decode = partial(self._read_and_prepare, read)
            self._run_in_task(engine.threads.run(decode, "decode", timeout_s=engine.timeout_s), self._resume)
            return self.cancel
        try:
            request = self._read(read)
        except Exception as error:  # noqa: BLE001  the front answers with it
            self._end(error)
        else:
            self._run(request)
        return self.cancel

    def cancel(self) -> None:
        """Cancel the request: its client has left."""
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            self._uncount()
            cancel()

    def _read(self, read: Callable[[], InferRequest]) -> InferRequest:
        """Return the request, if the model has the requested outputs."""
        request = read()
        self._call.request_id = request.id or None
        if request.outputs:
            require_outputs(request.outputs, self._engine.outputs)
        return request

    def _read_and_prepare(self, read: Callable[[], InferRequest]) -> Prepared:
        """Return a long request; in a thread."""
        return self._engine.prepare(self._read(read))

    def _resume(self, prepared: Prepared | Exception) -> None:
        """Run a request that was decoded in a thread."""
        if isinstance(prepared, Exception):
            self._end(prepared)
        elif not self._engine.is_ready:
            self._end(self._engine.not_ready())
        else:
            self._run(prepared.request, prepared)

    def _run(self, request: InferRequest, prepared: Prepared | None = None) -> None:
        engine, call = self._engine, self._call
        self._request = request
        if call.timing is not None:
            call.timing.decoded()
        if engine.cache is not None or engine.code.has_preprocess:
            self._count()
        try:
            cancel = engine.run(call, request, self._encode, prepared)
        except Exception as error:  # noqa: BLE001  the front answers with it
            self._end(error)
        else:
            if not self._has_outputs:
                self._cancel = cancel

    def _encode(self, outputs: list[Batch] | Exception) -> None:
        """Encode the answer; in a thread if it is long or needs the user's code."""
        self._has_outputs, self._cancel = True, None
        if isinstance(outputs, Exception):
            self._end(outputs)
            return
        engine, timing = self._engine, self._call.timing
        if timing is not None:
            timing.outputs()
        is_long = not self._request.is_binary and _num_elements(outputs) > LONG_ANSWER
        answer: Answer | Exception
        try:
            if is_long or self._writes_with_code or engine.code.has_postprocess:
                self._encode_in_thread(outputs, "encode" if is_long else "postprocess")
                return
            answer = self._finish(outputs)
        except Exception as error:  # noqa: BLE001  the front answers with it
            answer = error
        self._end(answer)

    def _encode_in_thread(self, outputs: list[Batch], what: str) -> None:
        engine = self._engine
        timeout_s = left_s(self._call, self._request.timeout_s or engine.timeout_s)
        self._count()
        items = sum(map(num_rows, outputs))
        encode = partial(self._finish, outputs)
        self._run_in_task(engine.threads.run(encode, what, timeout_s=timeout_s, items=items, is_finishing=True), self._end)

    def _finish(self, outputs: Sequence[Batch]) -> Answer:
        """Return the answer with the requested outputs, in the requested order."""
        engine, call, request = self._engine, self._call, self._request
        found = engine.code.outputs(outputs)
        if request.outputs:
            found = {name: found[name] for name in request.outputs}
        if call.request_id is None:
            call.request_id = engine.next_id()
        return self._write(request, engine.name, engine.version, call.request_id, found)

    def _end(self, answer: Answer | Exception) -> None:
        timing = self._call.timing
        if timing is not None and not isinstance(answer, Exception):
            timing.encoded()
        self._cancel = None
        self._uncount()
        call_back(self._done, answer)

    def _run_in_task(self, work: Coroutine[Any, Any, Any], done: Callable[[Any], None]) -> None:
        self._cancel = run_in_task(work, done)

    def _count(self) -> None:
        """Count the request as in flight, once."""
        if not self._is_counted:
            self._is_counted = True
            self._engine.in_flight.enter()

    def _uncount(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._engine.in_flight.leave()


def not_ready(name: str) -> UnavailableError:
    """Return the error of a model that is not ready."""
    return UnavailableError(f"model {name!r} is not ready: it is warming up, or the server is stopping")


def device_lost(name: str, because: str) -> DeviceLostError:
    """Return the error of a model whose device is lost."""
    return DeviceLostError(f"model {name!r}: device lost, restart needed ({because})")


def left_s(call: Call, timeout_s: float) -> float:
    """Return the remaining seconds of a request.

    Raises:
        DeadlineError: no time is left.
    """
    left = timeout_s - (time.monotonic() - (call.begun or call.received))
    if left <= 0:
        raise late(timeout_s)
    return left


def _num_elements(outputs: Sequence[Batch]) -> int:
    count = 0
    for part in outputs:
        for array in part.values():
            count += array.size
    return count
