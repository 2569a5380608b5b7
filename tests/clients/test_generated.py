"""The client that openapi-python-client makes of /openapi.json, in an environment of its own (`make clients`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running_server import serving

ROOT = Path(__file__).parent.parent.parent
PYTHON = Path(os.environ.get("NOGRAD_GENERATOR_PYTHON", ROOT / ".clients" / "generator" / "bin" / "python"))
CALLS = Path(__file__).with_name("generated_calls.py")

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"there is no {PYTHON}; run: make clients")


def run(folder: Path, *arguments: str) -> str:
    """Return what the generator's Python prints, in a folder whose modules it finds."""
    path = f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run([str(PYTHON), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("generated")
    with serving("lengths", "--name", "lengths") as server:
        generate = ("-m", "openapi_python_client", "generate", "--url", f"{server.url}/openapi.json", "--output-path", "made")
        run(folder, *generate)
        return json.loads(run(folder / "made", str(CALLS), server.url))


def test_it_reads_answers(found: Any) -> None:
    assert found["ready"] == {"ready": True, "live": True}
    assert found["metadata"]["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 2]}]
    assert found["infer"]["id"] == "mine"
    assert found["infer"]["outputs"][0]["data"] == [4, 1.3333334, 1, 0.33333334]
    assert [each["embedding"] for each in found["embeddings"]["data"]] == [[4, 1.3333334], [1, 0.33333334]]


def test_it_reads_errors(found: Any) -> None:
    assert found["no model"] == {"error": "there is no model 'other'; served here: 'lengths'"}
    assert found["no embedder"]["error"]["code"] == "model_not_found"
