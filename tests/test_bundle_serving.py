"""A bundle served and inspected, as its users do it; MiniLM all the way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nograd import CostCurve, Predictor, load
from nograd.backends.onnx import OnnxBackend
from nograd.bundle import Bundle, Curve, ExportedFile, Pipeline, write_bundle
from nograd.bundle.page import page
from nograd.core.tensors import Signature, TensorSpec
from nograd.exports import export_model
from tests.bundles import CURVE, prepare, settings, write_rows, write_texts
from tests.fakes import Fake, Site, doubling, tensor, x
from tests.running_server import RunningServer
from tests.test_cli import nograd, refusal
from tests.waiting import HANG_S

LENGTHS = Signature((TensorSpec("x", "int64", ("n",)),), (TensorSpec("sum", "int64"),))


def sizes(backend: Fake) -> list[tuple[int, ...]]:
    return [next(iter(batch.values())).shape for batch in backend.runs]


@pytest.mark.parametrize(("configured", "largest"), [(32, 16), (16, 16), (4, 4), (1, None)])
def test_a_known_curve_is_taken_and_only_two_runs_warm_the_model(configured: int, largest: int | None) -> None:
    backend = doubling()
    predictor = Predictor(backend)
    predictor.cost = CostCurve((1, 16), (1.0, 2.0))

    with Site({"m": predictor}, max_batch_size=configured) as site:
        model = site.service.model("m")
        assert model.curve is predictor.cost
        assert model.max_batch_size == min(configured, 16)
        assert model.snapshot()["limits"]["max_batch_size"] == min(configured, 16)
        assert sizes(backend) == [(1, 2)] if largest is None else [(1, 2), (largest, 2)]
        site.infer("m", x(*([[1.0, 2.0]] * 40)))

    assert max(rows for rows, _ in sizes(backend)) == min(configured, 16)


def test_a_curve_over_tokens_says_how_many_rows_warm_the_model_and_limits_none() -> None:
    backend = Fake(lambda batch: {"sum": batch["x"].sum(1)}, LENGTHS)
    predictor = Predictor(backend, sample={"x": np.ones((1, 5), np.int64)})
    predictor.cost = CostCurve((5, 41), (1.0, 2.0), "tokens")

    with Site({"m": predictor}) as site:
        assert sizes(backend) == [(1, 5), (8, 5)]
        assert site.service.model("m").max_batch_size == 32
        assert site.infer("m", tensor("x", "INT64", [1, 60], [1] * 60)).data("sum") == [60]


def test_a_bundle_is_served_and_its_greeting_says_what_it_is(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tiny.zip", lanes=2)
    server = RunningServer(str(path))
    try:
        assert server.greeting.startswith(f"tiny is ready: {server.url}\n  batching  pad: rows are independent\n")
        assert re.search(r"\n  bundle    onnx float32, 2 lanes of 1 thread; tuned 20[\d :-]+, .+\n", server.greeting)
        assert "\n  bundle's  run time by rows: 1 1 ms, 2 1.5 ms, 4 2 ms\n" in server.greeting
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 32], "data": [0.0] * 32}]}
        reply = httpx.post(f"{server.url}/v2/models/tiny/infer", json=body, timeout=HANG_S)
        assert reply.json()["outputs"][0]["data"] == [0.0] * 64
        assert server.stop() == 0
        assert server.complaints() == ""
    finally:
        server.close()


# -- inspect


def test_inspect_prints_a_page(tmp_path: Path) -> None:
    output = {"name": "embedding", "min_cosine": 0.99991, "max_abs": 1e-7, "max_rel": None, "agreement": 0.5}
    parity = {"passed": True, "rows": 200, "outputs": [output]}
    path = write_texts(tmp_path / "words", parity=parity, metric=0.75, confirmed=True, goal="slo=20ms", lanes=2)

    ended = nograd("inspect", str(path))

    assert (ended.returncode, ended.stderr) == (0, "")
    for said in (
        "tiny: onnx float32, 2 lanes of 1 thread, for slo=20ms\n",
        "4 files, all as they were written\n",
        "made by tokenizer.json, cut at 8 tokens\n",
        "  input_ids       int64 [rows, tokens]\n",
        "  embedding  float32 [rows, 300]\n",
        "batching  pad: padding leaves every answer unchanged, at most 32 rows a run\n",
        "padded tokens  ms a run  95 %        tokens/s\n",
        "2              1.5       1.4 .. 1.6  1,333\n",
        "parity    passed over 200 rows, against eager\n",
        "  embedding: smallest cosine 0.99991, largest difference 1e-07, agreement 0.5\n",
        "metric    0.75\n",
        "confirmed with a batcher, under load\n",
        "here      no difference that affects speed or answers\n",
        "trust     not needed: it contains no code\n",
    ):
        assert said in ended.stdout
    assert re.search(r"\nmodel\.onnx\.data +3\.6 kB +[0-9a-f]{64}\n", ended.stdout)


def test_inspect_prints_what_is_missing_as_missing(tmp_path: Path) -> None:
    with Bundle.read(write_rows(tmp_path / "bundle", curve=None, confirmed=False)) as bundle:
        text = page(bundle)

    assert "curve     none was measured\n" in text
    assert "parity    not compared with eager\n" in text
    assert "confirmed NOT: the curve was wrong under load\n" in text


def test_inspect_prints_json(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bundle")

    plain = json.loads(nograd("inspect", "--format", "json", str(path)).stdout)

    assert plain["name"] == "tiny"
    assert plain["inputs"] == {"x": "float32 [rows, 32]"}
    assert plain["curve"]["seconds"] == list(CURVE.seconds)
    assert plain["differences"] == plain["trust_reasons"] == []
    assert [file["name"] for file in plain["files"]][:2] == ["bundle.json", "example.safetensors"]


@pytest.mark.parametrize("command", ["inspect", "serve"])
def test_a_damaged_bundle_is_one_sentence(tmp_path: Path, command: str) -> None:
    path = write_rows(tmp_path / "bundle")
    (path / "model.onnx").write_bytes(b"")

    said = refusal(nograd(command, str(path), *(["--port", "0"] if command == "serve" else [])))

    assert said == f"{path} is damaged: model.onnx is not the file that SHA256SUMS describes (its SHA-256 differs)"


def test_a_bundle_that_names_code_is_served_only_when_it_is_trusted(tmp_path: Path) -> None:
    from tests.test_bundle import with_front

    path = with_front(tmp_path / "bundle", Pipeline(preprocess=prepare, example=[0.0] * 32))

    assert "open it with trusted=True (--trusted)" in refusal(nograd("serve", str(path), "--port", "0"))


# -- the real thing


def test_minilm_becomes_a_bundle_that_embeds_as_its_file_did(tmp_path: Path) -> None:
    original = load("minilm")
    made = export_model(original.backend, tmp_path / "minilm.onnx", to="onnx")
    curve = Curve((20, 640), (0.006, 0.15), (0.005, 0.14), (0.007, 0.16), "tokens")
    changes: dict[str, Any] = {"name": "minilm", "curve": curve, "parity": made.parity.to_json()}
    path = write_bundle(
        tmp_path / "bundle", model=ExportedFile(made.path), signature=original.signature,
        settings=settings(**changes), front=Pipeline.of(original),
    )  # fmt: skip
    texts = ["A man is eating food.", "short", "word " * 300]
    unbundled = Predictor(OnnxBackend(made.path, num_threads=1), preprocess=original.preprocess)

    predictor = load(str(path))

    for ours, theirs, eager in zip(*(each.predict(texts) for each in (predictor, unbundled, original)), strict=True):
        assert ours["embedding"].tobytes() == theirs["embedding"].tobytes()
        np.testing.assert_allclose(ours["embedding"], eager["embedding"], atol=1e-5)
    assert predictor.signature == original.signature
    assert (path / "model.onnx").stat().st_size < 1e6
    assert (path / "model.onnx.data").stat().st_size > 80e6
    with Bundle.read(path) as bundle:
        assert "made by tokenizer.json, cut at 256 tokens" in page(bundle)
