"""A bundle answers like the backend that it was made of, opens only what is trusted, and brings its curve."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nograd import Predictor, load
from nograd.backends.onnx import OnnxBackend
from nograd.backends.registry import runtimes
from nograd.bundle import Bundle, Curve, ExportedFile, Pipeline, write_bundle
from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import ConfigError, ModelLoadError
from nograd.runtime.machine import Machine, this_machine
from tests.bundles import (
    CURVE,
    ROWS,
    WEIGHT,
    Doubles,
    first,
    linear_onnx,
    listed,
    prepare,
    rows,
    settings,
    write_rows,
    write_texts,
)  # fmt: skip
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "rows": write_rows(folder / "rows"),
        "texts": write_texts(folder / "texts"),
        "zip": write_rows(folder / "rows.zip"),
        "texts zip": write_texts(folder / "texts.zip"),
    }


@pytest.mark.parametrize("kind", ["rows", "zip"])
def test_a_bundle_answers_bit_for_bit_like_the_backend_that_it_was_made_of(
    bundles: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    given = rows(7)
    backend = OnnxBackend(linear_onnx(tmp_path / "linear.onnx"), num_threads=1, spins=False)

    predictor = load(str(bundles[kind]))

    assert predictor.predict(given).tobytes() == backend.run(given)["output"].tobytes()
    np.testing.assert_allclose(predictor.predict(given), given["x"] @ WEIGHT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["texts", "texts zip"])
def test_texts_are_tokenized_as_they_were(bundles: dict[str, Path], kind: str) -> None:
    predictor = load(str(bundles[kind]))

    assert predictor.predict("hello world")["embedding"][0] == 300 + 600
    assert predictor.predict("unknown " * 20)["embedding"][1] == 8  # cut at 8 tokens
    assert predictor.example == "hello world"
    assert predictor.item == TensorSpec("text", "bytes")


def test_a_bundle_brings_its_layout_its_curve_and_where_it_comes_from(tmp_path: Path) -> None:
    predictor = load(str(write_rows(tmp_path / "bundle", lanes=2, num_threads=1)))

    assert predictor.lanes == 2
    assert predictor.cost == CURVE.cost()
    assert predictor.provenance.startswith("onnx float32, 2 lanes of 1 thread; tuned 2")
    with Bundle.read(tmp_path / "bundle") as bundle:
        assert bundle.open(lanes=3).lanes == 3
        with pytest.raises(ConfigError, match="lanes is 0; it must be at least 1"):
            bundle.open(lanes=0)


def test_what_was_measured_without_spinning_runs_without(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("nograd.backends.onnx.backend.session_options", lambda num_threads, *, spins: given.update(spins=spins))

    load(str(bundles["rows"]))

    assert given == {"spins": False}


def test_a_predictor_knows_no_cost_but_a_bundles(tmp_path: Path) -> None:
    assert Predictor(OnnxBackend(linear_onnx(tmp_path / "linear.onnx"))).cost is None
    assert load(str(write_rows(tmp_path / "bundle", curve=None))).cost is None


def test_the_fingerprint_is_the_contents_wherever_they_lie(bundles: dict[str, Path], tmp_path: Path) -> None:
    found = {kind: load(str(bundles[kind])).fingerprint() for kind in ("rows", "zip")}

    assert found["rows"] == found["zip"]
    assert not found["rows"].private_because
    assert load(str(bundles["texts"])).fingerprint() != found["rows"]


def test_what_a_zip_was_unpacked_into_is_gone_once_it_is_open(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    predictor = load(str(bundles["zip"]))

    assert listed(tmp_path) == []
    assert predictor.predict(rows()).shape == (1, 64)
    with pytest.raises(ModelLoadError):
        Bundle.read(linear_onnx(tmp_path / "linear.onnx"))
    assert listed(tmp_path) == ["linear.onnx"]


def test_a_file_that_takes_other_tensors_than_the_bundle_says_is_refused(tmp_path: Path) -> None:
    other = Signature((TensorSpec("y", "float32", (32,)),), ROWS.outputs, reason=ROWS.reason)
    model = ExportedFile(linear_onnx(tmp_path / "linear.onnx"))
    write_bundle(tmp_path / "bundle", model=model, signature=other, settings=settings())

    with pytest.raises(ModelLoadError, match=r"inputs and outputs of the model's file differ from bundle\.json"):
        load(str(tmp_path / "bundle"))


def test_how_the_rows_of_a_foreign_file_may_be_batched_is_remembered(tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(linear_onnx(tmp_path / "linear.onnx"))
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    probed = OnnxBackend(tmp_path / "foreign.onnx", sample=rows(2))
    assert probed.signature.batching == "pad"
    model = ExportedFile(tmp_path / "foreign.onnx")
    write_bundle(tmp_path / "bundle", model=model, signature=probed.signature, settings=settings())

    assert load(str(tmp_path / "bundle")).signature == probed.signature


# -- trust


def with_front(path: Path, front: Pipeline) -> Path:
    model = ExportedFile(linear_onnx(path.parent / "linear.onnx"))
    return write_bundle(path, model=model, signature=ROWS, settings=settings(), front=front)


@pytest.mark.parametrize(
    ("front", "name"),
    [
        (Pipeline(preprocess=prepare, example=[0.0] * 32), "tests.bundles:prepare"),
        (Pipeline(preprocess=Doubles(), example=[0.0] * 32), "tests.bundles:Doubles"),
        (Pipeline(postprocess=first), "tests.bundles:first"),
    ],
    ids=["function", "object", "postprocess"],
)
def test_code_that_a_bundle_names_runs_only_when_it_is_trusted(tmp_path: Path, front: Pipeline, name: str) -> None:
    path = with_front(tmp_path / "bundle", front)

    with pytest.raises(ConfigError) as caught:
        load(str(path))

    assert str(caught.value) == (
        f"{path} contains the name of a function to call ({name}), and opening it runs that code; "
        "if you trust its source, open it with trusted=True (--trusted)"
    )
    given = rows()["x"]
    answer = load(str(path), trusted=True).predict([given[0]] if front.preprocess else given)
    factor = 2 if front.preprocess else 1
    np.testing.assert_allclose(np.ravel(answer[0])[0], factor * (given @ WEIGHT)[0, 0], rtol=1e-4)


def test_reading_a_bundle_imports_nothing_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "harmful.py").write_text("raise SystemExit('it ran')\ndef prepare(item): return item\n")
    path = with_front(tmp_path / "bundle", Pipeline(preprocess=prepare, example=[0.0] * 32))
    plain = (path / "bundle.json").read_text()
    (path / "bundle.json").write_text(plain.replace("tests.bundles:prepare", "harmful:prepare"))
    names = sorted(file.name for file in path.iterdir() if file.name != "SHA256SUMS")
    (path / "SHA256SUMS").write_bytes(subprocess.run(["sha256sum", *names], cwd=path, capture_output=True, check=True).stdout)
    command = [sys.executable, "-m", "nograd", "inspect", str(path)]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "needed (--trusted): it contains the name of a function to call (harmful:prepare)" in done.stdout


# -- another machine


class Clock:
    """Each look costs nothing; each run takes what it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[int] = []

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """ONNX Runtime takes 3 ms for one row, 6 ms for four: three times as long as the curve says."""
    clock, run = Clock(), OnnxBackend.run

    def timed(self: OnnxBackend, batch: Any) -> Any:
        clock.runs.append(len(batch["x"]))
        clock.now += {1: 0.003, 4: 0.006}[len(batch["x"])]
        return run(self, batch)

    monkeypatch.setattr(OnnxBackend, "run", timed)
    return clock


