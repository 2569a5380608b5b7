"""Memory: gradients are equal and the peak is lower; a model larger than its memory runs; a batch that does not fit is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import MemoryEfficientModel, Predictor, Signature, TensorSpec, offload
from nograd.backends import Backend
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.tensors import Batch
from nograd.transforms.memory import SplittingBackend, peak_bytes


class Stack(nn.Module):
    def __init__(self, layers: int = 8, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.3), nn.Linear(4 * width, width))
            for _ in range(layers)
        )

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        for layer in self.layers:
            x = x + layer(x) * scale
        return x


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    parameters = list(model.parameters())
    return list(torch.autograd.grad(model(x, scale=0.5).square().sum(), [x, *parameters]))


@pytest.mark.parametrize("layers", [None, ["layers.1", "layers.5.0"], [nn.Sequential]])
def test_gradients_are_the_same_dropout_included(layers: Any) -> None:
    torch.manual_seed(0)
    model, x = Stack().train(), torch.randn(16, 64)

    found = gradients(MemoryEfficientModel(model, layers), x)

    for ours, theirs in zip(found, gradients(model, x), strict=True):
        assert torch.equal(ours, theirs)


def test_the_measured_peak_is_a_fraction() -> None:
    model, x = Stack(12).train(), torch.randn(256, 64)

    plain, efficient = (peak_bytes(lambda m=m: gradients(m, x)) for m in (model, MemoryEfficientModel(model)))

    assert efficient < 0.5 * plain


def test_the_model_is_left_as_it_was_and_the_outer_layer_counts() -> None:
    model = Stack(2)
    efficient = MemoryEfficientModel(model, ["layers.0", "layers.0.1"])
    gradients(efficient, torch.randn(2, 64))

    assert efficient.layers == ("layers.0",)
    assert "forward" not in vars(model.layers[0])
    assert Predictor(efficient, sample={"x": torch.randn(2, 64)}).signature.batching == "pad"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["layers.9"], "there is no layer 'layers.9'; the model has, for example, layers"),
        ([nn.LSTM], "the model has no layer of the class LSTM"),
    ],
)
def test_a_layer_that_is_not_there_is_told_with_those_that_are(layers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MemoryEfficientModel(Stack(2), layers)


def test_a_model_without_lists_of_layers_must_be_told_them() -> None:
    with pytest.raises(ConfigError, match="the model has neither a ModuleList nor a Sequential"):
        MemoryEfficientModel(nn.Linear(1, 1))


def test_a_model_larger_than_its_memory_gives_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Stack(8).eval(), torch.randn(3, 64)
    with torch.no_grad():
        expected = model(x)
    whole = sum(p.numel() * 4 for p in model.parameters())
    resident: list[int] = []

    small = offload(model, tmp_path, max_memory_bytes=whole // 4)
    for layer in model.layers:
        layer.register_forward_hook(lambda *_: resident.append(sum(p.numel() * 4 for p in model.parameters())))

    with torch.inference_mode():
        assert torch.equal(small(x), expected)
    assert 0 <= max(resident) <= whole // 4
    assert sum(p.numel() for p in model.parameters()) == 0


def test_what_cannot_be_cut_and_gradients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_memory_bytes is 100; Linear has 66560 bytes that cannot be cut further"):
        offload(Stack(1), tmp_path, max_memory_bytes=100)
    small = offload(Stack(1), tmp_path, max_memory_bytes=100_000)
    with pytest.raises(UnsupportedError, match="an offloaded model has no gradients"):
        small(torch.randn(1, 64))


class Small(Backend):
    """Has memory for three rows."""

    name, device = "small", "cpu"

    def __init__(self, batching: Any = "pad") -> None:
        self.signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),), batching)
        self.runs: list[int] = []

    def run(self, batch: Batch) -> Batch:
        self.runs.append(len(batch["x"]))
        if len(batch["x"]) > 3:
            raise ModelError("the model raised") from MemoryError()
        return {"y": batch["x"] * 2}


def test_a_batch_that_does_not_fit_is_cut_and_what_fitted_is_remembered() -> None:
    backend = SplittingBackend(small := Small())
    x = np.arange(16, dtype=np.float32).reshape(8, 2)

    assert (backend.run({"x": x})["y"] == x * 2).all()
    assert small.runs == [8, 4, 2, 2, 2, 2]
    small.runs.clear()
    assert (backend.run({"x": x})["y"] == x * 2).all()
    assert small.runs == [2, 2, 2, 2]


def test_rows_that_depend_on_each_other_are_not_cut() -> None:
    with pytest.raises(ModelError):
        SplittingBackend(Small("alone")).run({"x": np.zeros((4, 2), np.float32)})
