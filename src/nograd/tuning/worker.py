"""Run a candidate in its own process. A crash, a hang or too much memory becomes a row with a reason, and affects nothing
else.

The process is forked, so it has the model, its sample and eager's answers without loading anything again (MiniLM with
transformers takes 7 s to load). libgomp's threads do not survive a fork, and its pool belongs to the thread that created
it. The child therefore works in a new thread, which creates its own pool. CUDA does not survive a fork at all.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nograd.errors import NogradError
from nograd.runtime.exits import delayed_ctrl_c
from nograd.runtime.threads import in_own_thread
from nograd.tuning.bench import Bench, Task, describe_error
from nograd.tuning.priority import go_first
from nograd.tuning.values import Candidate

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

__all__ = ["Worker", "WorkerError", "wait_any"]

WATCH_S = 0.05
"""Seconds between memory checks of a busy worker."""

ORPHAN_S = 1.0
"""Seconds between a worker's checks that its parent is alive."""

LAST_WORDS = 300
"""Maximum characters of a dead worker's output in the error message."""


class WorkerError(NogradError):
    """A command failed; the message gives the reason. The worker's process has ended, unless `alive`."""

    def __init__(self, message: str, *, alive: bool = False) -> None:
        super().__init__(message)
        self.alive = alive


class Worker:
    """A handle on one candidate's process.

    Args:
        task: the data that all candidates share; the child inherits it.
        candidate: the candidate to run.
        path: the candidate's model file.
        log: file for the output of the process.
        memory_bytes: maximum memory growth above the inherited memory, in bytes.
    """

    def __init__(self, task: Task, candidate: Candidate, path: Path | None, *, log: Path, memory_bytes: int) -> None:
        self.candidate = candidate
        self._log = log
        self._memory_bytes = memory_bytes
        self._until = 0.0
        self._limit_s = 0.0
        self._doing = ""
        self._fault: WorkerError | None = None
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        with warnings.catch_warnings(), delayed_ctrl_c():  # the child is not ready for Ctrl-C before `_main` is
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads: see above
            self._process: ForkProcess = context.Process(
                target=_main, args=(task, candidate, path, log, theirs, os.getpid()), name=f"nograd-tune {candidate}",
                daemon=True,
            )  # fmt: skip
            self._process.start()
        theirs.close()
        self._inherited = _memory_of(self.pid)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid or 0

    # -- commands

    def send(self, command: str, *, limit_s: float, **options: Any) -> None:
        """Start a command; `receive` returns its result."""
        self._doing, self._limit_s, self._until = command, limit_s, time.monotonic() + limit_s
        with suppress(BrokenPipeError):  # it has died; `receive` reports the cause
            self._connection.send_bytes(msgspec.json.encode({"command": command, "options": options}))

    def receive(self) -> dict[str, Any]:
        """Wait for the result of the started command.

        Raises:
            WorkerError: the command failed, the process died, or it exceeded its time or memory limit.
        """
        while not self.is_done():
            self._connection.poll(WATCH_S)  # waits
        if self._fault is not None:
            raise self._fault
        return self._read()

    def ask(self, command: str, *, limit_s: float, **options: Any) -> dict[str, Any]:
        """Run a command and return its result. It raises the errors of `receive`."""
        self.send(command, limit_s=limit_s, **options)
        return self.receive()

    def is_done(self) -> bool:
        """Return True if `receive` will not wait. A process beyond its time or memory limit is killed here."""
        if self._fault is None and not self._connection.poll(0):
            self._fault = self._find_excess()
            if self._fault is not None:
                self.kill()
        return self._fault is not None or self._connection.poll(0)

    def _find_excess(self) -> WorkerError | None:
        grown = _memory_of(self.pid) - self._inherited
        if grown > self._memory_bytes:
            allowed = f"{self._memory_bytes / 1e9:.1f} GB are allowed (--memory)"
            return WorkerError(f"it took {grown / 1e9:.1f} GB of memory to {self._doing}; {allowed}")
        if time.monotonic() > self._until:
            return WorkerError(f"it was not done after {self._limit_s:.0f} s to {self._doing}")
        return None

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = msgspec.json.decode(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._process.join()
            raise WorkerError(self._describe_exit()) from None
        if "error" in found:
            raise WorkerError(found["error"], alive=True)
        return found

    def _describe_exit(self) -> str:
        code = self._process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        words = self._log.read_text("utf-8", "replace").strip()[-LAST_WORDS:] if self._log.is_file() else ""
        last = " ".join(words.split())
        return f"its process ended with {how} while it was to {self._doing}{f'; its last words: {last}' if last else ''}"

    # -- ending

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self.kill()

    def kill(self) -> None:
        """Kill the process; it holds no data that is still needed."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def wait_any(workers: Sequence[Worker]) -> Worker:
    """Return a worker whose `receive` will not wait."""
    while True:
        for worker in workers:
            if worker.is_done():
                return worker
        time.sleep(WATCH_S)


def _memory_of(pid: int) -> int:
    """Return the private memory of a process in bytes: pages that it wrote, without pages of files and libraries."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:  # it has ended, or this system has no /proc
        return 0
    return 1024 * next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def _main(task: Task, candidate: Candidate, path: Path | None, log: Path, connection: Connection, parent: int) -> None:
    """Run commands from the connection and send their results, until the process is killed or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    faulthandler.disable()  # a crash here is one sentence of a report, not a page on the terminal
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stderr = sys.__stderr__  # the parent's stderr is a queue, whose thread does not exist here
    go_first()
    serving = in_own_thread(partial(_serve_commands, Bench(task, candidate, path), connection))
    while os.getppid() == parent and not wait([serving], ORPHAN_S).done:
        pass  # a command may run for ever; the pipe stays open while another child lives
    if serving.done():
        serving.result()
    os._exit(0)  # threads of runtimes may hang at exit, and nothing here needs them to end


def _serve_commands(bench: Bench, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    while True:
        request = msgspec.json.decode(connection.recv_bytes())
        try:
            answer = bench.do(request["command"], request["options"])
        except Exception as error:  # noqa: BLE001  any error of a backend is the candidate's reason
            answer = {"error": describe_error(error)}
        connection.send_bytes(msgspec.json.encode(answer, enc_hook=float))
