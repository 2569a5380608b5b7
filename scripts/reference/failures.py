"""Every error: what it means, which built-in it also is, and what becomes of it over HTTP, gRPC and on the command line."""

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr
from typing import Any
from unittest import mock

from nograd import errors
from nograd.cli import entry as cli
from nograd.server.grpc.calls import CODES
from nograd.server.protocol.statuses import status_of
from scripts.reference.tables import MADE, WIDE, table

__all__ = ["exit_code", "failures", "is_of_requests", "made"]


def made(name: str) -> Exception:
    """Return an error of that kind."""
    kind: Any = getattr(errors, name)
    error: Exception = kind.__new__(kind, "it is said here")
    return error


def exit_code(error: Exception) -> Any:
    """Return what the command line ends with where nothing below it has caught the error."""
    raised = mock.patch.object(cli, "app", side_effect=error)
    left = mock.patch.object(cli, "leave", sys.exit)  # it would end this process if a library's daemon thread runs
    with raised, left, mock.patch.dict(os.environ), redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as ended:
            return ended.code
    raise AssertionError("the command line went on")


def is_of_requests(name: str) -> bool:
    """Whether a client can be told it: the tree in `nograd.errors` gives all others an exit code."""
    line = next(line for line in (errors.__doc__ or "").splitlines() if f"─ {name} " in line)
    return "exit" not in line


def failures() -> str:
    """Return the page."""
    rows = [_row(name) for name in errors.__all__ if name != "NogradError"]
    return f"""{WIDE}{MADE}
# Errors

Every error that nograd raises on purpose is a `nograd.NogradError`, and in `nograd.errors`; the built-in that it also is
keeps handlers for that one working. Each says what was given, what is allowed and, where it helps, what to do. Where a
client can be told one, its status is below; on the command line any of them is one sentence on stderr, and the exit code.
`nograd predict` has [exit codes of its own](../predict.md#exit-codes) beside; `check`, `bench` and `conformance` end with 1
where they found something wrong.

{table(["error", "HTTP", "gRPC", "exit code", "means"], rows)}
"""


def _row(name: str) -> list[str]:
    error = made(name)
    bases = [base.__name__ for base in type(error).__bases__ if base is not errors.NogradError]
    status = status_of(error) if is_of_requests(name) else None
    code = CODES.get(status) if status is not None else None
    means = (type(error).__doc__ or "").partition("\n")[0]
    told = [str(status), code.name if code else ""] if status is not None else ["", ""]
    also = " and ".join(f"`{base}`" for base in bases)
    return [f"`{name}`", *told, str(exit_code(error)), f"{means} Also {also}."]
