"""Phases of long work on stderr: a status line in a terminal, otherwise one line per phase. Nothing slow is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["show_phases"]


@contextmanager
def show_phases() -> Iterator[Callable[[str], None]]:
    """Show the current phase on stderr within this context.

    Yields:
        A function that starts the next phase. Its argument is a text such as `loading minilm`; equal texts in a row are
        one phase.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda text: status.update(escape(text))


def _lines() -> Callable[[str], None]:
    """Return a function that writes a line when the phase changes."""
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    return show
