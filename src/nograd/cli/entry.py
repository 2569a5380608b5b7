"""Entry point of the `nograd` command: standard streams, signals, errors and exit codes around the commands."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn, TextIO

from nograd.cli.application import app
from nograd.errors import ExportError, JobError, NogradError
from nograd.runtime.cores import bound_threads
from nograd.runtime.exits import INTERRUPTED, end_on_signals, hold_standard_files, leave
from nograd.runtime.openmp import spin_briefly
from nograd.runtime.stderr import queued_stderr
from nograd.runtime.terminal import escape_controls

__all__ = ["main", "show_warning"]

PACKAGE = Path(__file__).parent.parent

STOPPED = "stopped\n"
"""Message at Ctrl-C for a command that has no other message and wrote nothing."""


def main() -> NoReturn:
    """Run the command. An error of nograd is one sentence on stderr and exit code 2.

    If stderr cannot be written, the sentence is on stdout.
    """
    hold_standard_files()
    spin_briefly(os.environ)
    bound_threads(os.environ)
    warnings.showwarning = show_warning
    with queued_stderr() as stderr:
        is_server = sys.argv[1:2] == ["serve"]  # handle SIGTERM from here on, before the slow imports
        with end_on_signals(_ignore) if is_server else nullcontext():
            code, sentence = _run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is exiting already
        stderr.write(sentence)
        is_read = stderr.end()
    if sentence and not is_read:
        with suppress(OSError):
            sys.stdout.write(sentence)
            sys.stdout.flush()
    leave(code)


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    """Write a warning of nograd as a sentence, and a warning of other code with its place. A server logs them instead."""
    if Path(filename).is_relative_to(PACKAGE):
        text = f"nograd: warning: {escape_controls(str(message))}\n"
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def _ignore(_signal: str) -> None:
    """Write nothing: there is no log yet."""


def _run() -> tuple[int, str]:
    """Return the exit code and the message."""
    try:
        app()
    except NogradError as error:
        return 1 if isinstance(error, ExportError | JobError) else 2, f"nograd: {escape_controls(str(error))}\n"
    except KeyboardInterrupt:
        return INTERRUPTED, STOPPED
    except SystemExit as ended:
        if isinstance(ended.code, str):
            return 1, f"{ended.code}\n"
        is_ctrl_c = ended.__context__ is not None and isinstance(ended.__context__.__cause__, KeyboardInterrupt)  # typer's way
        return ended.code or 0, STOPPED if is_ctrl_c else ""
    except Exception:  # noqa: BLE001  a fault of nograd: its traceback is the reason
        import traceback

        return 1, traceback.format_exc()
    return 0, ""
