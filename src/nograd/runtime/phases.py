"""Phases of long work on stderr: a status line in a terminal, otherwise one line per phase. Nothing slow is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Phases", "show_phases"]


class Phases(Protocol):
    """The display of phases."""

    def start(self, phase: str, progress: str = "") -> None:
        """Start a phase, or show the progress within it.

        Args:
            phase: such as `loading minilm`.
            progress: shown in a terminal only, because lines would be too many.
        """

    def note(self, text: str) -> None:
        """Show a line that stays."""


@contextmanager
def show_phases() -> Iterator[Phases]:
    """Show phases on stderr within this context."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        yield _Status(console, status)


class _Lines:
    """One line per phase."""

    def __init__(self) -> None:
        self._phase = ""

    def start(self, phase: str, progress: str = "") -> None:  # noqa: ARG002  lines would be too many
        if phase != self._phase:
            self._phase = phase
            self.note(phase)

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _Status:
    """A status line with the phase and its progress."""

    def __init__(self, console: Any, status: Any) -> None:
        self._console, self._status = console, status

    def start(self, phase: str, progress: str = "") -> None:
        from rich.text import Text

        self._status.update(Text(f"{phase}: {progress}" if progress else phase))

    def note(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim", markup=False)
