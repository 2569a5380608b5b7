"""Five kinds of model with inputs: a tensor, several tensors, named tensors, an LSTM of varying length, a dict of outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class SeveralTensors(nn.Module):
    """Two tensors in, a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        found = self.left(a) + self.right(b)
        return found, found.relu()


class NamedTensors(nn.Module):
    """Ids and a mask by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(input_ids) * attention_mask.unsqueeze(-1)
        found: Tensor = self.head(x.sum(1) / attention_mask.sum(1, keepdim=True))
        return found


class Recurrent(nn.Module):
    """An LSTM with a head over its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


class DictOfOutputs(nn.Module):
    """Returns its outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x).tanh()
        return {"logits": self.head(hidden), "hidden": hidden}


def _dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def _inputs(kind: str, rows: int) -> Any:
    if kind == "several":
        return torch.randn(rows, 6), torch.randn(rows, 4)
    if kind == "named":
        ids = torch.randint(1, 50, (rows, 5))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return torch.randn(rows, 7, 4) if kind == "lstm" else torch.randn(rows, 6)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tensor": _dense,
    "several": SeveralTensors,
    "named": NamedTensors,
    "lstm": Recurrent,
    "outputs": DictOfOutputs,
}


def make_model(kind: str) -> nn.Module:
    """Return a model of a kind in eval mode, with the same weights each time."""
    torch.manual_seed(0)
    return MODELS[kind]().eval()


def make_inputs(kind: str, rows: int = 4) -> Any:
    """Return inputs for a kind of model: a tensor, a tuple or a dict."""
    torch.manual_seed(rows)
    return _inputs(kind, rows)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model as people do: a tensor, tensors in order, or tensors by name."""
    with torch.no_grad():
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def assert_equal(found: Any, right: Any, tolerance: float = 1e-5) -> None:
    """Raise unless both have one structure, and their tensors agree within `tolerance` times the largest value."""
    assert type(found) is type(right), f"{type(found).__name__} instead of {type(right).__name__}"
    if isinstance(right, dict):
        assert list(found) == list(right)
        for name, child in right.items():
            assert_equal(found[name], child, tolerance)
    elif isinstance(right, tuple | list):
        assert len(found) == len(right)
        for ours, theirs in zip(found, right, strict=True):
            assert_equal(ours, theirs, tolerance)
    else:
        assert found.shape == right.shape
        torch.testing.assert_close(found, right, rtol=0, atol=tolerance * float(right.abs().max()))