def other_machine() -> Machine:
    return replace(this_machine(runtimes=runtimes()), processor="Z80")


def another_machine() -> pytest.WarningsRecorder:
    return pytest.warns(UserWarning, match="tiny was tuned on another machine")


def test_on_the_same_machine_nothing_is_run_and_nothing_is_said(bundles: dict[str, Path], slow: Clock) -> None:
    with Bundle.read(bundles["rows"]) as bundle, warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor = bundle.open(clock=slow)

    assert slow.runs == []
    assert predictor.cost == CURVE.cost()


def test_on_another_machine_the_curve_is_looked_at_and_scaled(bundles: dict[str, Path], slow: Clock) -> None:
    processor = this_machine().processor
    with Bundle.read(bundles["rows"]) as bundle, another_machine() as caught:
        predictor = bundle.open(clock=slow, machine=other_machine())

    (warning,) = caught
    assert str(warning.message) == (
        f"tiny was tuned on another machine: the processor is Z80, and was {processor}; runs take 3 times as long as its curve "
        "predicts, so the curve is scaled: another backend or layout may be faster here, tune again (nograd tune)"
    )
    assert warning.filename == __file__
    assert predictor.cost is not None
    assert predictor.cost.sizes == (1, 2, 4)
    np.testing.assert_allclose(predictor.cost.seconds, [0.003, 0.0045, 0.006])
    assert slow.now <= 0.3
    assert set(slow.runs) == {1, 4}


