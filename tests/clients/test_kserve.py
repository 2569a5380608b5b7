"""kserve's REST and gRPC clients, in an environment of their own (`make clients`): they pin older packages than we need."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.running_server import RunningServer, serving
from tests.test_grpc_clients import address

ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(os.environ.get("NOGRAD_KSERVE_PYTHON", ROOT / ".clients" / "kserve" / "bin" / "python"))
CALLS = Path(__file__).with_name("kserve_calls.py")

ROWS = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}; run: make clients")


def run(*arguments: str) -> str:
    """Return what kserve's Python prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(PYTHON), *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving("scaled", "--name", "scaled", "--grpc-port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def found(server: RunningServer) -> Any:
    return json.loads(run(str(CALLS), server.url, address(server)).splitlines()[-1])


def test_health(found: Any) -> None:
    assert all(found[way][asked] for way in ("rest", "grpc") for asked in ("live", "ready", "model ready"))
    assert not found["rest"]["other ready"]


def test_every_way_gives_the_same_bits(found: Any) -> None:
    expected = {"id": "mine", "name": "output", "shape": [3, 16], "bytes": (ROWS * np.float32(1.1)).tobytes().hex()}

    assert [found["rest"]["json"], found["rest"]["binary"], found["grpc"]["raw"]] == [expected] * 3


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_errors_come_with_our_sentence(found: Any, way: str) -> None:
    assert "there is no model 'other'; served here: 'scaled'" in found[way]["no model"]
    assert "input 'x' is float32 [3, 15]; the model takes float32 [rows, 16]" in found[way]["wrong shape"]


def test_the_lines_of_the_page_of_clients() -> None:
    page = (ROOT / "docs" / "clients.md").read_text("utf-8")
    (code,) = re.findall(r"```py\n(.*?)```", page, re.DOTALL)

    with serving("echo", "--name", "minilm") as server:
        printed = run("-c", code.replace("http://127.0.0.1:8000", server.url))

    assert re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE) == printed.splitlines()[-1:]
