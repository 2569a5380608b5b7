"""Pooling: one vector per text, the mean of its token vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MeanPooled", "hidden_states"]


class MeanPooled(nn.Module):
    """An encoder with mean pooling over unmasked tokens and optional normalisation (Reimers and Gurevych, 2019, section 3).

    Args:
        encoder: returns `last_hidden_state [rows, tokens, size]`, as transformers' encoders do, or this tensor alone or first
            in a tuple.
        normalize: whether to scale vectors to unit length.
    """

    def __init__(self, encoder: nn.Module, *, normalize: bool = False) -> None:
        super().__init__()
        self.training = encoder.training
        self.encoder = encoder
        self.normalize = normalize

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Return `embedding [rows, size]` for ids and mask, both int64 `[rows, tokens]`."""
        hidden = hidden_states(self.encoder(input_ids=input_ids, attention_mask=attention_mask))
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return {"embedding": nn.functional.normalize(mean, dim=1) if self.normalize else mean}


def hidden_states(answer: Any) -> Tensor:
    """Return an encoder's token vectors, `[rows, tokens, size]`.

    Raises:
        TypeError: the encoder returned something else.
    """
    found = getattr(answer, "last_hidden_state", answer)
    hidden = found[0] if isinstance(found, tuple | list) else found
    if not isinstance(hidden, torch.Tensor) or hidden.ndim != 3:
        raise TypeError(f"the encoder returned {type(answer).__name__}; it must return vectors [rows, tokens, size]")
    return hidden
