"""8-bit integers: the fastest recipe that answers as the model does, the layers that hurt left in float."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import ONNXPredictor, load
from nograd.backends.onnx import OnnxBackend
from nograd.core.parity import Tolerance
from nograd.errors import ConfigError, ExportError
from nograd.transforms.int8 import dynamic_recipes, saturates, static_recipes
from nograd.transforms.quantize import quantize_dynamic, quantize_static

pytestmark = pytest.mark.filterwarnings("ignore:8-bit integers take")  # tiny models may be slower; this says so


class Mixer(nn.Module):
    """A wide layer whose channels differ a thousandfold, which one scale for all would flatten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.out = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        found: Tensor = self.out(x)
        return found


def test_matrix_products_are_quantized_and_proven(tmp_path: Path) -> None:
    model, x = Mixer().eval(), torch.randn(16, 32)

    made = quantize_dynamic(model, {nn.Linear}, sample=x, path=tmp_path / "int8.onnx")

    assert made.parity.passed
    assert 0.98 <= made.parity.min_cosine < 1
    assert made.chosen.num_bytes < made.float_bytes
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]
    assert len(made.tried) == 3
    assert "times float32's speed" in str(made)
    predictor = ONNXPredictor(made)
    assert predictor.signature.batching == "alone"
    with torch.no_grad():
        np.testing.assert_allclose(predictor.predict(x.numpy()), model(x).numpy(), atol=0.2)


def test_a_file_whose_rows_influence_each_other_declares_so_with_the_bound(tmp_path: Path) -> None:
    made = quantize_dynamic(Mixer().eval(), {nn.Linear}, sample=torch.randn(16, 32), path=tmp_path / "int8.onnx")

    signature = OnnxBackend(made.path).signature
    found = signature.independence
    assert signature.batching == "alone"
    assert "a row's answer depends on the other rows of its batch: it moves by" in signature.reason
    assert found == made.independence
    assert found is not None
    assert (found.backend, found.precision, found.batching_if_accepted) == ("onnx", "int8", "pad")
    assert found.bound > 1e-3
    assert "coupled" in str(made)


def test_a_user_accepts_the_coupling_by_name_when_writing_or_when_loading(tmp_path: Path) -> None:
    sample = torch.randn(16, 32)
    written = quantize_dynamic(Mixer().eval(), sample=sample, path=tmp_path / "a.onnx", accept_coupled_rows=True)
    refused = quantize_dynamic(Mixer().eval(), sample=sample, path=tmp_path / "b.onnx")

    accepted = load(str(written.path)).signature, load(str(refused.path), accept_coupled_rows=True).signature

    for signature in accepted:
        assert signature.batching == "pad"
        assert signature.reason.startswith("coupled rows are accepted: a row's answer depends on the other rows")
        assert signature.independence is not None
        assert signature.independence.verdict == "coupled, accepted"


def test_a_static_recipe_scales_no_activations_over_the_batch_and_its_rows_are_independent(tmp_path: Path) -> None:
    loader = [torch.randn(8, 32) for _ in range(4)]

    made = quantize_static(Mixer().eval(), loader, path=tmp_path / "int8.onnx", tolerance=Tolerance(min_cosine=0.9))

    assert OnnxBackend(made.path).signature.batching == "pad"
    assert made.independence is not None
    assert made.independence.verdict == "independent"


def test_a_convolution_is_quantized_with_ranges_that_calibration_saw(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(128, 10)
    )
    loader = [[torch.rand(8, 3, 8, 8), torch.zeros(8)] for _ in range(8)]

    made = quantize_static(model.eval(), loader, path=tmp_path / "int8.onnx")

    assert made.parity.rows == 16
    assert made.parity.passed
    assert made.chosen.recipe.startswith("static")


def test_the_fastest_within_the_tolerance_is_taken(tmp_path: Path) -> None:
    ticks = count()

    def clock() -> float:
        return next(ticks) * 1.0

    made = quantize_dynamic(Mixer().eval(), sample=torch.randn(16, 32), path=tmp_path / "m.onnx", clock=clock)

    assert made.chosen.seconds == made.float_s == 1
    assert [tried.reason for tried in made.tried] == ["", "another was faster", "another was faster"]


class Outlier(Mixer):
    """The third layer sees one activation of a thousand, which it ignores, and which takes the 8 bits of all others."""

    def __init__(self) -> None:
        super().__init__()
        for name, weights in self.named_parameters():
            if name == "layers.2.weight":
                weights.data[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            given = torch.cat([torch.full_like(x[:, :1], 1000), x[:, 1:]], 1) if index == 2 else x
            x = x + layer(given).relu()
        found: Tensor = self.out(x)
        return found


def test_the_layer_that_hurts_most_is_found_and_left_in_float(tmp_path: Path) -> None:
    made = quantize_dynamic(
        Outlier().eval(), sample=torch.randn(32, 32), path=tmp_path / "m.onnx", tolerance=Tolerance(min_cosine=0.99)
    )

    assert made.parity.passed
    assert made.sensitivity[0][0] == made.chosen.kept_float[0]
    assert "layers.2" in made.sensitivity[0][0]
    assert "layers in float" in made.chosen.recipe
    assert "left in float: " in str(made)


def test_where_no_recipe_agrees_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no recipe for 8-bit integers answers as the model does; dynamic") as caught:
        quantize_dynamic(Mixer().eval(), sample=torch.randn(8, 32), path=tmp_path / "m.onnx", tolerance=Tolerance(min_cosine=1))

    assert caught.value.parity is not None
    assert list(tmp_path.iterdir()) == []


def test_an_lstm_is_quantized(tmp_path: Path) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.lstm(x)[0][:, -1]
            return found

    made = quantize_dynamic(Last().eval(), {nn.LSTM}, sample=torch.randn(4, 6, 8), path=tmp_path / "m.onnx")

    assert made.parity.passed


def test_seven_bits_are_used_exactly_where_the_processor_saturates() -> None:
    lossy = saturates()

    assert isinstance(lossy, bool)
    for seven_bits in (True, False):
        assert dynamic_recipes(["MatMul"], seven_bits=seven_bits)[0].name.endswith("7 bits") is seven_bits
        assert all(recipe.seven_bits is seven_bits for recipe in static_recipes(["Conv"], seven_bits=seven_bits))


@pytest.mark.parametrize(
    ("layers", "message"),
    [([nn.GRU], r"layers are \['GRU'\]; those that can be quantized are Linear, LSTM"), ([], "layers are none")],
)
def test_layers_that_cannot_be_quantized_are_told(layers: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        quantize_dynamic(Mixer(), layers, sample=torch.randn(2, 32), path=tmp_path / "m.onnx")


def test_an_empty_loader_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the calibration loader yields nothing"):
        quantize_static(Mixer(), [], path=tmp_path / "m.onnx")
