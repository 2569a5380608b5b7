"""An asyncio event loop on a virtual clock, and a device whose runs take virtual time.

The clock stands still while anything can run and jumps to the next timer when nothing can: a test of seconds takes
milliseconds, and the same test always sees the same times. Device threads are real. The loop knows how many of them
compute, and the clock waits for those; a thread whose run "takes a second" sleeps on the virtual clock like any timer.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context
from dataclasses import dataclass, field
from functools import wraps
from heapq import heappop, heappush
from math import inf
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, cast

import numpy as np

from nograd import BatchPolicy, CostCurve, Decision, DynamicBatcher, Signature, TensorSpec
from nograd.batching import BatchRecord, DeadlineQueue, DeviceState, policy_for
from nograd.core.tensors import Batch, Batching

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STUCK_S = 120.0
"""Real seconds after which a loop that waits for a thread has waited in vain."""

STUCK_TURNS = 20_000
"""Turns of the loop at one and the same time after which it will turn for ever."""


@dataclass(order=True, slots=True)
class _Sleeper:
    """A device thread whose run takes virtual time."""

    until: float
    key: float
    woken: threading.Event = field(compare=False, default_factory=threading.Event)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; `problems` collects what nobody handled.

    At one and the same time everything else comes first, then the device threads, one by one: a thread that was woken
    hands over what it has to say before the loop goes on. So threads change nothing about the order of events.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[asyncio.TimerHandle] = []
        self._sleepers: list[_Sleeper] = []
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._heard = threading.Event()
        self._working = 0
        self.problems: list[dict[str, Any]] = []
        super().__init__(_JumpingSelector(self))
        self.set_exception_handler(lambda _, context: self.problems.append(context))

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, as a computation in the loop's own thread would."""
        self.go_to(self._now + seconds)

    def go_to(self, when: float) -> None:
        """Make it that time."""
        self._now = when

    @property
    def working(self) -> int:
        """Threads that compute now; the clock waits for them."""
        return self._working

    def add_working(self, threads: int) -> None:
        """Say that so many more threads compute from now on, or fewer."""
        with self._lock:
            self._working += threads

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, callback, *args, context=context)
        self._timers = [*self.pending_timers(), timer]
        return timer

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that would still wake the loop."""
        return [timer for timer in self._timers if timer.when() > self._now and not timer.cancelled()]

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        if threading.get_ident() != self._thread:
            self._heard.set()
        return handle

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self.add_working(1)
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self.add_working(-1))
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self.add_working(1)  # since Python 3.12 there is a timer beside the joining thread
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self.add_working(-1)

    def compute(self, seconds: float, key: float) -> None:
        """Take virtual time: in a thread that counts as working, or in the loop's own.

        Args:
            seconds: of the virtual clock.
            key: of threads that wake at the same time, the one with the smallest is first.
        """
        if threading.get_ident() == self._thread:
            self.advance(seconds)
            return
        sleeper = _Sleeper(self._now + seconds, key)
        with self._lock:
            heappush(self._sleepers, sleeper)
            self._working -= 1
        self.call_soon_threadsafe(lambda: None)
        if not sleeper.woken.wait(STUCK_S):
            raise RuntimeError(f"a device slept {STUCK_S} real seconds: the loop never got to {sleeper.until} s")

    def wake_before(self, when: float) -> bool:
        """Go to the time of the first sleeping thread and hear it out, if that is before `when`."""
        if not self._sleepers or self._sleepers[0].until >= when:
            return False
        sleeper = heappop(self._sleepers)
        self.go_to(sleeper.until)
        self.add_working(1)
        self._heard.clear()
        sleeper.woken.set()
        self._heard.wait(STUCK_S)
        return True


class _JumpingSelector(selectors.SelectSelector):
    """Where a real loop would sleep until its next timer, the clock jumps there."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:  # something is ready
            self._turns += 1
            if self._turns > STUCK_TURNS:
                raise RuntimeError(f"the loop turned {STUCK_TURNS} times at {self._loop.time()} s: time does not go on")
            return super().select(0)
        self._turns = 0
        if not self._loop.working:
            next_timer = min((timer.when() for timer in self._loop.pending_timers()), default=inf)
            if self._loop.wake_before(next_timer):
                return super().select(0)
            if next_timer < inf:
                self._loop.go_to(next_timer)
                return super().select(0)
        events = super().select(STUCK_S)
        if not events:
            raise RuntimeError(f"nothing will ever happen: no timer, {self._loop.working} threads that say nothing")
        return events


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return what `main` returns on a virtual loop; an error that nobody retrieved fails the test."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = cast("VirtualLoop", runner.get_loop())
        answer = runner.run(main)
        gc.collect(1)  # a future whose error nobody saw complains when it is collected
        assert loop.problems == []
    return answer


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an `async def` test on a virtual loop."""

    @wraps(test)
    def on_virtual_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_virtual_loop


def virtual_loop() -> VirtualLoop:
    """Return the running loop."""
    return cast("VirtualLoop", asyncio.get_running_loop())


async def at(when: float, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, begun at a time on the virtual clock."""
    await asyncio.sleep(when - virtual_loop().time())
    return await work


