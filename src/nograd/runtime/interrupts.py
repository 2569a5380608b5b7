"""Distinction of exceptions raised by signals from those raised by user code.

Models, preprocessing and postprocessing are user code and may raise anything: `SystemExit`, `KeyboardInterrupt`,
`GeneratorExit`. Such an exception fails one request. If Ctrl-C or a signal handler raised it, it ends the program.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dis import opmap
from types import CodeType, TracebackType
from typing import Any

__all__ = ["is_interrupt"]

RAISE = opmap["RAISE_VARARGS"]


def is_interrupt(error: BaseException) -> bool:
    """Return whether a signal raised the exception: Ctrl-C, or a signal handler written in Python.

    Python runs signal handlers in the main thread only, between two instructions. Its own handler of Ctrl-C is a C function
    without a frame: the traceback then ends in the interrupted code, at an instruction other than `raise`.
    """
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return False
    places = [*_places(error.__traceback__)]
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    if any(code in handlers for code, _ in places):
        return True
    return isinstance(error, KeyboardInterrupt) and not (places and _is_raise(*places[-1]))


def _places(trace: TracebackType | None) -> Iterator[tuple[CodeType, int]]:
    """Yield code and instruction of each frame of a traceback; the raising frame is last."""
    while trace is not None:
        yield trace.tb_frame.f_code, trace.tb_lasti
        trace = trace.tb_next


def _code_of(handler: Any) -> CodeType | None:
    """Return the code of a function, method or partial; None for other objects."""
    code = getattr(getattr(handler, "func", handler), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _is_raise(code: CodeType, instruction: int) -> bool:
    return code.co_code[instruction] == RAISE
