"""The supervisor process: starts and restarts the workers, and serves no requests itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from nograd import __version__
from nograd.runtime.cores import THREADS, usable_processors
from nograd.server.banner import with_line
from nograd.server.command import check_early
from nograd.server.run import bind, hold_port
from nograd.server.settings.resolution import ResolvedSettings
from nograd.server.telemetry.logs import configure, event
from nograd.server.workers.plan import (
    BEAT_S,
    STEADY_S,
    Order,
    cannot_start,
    devices_of,
    is_silent,
    orders_of,
    pause_s,
    threads_each,
)

__all__ = ["run_workers"]


def run_workers(settings: ResolvedSettings, say: Callable[[str], None]) -> int:
    """Serve with several processes until SIGTERM or SIGINT; return the exit code.

    Args:
        settings: settings of the server.
        say: called with the banner when all workers are ready, and with the final message; not called for JSON logs.

    Raises:
        NogradError: a port is not available, or there is nothing to serve.
    """
    config = settings.config
    configure(config.log_format, config.log_level)
    check_early(settings)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nograd-"))
        # Bound but never listening: this reserves the ports while workers restart.
        stack.enter_context(hold_port(config.host, config.port))
        http = stack.enter_context(bind(config.host, config.port, shared=True))
        grpc = config.grpc_port
        if grpc is not None:
            stack.enter_context(hold_port(config.host, grpc, "--grpc-port"))
            grpc = stack.enter_context(bind(config.host, grpc, "--grpc-port", shared=True)).getsockname()[1]
        orders = orders_of(settings, folder, (http.getsockname()[1], grpc), os.environ)
        event("starting", version=__version__, workers=len(orders), pid=os.getpid())
        report = say if config.log_format == "text" else _discard
        devices = devices_of(config)
        line = f"  workers   {len(devices)} processes: {', '.join(devices)}"
        code = asyncio.run(_Supervisor([_WorkerState(order) for order in orders], report, line).run())
    if not code:
        event("stopped")
        report("stopped")
    return code


def _discard(_said: str) -> None:
    """Discard messages if the log is JSON."""


@dataclass(slots=True)
class _WorkerState:
    """The state of a worker process."""

    order: Order
    process: Process | None = None
    ready_at: float | None = None
    """Time at which it became ready; None if it is not ready."""

    heard_at: float = 0.0
    """Time of its last report."""

    restarts: int = 0
    failures: int = 0
    """Number of consecutive ends without a longer time of service in between."""


class _Supervisor:
    def __init__(self, workers: list[_WorkerState], say: Callable[[str], None], line: str) -> None:
        self._workers = workers
        self._line = line
        self._say = say
        self._stopping = asyncio.Event()
        self._any_was_ready = False
        self._code = 0
        self._environment = {**os.environ, **_threads(len(workers))}

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._send, signal.SIGHUP)
        first, *others = self._workers
        said = asyncio.Queue[str]()
        tasks = [loop.create_task(self._keep_running(first, said))]
        banner = await self._next_banner(said, tasks)  # the first alone: errors appear once, compiled models are cached
        if banner and others:
            tasks += [loop.create_task(self._keep_running(worker, said)) for worker in others]
            for _ in others:
                banner = banner and await self._next_banner(said, tasks)
        if banner:
            self._say(with_line(banner, self._line))
            event("ready", workers=len(self._workers))
        await asyncio.gather(*tasks, self._watch())
        return self._code

    async def _next_banner(self, said: asyncio.Queue[str], tasks: list[asyncio.Task[None]]) -> str:
        """Return the banner of the next ready worker; empty if the server stops first."""
        getting = asyncio.ensure_future(said.get())
        await asyncio.wait([getting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        return ""

    async def _keep_running(self, worker: _WorkerState, said: asyncio.Queue[str]) -> None:
        """Keep a worker running until the server stops."""
        has_said = False
        while not self._stopping.is_set():
            code = await self._run_once(worker, None if has_said else said)
            if self._stopping.is_set():
                return
            was_ready, worker.ready_at = worker.ready_at, None
            has_said = has_said or was_ready is not None
            steady = was_ready is not None and time.monotonic() - was_ready >= STEADY_S
            worker.failures = 1 if steady else worker.failures + 1
            if cannot_start(code, worker.failures, was_ready=has_said, any_was_ready=self._any_was_ready):
                self._code = code if code > 0 else 1
                self._stop()
                return
            worker.restarts += 1
            pause = pause_s(worker.failures)
            event("worker_ended", worker=worker.order.worker, code=code, again_in_s=pause)
            self._send_states()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_once(self, worker: _WorkerState, said: asyncio.Queue[str] | None) -> int:
        """Start a worker; return its exit code when it has ended."""
        reads, writes = os.pipe()
        try:
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nograd.server.workers.process",
                stdin=PIPE, pass_fds=(writes,), env={**self._environment, **worker.order.environment},
                process_group=0,  # Ctrl-C in a shell must reach only the supervisor, which stops the workers
            )  # fmt: skip
        finally:
            os.close(writes)
        self._write(worker.process, replace(worker.order, report_to=writes).to_line())
        if self._stopping.is_set():
            worker.process.send_signal(signal.SIGTERM)
        reporting = asyncio.get_running_loop().create_task(self._read_reports(worker, reads, said))
        code = await worker.process.wait()
        worker.process = None
        await reporting
        return code

    async def _read_reports(self, worker: _WorkerState, reads: int, said: asyncio.Queue[str] | None) -> None:
        """Read a worker's reports until it ends."""
        reader = asyncio.StreamReader(limit=2**24)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(reads, "rb"))
        try:
            async for line in reader:
                worker.heard_at = time.monotonic()
                report = json.loads(line)
                if worker.ready_at is not None or "banner" not in report:
                    continue
                worker.ready_at, self._any_was_ready = worker.heard_at, True
                self._send_states()
                if said is not None:
                    said.put_nowait(report["banner"])
                else:
                    event("worker_ready", worker=worker.order.worker, restarts=worker.restarts)
        finally:
            transport.close()

    async def _watch(self) -> None:
        """End ready workers that do not report, because the process is stopped or the event loop hangs."""
        last = time.monotonic()
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), BEAT_S)
            now = time.monotonic()
            if now - last > 2 * BEAT_S:  # the machine or this process was suspended, too
                for worker in self._workers:
                    worker.heard_at = max(worker.heard_at, now)
            last = now
            for worker in self._workers:
                if worker.process is not None and worker.ready_at is not None and is_silent(worker.heard_at, now):
                    event("worker_silent", worker=worker.order.worker, seconds=round(now - worker.heard_at, 1))
                    worker.heard_at = now
                    with suppress(ProcessLookupError):
                        worker.process.kill()

    def _send_states(self) -> None:
        """Send the states of all workers to each worker."""
        states = [
            {
                "worker": worker.order.worker,
                "pid": worker.process.pid if worker.process is not None else None,
                "ready": worker.ready_at is not None,
                "restarts": worker.restarts,
            }
            for worker in self._workers
        ]
        for worker in self._workers:
            if worker.process is not None:
                self._write(worker.process, json.dumps(states).encode() + b"\n")

    @staticmethod
    def _write(process: Process, line: bytes) -> None:
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line)

    def _stop(self) -> None:
        """Stop all workers; a second signal stops them immediately."""
        self._stopping.set()
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(number)


def _threads(workers: int) -> Mapping[str, str]:
    """Return the variable with each worker's share of the processors; nothing if the user has set another value."""
    usable = usable_processors()
    is_set = os.environ.get(THREADS, str(usable)) != str(usable)  # `bound_threads` sets it to the quota for this process
    return {} if is_set else {THREADS: str(threads_each(usable, workers))}
