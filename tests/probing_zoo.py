"""Tiny modules whose way of batching is known, and kinds of samples, poor ones too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["IDS", "NUMBERS", "Zoo", "ids", "numbers"]

Verdict = Literal["pad", "equal_lengths", "alone"]


class Zoo(NamedTuple):
    """A model and the truth about it."""

    make: Callable[[], nn.Module]
    verdict: Verdict


class Apply(nn.Module):
    """Applies a function to one input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Attends to every step, padding included; the mean of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return found.mean(1)


class Last(nn.Module):
    """A recurrent net's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.rnn(x)[0][:, -1]
        return found


class Words(nn.Module):
    """Something done to the embeddings of ids; 0 is padding if `pad` says so."""

    def __init__(self, pool: Callable[[Tensor], Tensor], *, pad: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 4, padding_idx=pad)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.words(x))


def decibels(x: Tensor, over: tuple[int, ...] | None) -> Tensor:
    """Return log power, cut off 80 dB below the maximum of the batch (`over` is None) or of each row, as a mean over time."""
    power = x.abs().square().clamp(min=1e-10)
    level = 10 * power.log10()
    top = level.max() if over is None else level.amax(over, keepdim=True)
    return torch.maximum(level, top - 80).mean(1)


NUMBERS: Mapping[str, Zoo] = {
    "linear": Zoo(lambda: Apply(lambda x: x * 2 + 1), "pad"),
    "sum over time": Zoo(lambda: Apply(lambda x: x.sum(1)), "pad"),
    "mean over time": Zoo(lambda: Apply(lambda x: x.mean(1)), "equal_lengths"),
    "maximum over time": Zoo(lambda: Apply(lambda x: x.amax(1)), "equal_lengths"),
    "group norm over time": Zoo(lambda: Apply(lambda x: F.group_norm(x.transpose(1, 2), 2).transpose(1, 2)), "equal_lengths"),
    "instance norm over time": Zoo(lambda: Apply(lambda x: F.instance_norm(x.transpose(1, 2)).amax(2)), "equal_lengths"),
    "attention without a mask": Zoo(Attention, "equal_lengths"),
    "last state": Zoo(Last, "equal_lengths"),
    "causal": Zoo(lambda: Apply(lambda x: x.cumsum(1)), "pad"),
    "batch-wide maximum": Zoo(lambda: Apply(lambda x: x / x.abs().max().clamp(min=1e-6)), "alone"),
    "batch-wide mean": Zoo(lambda: Apply(lambda x: x - x.mean()), "alone"),
    "softmax over rows": Zoo(lambda: Apply(lambda x: x.softmax(0)), "alone"),
    "earlier rows": Zoo(lambda: Apply(lambda x: x.cumsum(0)), "alone"),
    "decibels below the batch": Zoo(lambda: Apply(lambda x: decibels(x, None)), "alone"),
    "decibels below the row": Zoo(lambda: Apply(lambda x: decibels(x, (1, 2))), "equal_lengths"),
}
"""Models of `[rows, length, 4]`."""

IDS: Mapping[str, Zoo] = {
    "each word": Zoo(lambda: Words(lambda x: x * 2), "pad"),
    "sum without padding": Zoo(lambda: Words(lambda x: x.sum(1), pad=0), "pad"),
    "mean of words": Zoo(lambda: Words(lambda x: x.mean(1)), "equal_lengths"),
    "centred over rows": Zoo(lambda: Words(lambda x: x - x.mean(0)), "alone"),
    "softmax over rows": Zoo(lambda: Words(lambda x: x.softmax(0)), "alone"),
}
"""Models of int64 `[rows, tokens]`."""


def numbers(kind: str, shape: tuple[int, ...] = (2, 6, 4)) -> Tensor:
    """Return a sample of one kind."""
    draw = torch.Generator().manual_seed(3)
    rows = {
        "zeros": torch.zeros(shape),
        "constant": torch.full(shape, 0.5),
        "one row": torch.rand((1, *shape[1:]), generator=draw),
        "uniform": torch.rand(shape, generator=draw),
        "normal": torch.randn(shape, generator=draw),
        "large": torch.randn(shape, generator=draw) * 50,
    }
    return rows[kind]


def ids(kind: str) -> Tensor:
    """Return a sample of ids of one kind."""
    draw = torch.Generator().manual_seed(3)
    rows = {
        "zeros": torch.zeros(2, 6, dtype=torch.int64),
        "constant": torch.full((2, 6), 7),
        "one row": torch.randint(2, 40, (1, 6), generator=draw),
        "random": torch.randint(2, 40, (2, 6), generator=draw),
    }
    return rows[kind]