async def outcome(work: Coroutine[Any, Any, T]) -> tuple[float, T | BaseException]:
    """Return when `work` ended, and what it returned or raised."""
    result: T | BaseException
    try:
        result = await work
    except BaseException as error:  # noqa: BLE001  cancellation is an outcome, too
        result = error
    return virtual_loop().time(), result


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the device's `run`."""

    started: float
    rows: tuple[tuple[float, ...], ...]
    """What it was given, padding included."""


PADDING = -1.0


class Device:
    """A Runner that doubles its input `x [rows, tokens]`, and takes virtual time for it.

    Args:
        seconds: of one run.
        seconds_per_row: added to it for each row.
        lanes: runs that may go on side by side.
        batching: how rows of different lengths may meet.
        poison: values on which a run raises `error`.
        max_rows: that fit into its memory.
    """

    def __init__(
        self,
        seconds: float = 1.0,
        *,
        seconds_per_row: float = 0.0,
        lanes: int = 1,
        batching: Batching = "pad",
        poison: Collection[float] = (),
        error: BaseException | None = None,
        max_rows: int | None = None,
    ) -> None:
        inputs = (TensorSpec("x", "float32", ("tokens",), pad_value=PADDING),)
        self.signature = Signature(inputs, (TensorSpec("y", "float32", ("tokens",)),), batching)
        self.lanes = lanes
        self.runs: list[Run] = []
        self._cost = (seconds, seconds_per_row)
        self._poison = frozenset(poison)
        self._error = error or ValueError("poison")
        self._max_rows = max_rows
        self._loop: VirtualLoop

    def batcher(
        self,
        *,
        max_batch_size: int = 32,
        max_wait_ms: float = 0.0,
        max_queue_rows: int = 1024,
        max_queue_bytes: int = 1 << 28,
        inline: bool = False,
        cost: CostCurve | None = None,
        policy: BatchPolicy | None = None,
        observer: Callable[[BatchRecord], None] = lambda _: None,
    ) -> DynamicBatcher:
        """Return a batcher on this device, which tells the virtual loop when the device works."""
        self._loop = loop = virtual_loop()
        policy = policy or policy_for(self.signature, max_batch_size=max_batch_size, max_wait_ms=max_wait_ms, cost=cost)

        def observe(record: BatchRecord) -> None:
            loop.add_working(-1)
            observer(record)

        return DynamicBatcher(
            self,
            max_queue_rows=max_queue_rows,
            max_queue_bytes=max_queue_bytes,
            inline=inline,
            policy=cast("BatchPolicy", _Announcing(policy, loop)),
            observer=observe,
            clock=loop.time,
        )

    def prepare(self, inputs: Any) -> tuple[list[Batch], Callable[[list[Batch]], Any]]:
        return [self.signature.check({"x": inputs})], lambda outputs: outputs[0]["y"].tolist()

    def run(self, batch: Batch) -> Batch:
        given = batch["x"]
        self.runs.append(Run(self._loop.time(), tuple(map(tuple, given.tolist()))))
        self._loop.compute(self._cost[0] + self._cost[1] * len(given), key=float(given[0, 0]))
        if self._max_rows is not None and len(given) > self._max_rows:
            raise MemoryError("out of memory")
        if self._poison.intersection(given.ravel().tolist()):
            raise self._error
        return {"y": np.where(given == PADDING, np.nan, given * 2)}

    @property
    def batches(self) -> list[list[float]]:
        """The first value of every row, by run."""
        return [[row[0] for row in run.rows] for run in self.runs]


class _Announcing:
    """A policy that decides as another does, and tells the loop of batches on their way to the device."""

    def __init__(self, policy: BatchPolicy, loop: VirtualLoop) -> None:
        self._policy = policy
        self._loop = loop

    def decide(self, queue: DeadlineQueue, now: float, device: DeviceState) -> Decision:
        decision = self._policy.decide(queue, now, device)
        if decision.take and all(waiting.queued for waiting in decision.take) and len(set(decision.take)) == len(decision.take):
            self._loop.add_working(1)
        return decision

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def statistics_of(batcher: DynamicBatcher) -> Mapping[str, int]:
    """Return the batcher's counts that are not zero."""
    done = batcher.statistics()
    names = ("requests", "rows", "batches", "refused", "expired", "cancelled", "failed", "queue_rows", "running_rows")
    return {name: getattr(done, name) for name in names if getattr(done, name)}
