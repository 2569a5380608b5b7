"""A spinner on stderr while a command works."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

__all__ = ["spinner"]


def spinner(text: str) -> AbstractContextManager[object]:
    """Return a context in which a terminal shows the text with a spinner; nothing is shown if stderr is not a terminal.

    rich is imported for a terminal only: it takes a tenth of the time in which `nograd serve` starts (2026-12-01).
    """
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True, highlight=False).status(text)
