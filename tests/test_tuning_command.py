"""`nograd tune` and `nograd serve --tune` as a user types them: what is read of options, and what comes out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import numpy as np
import pytest

from nograd.cli.options import split_lists
from nograd.core.units import bytes_of, seconds_of
from nograd.errors import ConfigError
from nograd.tuning.command import metric_of, settings_of
from tests.waiting import HANG_S

HERE = Path(__file__).parent

EXAMPLE = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2min", 120.0), ("1h", 3600.0)])
def test_a_time_is_read_with_its_unit(text: str, seconds: float) -> None:
    assert seconds_of(text, "budget") == seconds


@pytest.mark.parametrize(("text", "size"), [("512MiB", 512 << 20), ("4GB", 4_000_000_000), ("1.5GiB", 3 << 29)])
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert bytes_of(text, "memory") == size


def test_what_is_no_time_or_size_is_told() -> None:
    with pytest.raises(ConfigError, match="budget is 'soon'; it must be a time such as 90s or 2m"):
        seconds_of("soon", "budget")
    with pytest.raises(ConfigError, match="memory is '4 horses'; it must be a size such as 4GB or 512MiB"):
        bytes_of("4 horses", "memory")


def test_a_metric_is_found_by_name_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge.py").write_text("def score(answers, records):\n    return 1.0\nlimit = 3\n")
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")

    assert metric_of("judge:score")([], []) == 1.0
    with pytest.raises(ConfigError, match="metric is 'judge:limit'; it must be 'module:function'"):
        metric_of("judge:limit")
    with pytest.raises(
        ConfigError, match="importing broken raised ModuleNotFoundError: No module named 'nothing_of_this_name'"
    ):
        metric_of("broken:score")


def test_backends_are_a_list_with_commas() -> None:
    chosen = split_lists("backends", ["onnx, aot"])

    assert settings_of(goal="latency", budget="60s", backends=chosen).backends == ("onnx", "aot")
    assert settings_of(goal="latency", budget="60s").backends is None


def nograd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the user stands, with the served models beside."""
    command = [sys.executable, "-m", "nograd", *arguments]
    environment = {"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_tune_prints_the_report_and_writes_a_bundle_that_inspect_and_serve_know(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", EXAMPLE)
    done = nograd(tmp_path, "tune", "served_models:tiny", "--data", "rows.npy", "-o", "b", "--budget=10s", "--backends=eager")
    looked = nograd(tmp_path, "inspect", "b")

    assert done.returncode == 0, done.stderr
    assert "tiny, goal latency, 16 rows of rows.npy, tolerance half" in done.stdout
    assert "written: b\nserve it:  nograd serve b --trusted\n" in done.stdout
    assert (tmp_path / "b" / "report.html").is_file()
    assert looked.stdout.startswith("tiny: eager float32")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--goal", "fast"], "the goal is 'fast'"),
        (["--budget", "soon"], "budget is 'soon'"),
        (["--data", "rows.pkl"], "the name must end in .jsonl"),
        (["-o", "rows.npy"], "rows.npy exists and is not a bundle"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], told: str) -> None:
    np.save(tmp_path / "rows.npy", EXAMPLE)
    done = nograd(tmp_path, "tune", "served_models:tiny", "-o", "b", *arguments)

    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("nograd: ")
    assert told in done.stderr
    assert not (tmp_path / "b").exists()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """`nograd serve --tune`, where the user stands; gives the address, and all that was printed until it answered."""
    command = [sys.executable, "-m", "nograd", "serve", "served_models:tiny", "--tune=10s", "--data=rows.npy", "--port=0"]
    environment = {"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            said = "".join(iter(lambda: read_line(process.stdout), ""))
            found = re.search(r"is ready: (http://\S+)", said)
            assert found is not None, said
            yield found[1], said
        finally:
            process.terminate()
            assert process.wait(HANG_S) == 0


def read_line(stream: IO[str] | None) -> str:
    """Return the next line; nothing at the end, and after the greeting's last line."""
    assert stream is not None
    line = stream.readline()
    return "" if line.startswith("stop with") else line


def test_serve_tunes_first_and_serves_what_is_there_the_next_time(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", EXAMPLE)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": EXAMPLE[0].tolist()}]}).encode()
    answers = []
    for said_first in ("tiny.bundle does not exist", "using tiny.bundle, which was made from this model on this machine"):
        with served(tmp_path) as (url, said):
            assert said_first in said
            with urlopen(f"{url}/v2/models/tiny/infer", body, timeout=HANG_S) as reply:
                answers.append(json.load(reply)["outputs"][0]["data"])

    assert np.allclose(answers[0], answers[1])
