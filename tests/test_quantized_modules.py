"""Quantized modules: called, saved and used as the model is; the report says what was measured, and when."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nograd
from nograd.core.parity import Tolerance
from nograd.errors import ConfigError, ExportError, UnsupportedError
from nograd.transforms import measuring
from nograd.transforms.int8_layers import Int8Linear, StoredInt8, largest_level, quantized_layer
from nograd.transforms.measuring import ENGINES, Inputs, row_effect
from nograd.transforms.onnx_module import OnnxModule
from nograd.transforms.replacing import linear_layers
from tests.kinds_of_model import MODELS, assert_equal, call, make_inputs, make_model

pytestmark = pytest.mark.filterwarnings("ignore:8-bit integers take")  # tiny models may be slower; this says so

LOOSE = 0.05
"""Largest difference of 8-bit answers, relative to the output's largest value."""


@pytest.mark.parametrize("kind", MODELS)
def test_a_dynamically_quantized_module_answers_as_the_model_and_is_used_as_one(kind: str) -> None:
    model, inputs = make_model(kind), make_inputs(kind, 8)
    before = copy.deepcopy(model.state_dict())
    made = nograd.quantize_dynamic(model)

    assert not made.report.measured_on
    assert "not measured yet" in str(made.report)
    found = call(made, inputs)
    assert_equal(found, call(model, inputs), LOOSE)
    assert (made.report.measured_on, made.report.rows_are_independent) == ("the first call's inputs", True)
    assert made.report.num_bytes < made.report.float_bytes
    assert made.parity.passed
    assert made.report.engine in ENGINES.values()
    predictor = nograd.Predictor(made, sample=inputs)
    assert_equal(predictor.predict(make_inputs(kind, 3)), call(made, make_inputs(kind, 3)))
    assert_equal(dict(model.state_dict()), dict(before))


@pytest.mark.parametrize("kind", MODELS)
def test_its_state_dict_is_plain_tensors_and_gives_the_same_answers(kind: str, tmp_path: Path) -> None:
    model, inputs = make_model(kind), make_inputs(kind, 4)
    made = nograd.quantize_dynamic(model)
    right = call(made, inputs)
    torch.save(made.state_dict(), tmp_path / "weights.pt")
    torch.save(made, tmp_path / "module.pt")

    again = nograd.quantize_dynamic(MODELS[kind]().eval())
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))

    assert "nothing was measured with them" in str(again.report)
    assert_equal(call(again, inputs), right, 1e-2)  # it may use the other kernel
    assert_equal(call(torch.load(tmp_path / "module.pt", weights_only=False), inputs), right)
    assert_equal(call(copy.deepcopy(made), inputs), right)


def test_a_row_does_not_depend_on_its_neighbours_however_large() -> None:
    torch.manual_seed(0)
    layer, x = quantized_layer(nn.Linear(64, 8)), torch.randn(5, 3, 64)
    loud = torch.cat([x[:1], 1e4 * x[1:]])

    assert torch.equal(layer(x)[:1], layer(loud)[:1])
    assert torch.equal(layer(x)[:1], layer(x[:1]))


def test_a_layer_is_within_its_8_bits_of_float_also_for_rows_of_one_value_and_for_none() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 8)
    layer = quantized_layer(linear)
    rows = torch.cat([torch.randn(4, 64), torch.zeros(1, 64), torch.full((1, 64), -3.0), 1e-6 * torch.randn(1, 64)])

    with torch.no_grad():
        assert_equal(layer(rows), linear(rows), 0.03)
        assert layer(rows[:0]).shape == (0, 8)
        assert layer(rows.to(torch.bfloat16)).dtype == torch.bfloat16
    assert largest_level() in (0, 127, 255)


