"""Runs of `nograd predict`, in this process and in others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nograd import Predictor
from nograd.backends import Backend
from nograd.datasets import disk, journal
from nograd.datasets import run_files as keeping
from nograd.datasets.run import PredictJob, RunSummary, run
from tests.running_server import FOLDER

MEMORY = Path("/dev/shm")
"""A file system in memory, on Linux."""

ENOUGH_BYTES = 48 << 20
"""A test of `nograd predict` writes less; containers often have 64 MiB there."""


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is room: a run that commits every window waits for the disk, four fifths of its time."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ENOUGH_BYTES:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="nograd-", dir=MEMORY) as folder:
        yield Path(folder)


class Seen:
    """What a user would see."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.updates: list[tuple[int, float | None]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, rows: int, fraction: float | None) -> None:
        self.updates.append((rows, fraction))


def predict(
    model: Backend | Predictor,
    source: Path | str,
    output: Path,
    *,
    seen: Seen | None = None,
    **settings: Any,
) -> RunSummary:
    """Run it here; every window is kept unless `commit_s` says otherwise."""
    job = PredictJob("the model", str(source), output, **{"commit_s": 0.0, **settings})
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    return run(job, lambda: predictor, seen or Seen(), clock=lambda: 0.0)


def nograd_predict(*arguments: str | Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, from the tests' folder.

    It heeds Ctrl-C: a shell lets what it runs in the background ignore that, and tests may be run there.
    """
    return subprocess.run(
        ["env", "--default-signal=INT", sys.executable, "-m", "nograd", "predict", *map(str, arguments)],
        cwd=FOLDER, input=stdin, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class CrashError(BaseException):
    """The machine stops."""


def crashing(monkeypatch: pytest.MonkeyPatch, after_bytes: int) -> Callable[[], int]:
    """Let the machine stop when so many bytes were written; return what tells how many were."""
    written = 0

    def write_some(file: int, data: bytes) -> None:
        nonlocal written
        fit = min(len(data), after_bytes - written)
        disk.write_all(file, data[:fit])
        written += fit
        if fit < len(data):
            raise CrashError

    for module in (keeping, journal):
        monkeypatch.setattr(module, "write_all", write_some)
    return lambda: written
