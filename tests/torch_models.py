"""Small torch models that several tests share, each with one property."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Returns(nn.Module):
    """Applies a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class MaskedMean(nn.Module):
    """Mean of embeddings over real tokens; `attention_mask` is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask.unsqueeze(-1).float()
        found: Tensor = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return found


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        steps = self.lstm(x)[0]
        return {"steps": steps, "last": steps[:, -1]}