def test_the_faster_kernel_is_chosen_and_the_other_one_is_in_the_report() -> None:
    model, x = make_model("tensor"), make_inputs("tensor", 8)
    ticks = count()
    made = nograd.quantize_dynamic(model, sample=x, clock=lambda: float(next(ticks)))

    assert made.report.measured_on == "the sample"
    assert made.report.speedup == 1
    assert [each.reason for each in made.report.engines] in (["it is not clearly faster than float32", ""], [""])


def test_each_layer_has_the_kernel_that_is_faster_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    wide, narrow = {"products": 1.0, "weights": 2.0}, {"products": 2.0, "weights": 1.0}
    totals = {"float": 3.0, "products": 3.0, "weights": 3.0, "mixed": 2.0}

    def seconds(runs: Mapping[str, Any], _: Any) -> dict[str, float]:
        layer = getattr(runs.get("products"), "func", None)
        if "float" in runs or layer is None:
            return {name: totals[name] for name in runs}
        return wide if layer.__self__.out_features == 64 else narrow

    monkeypatch.setattr(measuring, "largest_level", lambda: 127)
    monkeypatch.setattr(measuring, "fastest_s", seconds)
    made = nograd.quantize_dynamic(model, {nn.Linear}, sample=torch.randn(8, 64))

    assert [layer.kernel for layer in linear_layers(made).values()] == ["products", "weights"]
    assert made.report.engine == ENGINES["mixed"]
    assert [each.seconds for each in made.report.engines] == [3.0, 3.0, 2.0]
    assert made.report.rows_are_independent


