"""A candidate in a process of its own: what crashes, hangs or eats memory there is a row with a reason, and nothing more.

The process is forked, so that it has the model, its sample and eager's answers without loading anything again (MiniLM with
transformers takes 7 s to load). libgomp's threads do not survive a fork, and its pool belongs to the thread that made it: the
child therefore works in a fresh thread, whose pool is its own. CUDA does not survive a fork at all.
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
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nograd.errors import NogradError
from nograd.runtime.exits import delayed_ctrl_c
from nograd.runtime.threads import in_own_thread
from nograd.tuning.bench import Bench, Task, failure
from nograd.tuning.priority import go_first
from nograd.tuning.values import Candidate

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

__all__ = ["Worker", "WorkerError", "wait_any"]

WATCH_S = 0.05
"""Seconds between looks at a busy worker's memory."""

ORPHAN_S = 1.0
"""Seconds between looks of an idle worker at whether its parent still lives."""

LAST_WORDS = 300
"""Characters of its output that are told of a worker that died."""


class WorkerError(NogradError):
    """A worker did not do what it was asked; the message says why. It is gone, unless `alive`."""

    def __init__(self, message: str, *, alive: bool = False) -> None:
        super().__init__(message)
        self.alive = alive


class Worker:
    """A handle on one candidate's process.

    Args:
        task: what all candidates share; the child inherits it.
        candidate: what it runs.
        path: the candidate's file.
        log: takes what the process prints.
        memory_bytes: it may grow by, above what it inherited.
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
                target=_main, args=(task, candidate, path, log, theirs), name=f"nograd-tune {candidate}", daemon=True,
            )  # fmt: skip
            self._process.start()
        theirs.close()
        self._inherited = _memory_of(self.pid)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid or 0

    # -- asking

    def send(self, command: str, *, limit_s: float, **options: Any) -> None:
        """Begin a command; `receive` has its result."""
        self._doing, self._limit_s, self._until = command, limit_s, time.monotonic() + limit_s
        with suppress(BrokenPipeError):  # it has died; `receive` says of what
            self._connection.send_bytes(msgspec.json.encode({"command": command, "options": options}))

    def receive(self) -> dict[str, Any]:
        """Wait for the result of the command that was begun.

        Raises:
            WorkerError: it failed, died, took too long, or too much memory.
        """
        while not self.is_done():
            self._connection.poll(WATCH_S)  # waits
        if self._fault is not None:
            raise self._fault
        return self._read()

    def ask(self, command: str, *, limit_s: float, **options: Any) -> dict[str, Any]:
        """Carry out a command and return its result; errors as `receive`."""
        self.send(command, limit_s=limit_s, **options)
        return self.receive()

    def is_done(self) -> bool:
        """True where `receive` will not wait. A process beyond its time or its memory is ended here."""
        if self._fault is None and not self._connection.poll(0):
            self._fault = self._excess()
            if self._fault is not None:
                self.kill()
        return self._fault is not None or self._connection.poll(0)

    def _excess(self) -> WorkerError | None:
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
            raise WorkerError(self._died()) from None
        if "error" in found:
            raise WorkerError(found["error"], alive=True)
        return found

    def _died(self) -> str:
        code = self._process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        words = self._log.read_text("utf-8", "replace").strip()[-LAST_WORDS:] if self._log.is_file() else ""
        last = " ".join(words.split())
        return f"its process ended with {how} while it was to {self._doing}{f'; its last words: {last}' if last else ''}"

    # -- ending it

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self.kill()

    def kill(self) -> None:
        """End the process now; it holds nothing that anybody needs."""
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
    """Return the bytes of a process that are its own: what it wrote, not the pages of files and libraries."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:  # it has ended, or this system has no /proc
        return 0
    return 1024 * next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def _main(task: Task, candidate: Candidate, path: Path | None, log: Path, connection: Connection) -> None:
    """The child: commands in, results out, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.disable()  # a crash here is one sentence of a report, not a page on the terminal
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stderr = sys.__stderr__  # the parent's is a queue, whose thread is not here
    go_first()
    in_own_thread(partial(_work, Bench(task, candidate, path), connection)).result()
    os._exit(0)  # threads of runtimes may hang at exit; nothing here needs them to end


def _work(bench: Bench, connection: Connection) -> None:
    warnings.simplefilter("ignore")
    parent = os.getppid()
    while True:
        while not connection.poll(ORPHAN_S):
            if os.getppid() != parent:  # it was killed; the pipe stays open as long as a sister lives
                return
        asked = msgspec.json.decode(connection.recv_bytes())
        try:
            answer = bench.do(asked["command"], asked["options"])
        except Exception as error:  # noqa: BLE001  whatever a backend raises is the candidate's reason
            answer = {"error": failure(error)}
        connection.send_bytes(msgspec.json.encode(answer, enc_hook=float))