def test_a_factor_within_two_needs_no_new_tuning(tmp_path: Path, slow: Clock) -> None:
    curve = Curve((1, 4), (0.002, 0.004), (0.002, 0.004), (0.002, 0.004))
    with (
        Bundle.read(write_rows(tmp_path / "bundle", curve=curve)) as bundle,
        another_machine() as caught,
    ):
        bundle.open(clock=slow, machine=other_machine())

    assert str(caught[0].message).endswith("runs take 1.5 times as long as its curve predicts, so the curve is scaled")


def test_without_a_curve_another_machine_is_only_told(tmp_path: Path, slow: Clock) -> None:
    with (
        Bundle.read(write_rows(tmp_path / "bundle", curve=None)) as bundle,
        another_machine() as caught,
    ):
        bundle.open(clock=slow, machine=other_machine())

    assert str(caught[0].message).endswith(f"the processor is Z80, and was {this_machine().processor}")
    assert slow.runs == []


# -- without torch

PROGRAM = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())

import asyncio, json
from nograd import load
from nograd.bundle import Bundle
from nograd.bundle.page import page
from nograd.server.call import Call
from nograd.server.settings.definition import ServeConfig
from nograd.server.models.service import InferenceService

async def main():
    with Bundle.read(sys.argv[1]) as bundle:
        assert "not needed" in page(bundle)
    service = InferenceService(ServeConfig())
    model = service.add("words", load(sys.argv[1]))
    await service.start()
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello world"]}]}
    print(json.loads(await model.infer(Call(service, "http", "POST", "/"), json.dumps(body).encode()))["outputs"][0]["data"][0])
    await service.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_bundle_is_served_where_torch_cannot_be_imported(tmp_path: Path, bundles: dict[str, Path], backend: str) -> None:
    path = bundles["texts"] if backend == "onnx" else as_openvino(tmp_path)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, timeout=HANG_S, check=False
    )

    assert (done.stdout, done.stderr) == ("900.0\n", "")


def as_openvino(folder: Path) -> Path:
    import openvino

    from nograd.backends.openvino import INFO
    from nograd.core.manifest import Manifest
    from tests.bundles import TEXTS, tokenizer, words_onnx

    model = openvino.Core().read_model(words_onnx(folder / "words.onnx"))
    model.set_rt_info(Manifest(TEXTS, {"dict": [["embedding", "embedding"]]}).dumps(), INFO)
    openvino.save_model(model, folder / "words.xml", compress_to_fp16=False)
    curve = Curve(CURVE.sizes, CURVE.seconds, CURVE.low, CURVE.high, "tokens")
    return write_bundle(
        folder / "bundle",
        model=ExportedFile(folder / "words.xml"),
        signature=TEXTS,
        settings=settings(backend="openvino", curve=curve),
        front=Pipeline(preprocess=tokenizer(), item=TensorSpec("text", "bytes"), example="hello"),
    )
