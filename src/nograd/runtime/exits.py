"""How the `nograd` command ends: standard files in place, and no last steps of the interpreter if a thread still runs."""

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
"""Exit code after Ctrl-C, as shells have it."""


def hold_standard_files() -> None:
    """Open `/dev/null` for stdin, stdout and stderr if they are closed.

    Otherwise the next file or socket gets the number of stderr, and a library that writes an error message writes it there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdout is None:  # what Python makes of a closed one; `queued_stderr` sees to the other
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  for the life of the process


@contextmanager
def end_on_signals(say: Callable[[str], object]) -> Iterator[None]:
    """End the process at once on SIGTERM (exit code 0) and Ctrl-C (130), for as long as the context lasts.

    For a server that has accepted nothing yet. Without a handler, SIGTERM does nothing to process 1 of a container, and a
    Ctrl-C would wait for the thread that loads a model.

    Args:
        say: is called with the signal's name, and may log it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
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
    """Ignore Ctrl-C for as long as the context lasts: for a few seconds of work that must not be cut in two."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C raises in the main thread only
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def delayed_ctrl_c() -> Iterator[None]:
    """Deliver Ctrl-C when the context ends, in this process; one that is forked within the context only notes it.

    Blocking the signal would not do: if another thread takes it, Python still runs the handler in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # as above
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
    """On Ctrl-C within the context, say whether the file or folder was written meanwhile, and exit with 130."""
    before = _version_of(output)
    try:
        yield
    except KeyboardInterrupt:
        result = "there is no result" if _version_of(output) == before else f"{output} is written"
        sys.stderr.write(f"stopped: {result}\n")
        raise SystemExit(INTERRUPTED) from None


def _version_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file or folder is replaced; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    A daemon thread that computes in C++ code takes Python's lock (the GIL) when it returns. If the interpreter is finalized by
    then, CPython ends the thread by unwinding its stack, which C++ answers with an abort: "terminate called without an active
    exception", exit code 134. Ctrl-C while a model loads or is probed leaves such a thread. So if one runs, the process ends
    right after what `sys.exit` does first: it waits for the other threads, calls the exit functions and flushes its output.
    """
    if not any(thread.daemon and thread is not threading.current_thread() for thread in threading.enumerate()):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  the interpreter's own first step
    atexit._run_exitfuncs()  # noqa: SLF001  and its second
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # Python has none for a descriptor that was closed before it started
            with suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)
