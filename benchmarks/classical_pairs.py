"""Models and pairs of `benchmarks.classical`: a call, and the hand-written loop that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["BATCH", "WIDTH", "Dense", "Encoder", "Pair"]

WIDTH, BATCH = 256, 32


class Dense(nn.Module):
    """About 0.1 ms a row: small enough that the cost of a call shows."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


class Encoder(nn.Module):
    """A small transformer over ids and a mask: rows differ in length."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.table, self.body = nn.Embedding(1000, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.body(self.table(input_ids), src_key_padding_mask=attention_mask == 0)
        weights = attention_mask.unsqueeze(-1).to(found.dtype)
        return (found * weights).sum(1) / weights.sum(1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A call, and the loop that it replaces; both return their answers."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]
    gain: str
    tolerance: float = 1e-4
    close: Callable[[], object] = lambda: None
    is_parallel: bool = False
    """Whether the call may compute on several processors, to answer earlier: the goal then covers the wall time."""

    missing: str = ""
    """A guarantee of the call that the loop lacks, as a verb. The pair then shows its price, and the goal does not cover it."""
