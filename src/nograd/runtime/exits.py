"""Exit of the `nograd` command: open standard streams, and no interpreter shutdown while a thread runs."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from nograd.runtime.stderr import QueuedStderr

__all__ = ["INTERRUPTED", "delayed_ctrl_c", "end_on_signals", "hold_standard_files", "ignored_ctrl_c", "leave", "stop_reported"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


def hold_standard_files() -> None:
    """Open `/dev/null` for stdin, stdout and stderr if they are closed.

    Otherwise the next opened file or socket gets the descriptor of stderr, and libraries write error messages to it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
    if sys.stdout is None:  # Python sets a closed stream to None; `queued_stderr` handles the other case
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for the life of the process


@contextmanager
def end_on_signals(say: Callable[[str], object]) -> Iterator[None]:
    """End the process immediately on SIGTERM (exit code 0) and Ctrl-C (130) within this context.

    Use it in a server that accepts no requests yet. Without a handler, process 1 of a container ignores SIGTERM, and Ctrl-C
    waits for the thread that loads a model.

    Args:
        say: called with the name of the signal, for logging.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set signal handlers
        return

    def end(number: int, _frame: FrameType | None) -> None:
        say(signal.Signals(number).name)
        if isinstance(sys.stderr, QueuedStderr):
            sys.stderr.drain()
        os._exit(INTERRUPTED if number == signal.SIGINT else 0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ignored_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C within this context, for a few seconds of work that must not be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is raised in the main thread only
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def delayed_ctrl_c() -> Iterator[None]:
    """Deliver Ctrl-C at the end of this context. A process forked within the context only records it.

    Blocking the signal is not sufficient: if another thread receives it, Python still runs the handler in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C is raised in the main thread only
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def stop_reported(output: Path) -> Iterator[None]:
    """On Ctrl-C within this context, report whether the file or folder was written, and exit with 130."""
    before = _version_of(output)
    try:
        yield
    except KeyboardInterrupt:
        result = "there is no result" if _version_of(output) == before else f"{output} is written"
        sys.stderr.write(f"stopped: {result}\n")
        raise SystemExit(INTERRUPTED) from None


def _version_of(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when a file or folder is replaced; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    A daemon thread in C++ code acquires the GIL when it returns. If the interpreter is finalized before that, CPython ends the
    thread by unwinding its stack, and C++ aborts: "terminate called without an active exception", exit code 134. Ctrl-C while a
    model loads or is probed leaves such a thread. If a daemon thread runs, the process therefore only performs the first steps
    of `sys.exit` and then ends: it waits for the other threads, calls the exit functions and flushes its output.
    """
    if not any(thread.daemon and thread is not threading.current_thread() for thread in threading.enumerate()):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  the first step of the interpreter
    atexit._run_exitfuncs()  # noqa: SLF001  the second step
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None if the descriptor was closed at start
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)