class Outlier(nn.Module):
    """The second layer is large and its answer small: 8 bits of it are not enough."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.second.weight[:, 0], self.second.weight[:, 1] = 1e4, -1e4

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        found: Tensor = self.second(torch.cat([hidden[:, :1], hidden[:, :1], hidden[:, 2:]], 1))
        return found


def test_a_layer_that_hurts_too_much_stays_in_float() -> None:
    torch.manual_seed(0)
    model, x = Outlier().eval(), torch.randn(8, 16)
    made = nograd.quantize_dynamic(model, sample=x, tolerance=Tolerance(min_cosine=0.999))

    assert made.report.kept_float == ("second",)
    assert_equal(call(made, x), call(model, x), 0.1)
    again = nograd.quantize_dynamic(Outlier().eval())
    again.load_state_dict(made.state_dict())
    assert_equal(call(again, x), call(made, x), 1e-2)
    with pytest.raises(ExportError, match="no layer in 8-bit integers answers as the model does"):
        nograd.quantize_dynamic(model, sample=x, tolerance=Tolerance(min_cosine=1, max_abs=0))


def test_without_a_sample_the_model_stays_in_float_with_a_warning_if_no_layer_agrees() -> None:
    model, x = make_model("tensor"), make_inputs("tensor")
    made = nograd.quantize_dynamic(model, tolerance=Tolerance(min_cosine=1, max_abs=0))

    with pytest.warns(UserWarning, match="the model stays in float32"):
        found = call(made, x)
    assert_equal(found, call(model, x))


def test_a_model_that_changed_before_the_first_call_is_not_compared() -> None:
    model, x = make_model("tensor"), make_inputs("tensor")
    made = nograd.quantize_dynamic(model)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    call(made, x)

    assert "changed before the first call" in str(made.report)


def test_other_layers_keep_their_settings_and_have_8_bit_weights() -> None:
    torch.manual_seed(0)
    embedding, lstm = StoredInt8(nn.Embedding(10, 4, padding_idx=0)), StoredInt8(nn.LSTM(4, 3, batch_first=True))

    assert (lstm.hidden_size, lstm.batch_first, embedding.num_embeddings) == (3, True, 10)
    assert embedding(torch.tensor([[0]])).abs().max() == 0
    assert lstm.state_dict()["weight_hh_l0_int8"].dtype == torch.int8
    assert embedding.weight.shape == (10, 4)


@pytest.mark.parametrize("labels", [True, False])
def test_a_statically_quantized_module_answers_as_the_model_and_says_that_labels_were_left_out(labels: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    x = torch.rand(16, 3, 8, 8)
    loader: Any = DataLoader(TensorDataset(x, torch.zeros(16)) if labels else TensorDataset(x), batch_size=4)

    made = nograd.quantize_static(model, loader)

    assert_equal(call(made, x), call(model, x), 0.1)
    assert ("the first 1 are the model's inputs, the rest is ignored" in str(made.report)) is labels
    assert made.report.rows_are_independent
    again = copy.deepcopy(made)
    again.load_state_dict(made.state_dict())
    assert_equal(call(again, x), call(made, x))
    assert_equal(nograd.Predictor(made, sample=x[:2]).predict(x), call(made, x), 1e-4)


def test_static_quantization_takes_several_inputs_and_labels() -> None:
    model = make_model("several")
    loader = [(*make_inputs("several", rows), torch.zeros(rows)) for rows in (4, 5)]
    made = nograd.quantize_static(model, loader)

    assert_equal(call(made, make_inputs("several", 3)), call(model, make_inputs("several", 3)), 0.1)
    assert "yields 3 values per batch; the first 2 are the model's inputs" in str(made.report)


def test_with_a_path_the_module_runs_the_written_file_and_says_that_rows_are_coupled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = make_model("tensor"), make_inputs("tensor", 16)
    made = nograd.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, path=tmp_path / "m.onnx", sample=x)

    assert isinstance(made.model, OnnxModule)
    assert made.path == tmp_path / "m.onnx"
    assert_equal(call(made, x), call(model, x), 0.1)
    assert made.report.rows_are_independent is False
    assert "rows influence each other" in str(made.report)
    torch.save(made.state_dict(), tmp_path / "w.pt")
    made.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert_equal(call(made, x), call(model, x), 0.1)


@pytest.mark.parametrize("count", [1, 2])
def test_a_graph_computes_with_torchs_number_of_threads(count: int, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        made = nograd.quantize_dynamic(nn.Linear(8, 4), path=tmp_path / "m.onnx", sample=torch.rand(4, 8))
        made(torch.rand(2, 8))
    finally:
        torch.set_num_threads(before)

    assert isinstance(made.model, OnnxModule)
    assert made.model.backend().num_threads == count


def test_the_effect_of_other_rows_is_a_number() -> None:
    x = torch.rand(3, 4)

    assert row_effect(lambda x: x - x.mean(0), Inputs((x,), {})) > 1  # type: ignore[operator]
    assert row_effect(lambda x: x * 2, Inputs((x[:1],), {})) == 0
    assert row_effect(lambda x: x.sum(), Inputs((x,), {})) is None


def test_wrong_uses_are_one_sentence(tmp_path: Path) -> None:
    model, x = make_model("tensor"), make_inputs("tensor")

    with pytest.raises(ConfigError, match=r"^model is a Predictor; give the torch"):
        nograd.quantize_dynamic(nograd.Predictor(model))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^model is a Predictor; give the torch"):
        nograd.quantize_static(nograd.Predictor(model), [x])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"dtype is torch.float16; it must be torch.qint8"):
        nograd.quantize_dynamic(model, dtype=torch.float16)
    with pytest.raises(ConfigError, match="which is a folder"):
        (tmp_path / "m.onnx").mkdir()
        nograd.quantize_dynamic(model, sample=x, path=tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"it must end in \.onnx"):
        nograd.quantize_static(model, [x], path=tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="the calibration loader yields nothing"):
        nograd.quantize_static(model, iter([]))
    with pytest.raises(UnsupportedError, match="the model has no layer of Linear, LSTM"):
        nograd.quantize_dynamic(nn.Sequential(nn.Conv1d(2, 2, 1)))
    with pytest.raises(ConfigError, match="no file was written"):
        _ = nograd.quantize_dynamic(model).path
    assert isinstance(nograd.quantize_dynamic(nn.Linear(4, 2)).model, Int8Linear)
