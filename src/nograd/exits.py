"""How the `nograd` command ends: standard files in place, and no last steps of the interpreter if a thread still runs."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

__all__ = ["hold_standard_files", "leave"]


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
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
