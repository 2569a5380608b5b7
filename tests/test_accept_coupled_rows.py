"""`accept_coupled_rows`: whatever opens a model batches rows that influence each other only if the user accepts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from nograd import FP16Predictor, HighThroughputPredictor, LowLatencyPredictor, ONNXPredictor, Predictor, load
from nograd.backends.onnx.export import export_to_onnx
from nograd.cli.application import app
from nograd.datasets.command import predict_command
from nograd.datasets.run import PredictJob
from nograd.errors import ConfigError
from nograd.exports import export_model
from tests.predicting import read_jsonl, write_jsonl


class Centred(nn.Module):
    """Subtracts the mean of its batch from each row `[2]`: a row alone is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.same.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.same(x)
        return found - found.mean(0, keepdim=True)


def centred() -> Predictor:
    return Predictor(Centred(), sample=torch.rand(3, 2))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coupled") / "centred.onnx"
    export_to_onnx(Centred(), torch.rand(3, 2), path)
    return path


OPENED: dict[str, Callable[..., Predictor]] = {
    "LowLatencyPredictor": lambda **options: LowLatencyPredictor(Centred(), sample=torch.rand(3, 2), **options),
    "HighThroughputPredictor": lambda **options: HighThroughputPredictor(Centred(), sample=torch.rand(3, 2), **options),
    "FP16Predictor": lambda **options: FP16Predictor(Centred(), sample=torch.rand(3, 2), **options),
}


@pytest.mark.filterwarnings("ignore:float16 takes")
@pytest.mark.parametrize("name", OPENED)
def test_a_preset_batches_coupled_rows_only_if_they_are_accepted(name: str) -> None:
    refused, accepted = OPENED[name](), OPENED[name](accept_coupled_rows=True)

    assert (refused.signature.batching, accepted.signature.batching) == ("alone", "pad")
    assert accepted.signature.independence is not None
    assert accepted.signature.independence.verdict == "coupled, accepted"


def test_onnx_predictor_batches_a_coupled_file_only_if_it_is_accepted(file: Path) -> None:
    assert ONNXPredictor(file).signature.batching == "alone"
    assert ONNXPredictor(file, accept_coupled_rows=True).signature.batching == "pad"


def test_nograd_predict_batches_coupled_rows_only_if_they_are_accepted(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).random((6, 2), np.float32)
    source = write_jsonl(tmp_path / "in.jsonl", [{"x": row.tolist()} for row in rows])

    def outputs(name: str, **options: Any) -> Any:
        job = PredictJob(str(file), str(source), tmp_path / name, max_batch_size=3, **options)
        assert predict_command(job, device="auto", trusted=False) == 0
        return np.array([row["output"] for row in read_jsonl(tmp_path / name)])

    np.testing.assert_array_equal(outputs("refused.jsonl"), np.zeros((6, 2)))
    centred = np.concatenate([part - part.mean(0) for part in (rows[:3], rows[3:])])
    np.testing.assert_allclose(outputs("accepted.jsonl", accept_coupled_rows=True), centred, atol=1e-6)
    with pytest.raises(ConfigError, match="accept_coupled_rows was absent and is yes"):
        outputs("refused.jsonl", accept_coupled_rows=True)


def test_actors_of_ray_load_the_model_with_what_the_user_accepts(file: Path) -> None:
    pytest.importorskip("ray")
    from nograd.ray.actors import ActorRecipe

    batching = [ActorRecipe(str(file), accept_coupled_rows=accepts).predictor().signature.batching for accepts in (False, True)]

    assert batching == ["alone", "pad"]


@pytest.mark.parametrize(("to", "ending"), [("onnx", ".onnx"), ("torchscript", ".pt")])
def test_an_exported_file_declares_what_the_user_accepts(to: str, ending: str, tmp_path: Path) -> None:
    backend = centred().backend
    for accepts, batching in ((False, "alone"), (True, "pad")):
        made = export_model(backend, tmp_path / f"{accepts}{ending}", to=to, accept_coupled_rows=accepts)
        assert load(str(made.path), trusted=True).signature.batching == batching
    assert backend.signature.batching == "alone"


def test_nograd_export_declares_it_too(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    result = CliRunner().invoke(
        app, ["export", "tests.test_accept_coupled_rows:centred", "--to", "onnx", "-o", str(path), "--accept-coupled-rows"]
    )

    assert result.exit_code == 0, result.output
    assert load(str(path)).signature.batching == "pad"
