"""Factories that bundles name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nograd import Predictor

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tied(nn.Module):
    """Embedding and head share one matrix, as language models do; a buffer stays outside of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(self.embedding(ids).mean(1) * self.scale)
        return {"logits": self.head(hidden)}


def ids() -> Tensor:
    return torch.arange(12).reshape(3, 4)


def tied() -> Predictor:
    return Predictor(Tied(), sample=(ids(),))


def tied_over_items() -> Predictor:
    """With steps that only this function knows."""
    return Predictor(
        Tied(),
        preprocess=lambda text: torch.tensor([int(c) for c in text]),
        postprocess=lambda row: int(row["logits"].argmax()),
        sample=["1234", "5678"],
    )


def bare() -> nn.Module:
    return Tied()


def with_example() -> nn.Module:
    model = Tied()
    model.example_input_array = ids()
    return model


def untied() -> Predictor:
    model = Tied()
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    return Predictor(model, sample=(ids(),))


def other() -> Predictor:
    return Predictor(nn.Linear(4, 2), sample=torch.zeros(2, 4))


def doubled() -> Predictor:
    return Predictor(Tied().double(), sample=(ids(),))


def raising() -> Predictor:
    raise RuntimeError("the config is gone")


def trained(seed: int = 1) -> Tied:
    """A model whose weights no factory makes."""
    torch.manual_seed(seed)
    model = Tied()
    with torch.no_grad():
        model.norm(torch.randn(8, 16))  # running statistics of its own
    return model.eval()


def answers(model: nn.Module) -> Mapping[str, Tensor]:
    with torch.inference_mode():
        found: Mapping[str, Tensor] = model.eval()(ids())
    return found
