"""Half precision: floating numbers become half, nothing else does, and answers come back as float32."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import FP16Predictor, Predictor
from nograd.backends.eager import eager_backend
from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx.export import export_to_onnx
from nograd.core.independence import tolerance_for
from nograd.core.parity import HALF
from nograd.errors import ConfigError
from nograd.transforms.precision import HalfSupport, half_support, slower_sentence, to_half, with_autocast

both = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


class Net(nn.Module):
    ids_seen: Any = None
    table: Tensor
    mask_value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3000, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3000, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("mask_value", torch.tensor(-1e9))

    def forward(self, ids: Tensor, mask: Tensor, weights: Tensor) -> dict[str, Any]:
        Net.ids_seen = ids.dtype, mask.dtype, weights.dtype
        hidden = self.norm((self.embedding(ids) * mask.unsqueeze(-1)).sum(1)) * weights
        return {"logits": self.head(hidden), "aux": (ids, hidden)}


def sample() -> dict[str, Tensor]:
    return {
        "ids": torch.tensor([[2999, 2049], [1, 2]]),
        "mask": torch.ones(2, 2, dtype=torch.bool),
        "weights": torch.rand(2, 8),
    }


@both
def test_ids_masks_and_integer_buffers_stay_and_floating_numbers_become_half(dtype: Any) -> None:
    model = Net().eval()
    half = to_half(model, dtype)

    answer = half(**sample())

    assert Net.ids_seen == (torch.int64, torch.bool, getattr(torch, dtype))
    assert {str(b.dtype).removeprefix("torch.") for b in half.buffers()} == {dtype, "uint8", "int64"}
    assert (answer["logits"].dtype, answer["aux"][0].dtype, answer["aux"][1].dtype) == (
        torch.float32,
        torch.int64,
        torch.float32,
    )
    assert answer["aux"][0].tolist() == [[2999, 2049], [1, 2]]


def test_the_callers_model_is_left_alone_and_tied_weights_stay_tied() -> None:
    model = Net()
    half: Any = to_half(model)

    assert model.embedding.weight.dtype == torch.float32
    assert half.wrapped.head.weight is half.wrapped.embedding.weight
    assert half.wrapped.mask_value.item() == -65504


def test_a_parameter_beyond_float16_is_refused_and_fits_into_bfloat16() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(70000)

    with pytest.raises(ConfigError, match="parameter 'weight' contains 70000; the maximum of float16 is 65504"):
        to_half(model, "float16")
    assert to_half(model, "bfloat16")(torch.ones(1, 1)).item() > 60000
    with pytest.raises(ConfigError, match="dtype is 'float8'; it must be one of 'float16', 'bfloat16'"):
        to_half(model, "float8")  # type: ignore[arg-type]


@both
@pytest.mark.parametrize("transform", [to_half, with_autocast])
def test_a_predictor_over_it_takes_and_gives_float32(transform: Any, dtype: Any) -> None:
    torch.manual_seed(0)
    model = Net()
    given = {name: tensor.numpy() for name, tensor in sample().items()}

    predictor = Predictor(transform(model, dtype), sample=sample())

    assert [spec.dtype for spec in predictor.signature.inputs] == ["int64", "bool", "float32"]
    expected = Predictor(model, sample=sample()).predict(given)
    found = predictor.predict(given)
    assert found["logits"].dtype == np.float32
    scale = abs(expected["logits"]).max()
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=0.05 * scale)


def test_float16_is_exported_like_any_module_and_takes_float32(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))

    made = export_to_onnx(to_half(model), torch.rand(2, 3, 8, 8), tmp_path / "half.onnx", tolerance=HALF)

    backend = OnnxBackend(made)
    assert backend.signature.inputs[0].dtype == "float32"
    x = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(backend.run({"input": x})["output"], model(torch.from_numpy(x)).numpy(), atol=5e-3)


def test_a_slower_half_is_told_with_both_figures_and_a_faster_one_not() -> None:
    support = HalfSupport(is_fast=False, reason="this processor (AVX2) has no float16 arithmetic for matrices")

    assert slower_sentence("float16", 1.6, 0.05, support) == (
        "float16 takes 1.6e+03 ms a run here, float32 50 ms (32 times as long): this processor (AVX2) has no float16 "
        "arithmetic for matrices; float32 is the better choice here, or int8"
    )
    assert slower_sentence("float16", 0.01, 0.05, support) == ""


@both
def test_what_the_processor_has_is_said(dtype: Any) -> None:
    assert f"{dtype} arithmetic for matrices" in half_support(dtype).reason


@pytest.mark.filterwarnings("ignore:float16 takes")
def test_fp16_predictor_computes_in_float16_whatever_it_costs() -> None:
    predictor = FP16Predictor(nn.Linear(8, 3), torch.rand(2, 8))

    weights = {parameter.dtype for parameter in predictor.backend.model.parameters()}  # type: ignore[attr-defined]
    assert weights == {torch.float16}
    assert predictor.half_s > 0 and predictor.float32_s > 0  # noqa: PT018
    assert predictor.predict(torch.rand(4, 8)).dtype == torch.float32


def test_the_names_of_the_inputs_are_the_models() -> None:
    assert list(inspect.signature(Net.forward).parameters)[1:] == [
        spec.name for spec in Predictor(to_half(Net()), sample=sample()).signature.inputs
    ]


class Last(nn.Module):
    """The last step of a recurrent network, whose rounding depends on the batch size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(40, 96, num_layers=2, batch_first=True)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lstm(steps)[0][:, -1]
        return found


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (to_half(Last(), "bfloat16"), "bfloat16"), (to_half(Last(), "float16"), "float16"),
        (Last(), "float32"), (Last().to(torch.bfloat16), "bfloat16"),
    ],
)  # fmt: skip
def test_rows_are_judged_by_the_precision_that_computes_them(model: nn.Module, precision: str) -> None:
    dtype = next(model.parameters()).dtype if precision == "bfloat16" and isinstance(model, Last) else torch.float32
    samples = [torch.randn(4, length, 40).to(dtype) for length in (12, 17)]

    signature = eager_backend(model, samples).signature

    assert signature.independence is not None
    assert signature.independence.precision == precision
    assert signature.independence.tolerance == tolerance_for(precision)
    assert signature.independence.verdict == "independent"
    assert signature.batching == "equal_lengths"


def test_autocast_computes_in_half_precision() -> None:
    signature = eager_backend(with_autocast(nn.Linear(64, 8), "bfloat16"), [torch.randn(4, 64)]).signature

    assert signature.independence is not None
    assert (signature.independence.precision, signature.batching) == ("bfloat16", "pad")


def test_a_mean_over_the_batch_is_coupled_in_half_precision_too() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.linear(x)
            return found - found.mean(0, keepdim=True)

    assert eager_backend(to_half(Centred(), "bfloat16"), [torch.randn(4, 8)]).signature.batching == "alone"
