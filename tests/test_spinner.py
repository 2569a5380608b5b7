"""The spinner of commands: on a terminal only, and rich is imported for it only."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from nograd.runtime.spinner import spinner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)

    with spinner("loading minilm"):
        pass

    assert "loading minilm" in stderr.getvalue()


def test_without_a_terminal_nothing_is_shown_even_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)

    with pytest.raises(KeyError), spinner("loading minilm"):
        raise KeyError("m")

    assert stderr.getvalue() == ""


def test_without_a_terminal_no_command_imports_rich() -> None:
    code = (
        "import nograd.cli.application, nograd.server.command, nograd.datasets.command, sys; assert 'rich' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
