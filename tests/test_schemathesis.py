"""Schemathesis takes our OpenAPI at its word, against real servers: no fault, and every answer as it is described.

It has no say in whether what it makes of the schemas is answered: that data fill their shape is not for a schema to tell.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.running_server import serving

SCHEMATHESIS = Path(sys.executable).with_name("st")

pytestmark = pytest.mark.skipif(
    not SCHEMATHESIS.exists(), reason="schemathesis is not installed; run: pip install 'nograd[dev]'"
)

OPTIONS = (
    "--phases=examples,coverage,fuzzing",
    "--generation-deterministic",
    "--max-examples=20",
    "--continue-on-failure",
    "--warnings=off",
    "--suppress-health-check=all",
    "--request-timeout=120",
    "--request-retries=3",
)


@pytest.mark.parametrize(
    ("model", "unchecked"),
    [
        ("odd", "positive_data_acceptance"),
        # with Inference-Header-Content-Length 0 any bytes, and none, are right: the text itself
        ("lengths", "positive_data_acceptance,negative_data_rejection"),
    ],
    ids=["numbers", "text"],
)
def test_a_server_is_as_it_describes_itself(model: str, unchecked: str, tmp_path: Path) -> None:
    with serving(model, "--name", model) as server:
        command = [str(SCHEMATHESIS), "run", f"{server.url}/openapi.json", f"--exclude-checks={unchecked}", *OPTIONS]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr
        assert [line for line in server.stderr().splitlines() if " info " not in line] == []
