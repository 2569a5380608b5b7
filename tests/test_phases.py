"""Phases of long work: one line each when stderr is not a terminal, before the slow part begins."""

from __future__ import annotations

import io
import sys

import pytest

from nograd.runtime.phases import show_phases


def test_a_phase_is_one_line_and_its_progress_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", seen)

    with show_phases() as phases:
        phases.start("loading m")
        assert seen.getvalue() == "loading m\n"
        phases.start("measuring", "round 1")
        phases.start("measuring", "round 2")
        phases.note("onnx: built")
        phases.start("loading m")

    assert seen.getvalue() == "loading m\nmeasuring\nonnx: built\nloading m\n"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_status_line_with_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")

    with show_phases() as phases:
        phases.start("measuring", "[round 1]")
        phases.note("[onnx] built")

    assert "[onnx] built" in seen.getvalue()
    assert "measuring: [round 1]" in seen.getvalue()
