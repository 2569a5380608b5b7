"""Models with one fault each, for the checks that must find it, and one without."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nograd import Predictor


def sound() -> Predictor:
    """A small net without a fault: `[rows, 8]` to `[rows, 3]`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    return Predictor(model.eval().requires_grad_(requires_grad=False), sample=torch.randn(4, 8))


class Masked(nn.Module):
    """Mean of embeddings over the tokens that are not masked: without a fault, and of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask.unsqueeze(-1).float()
        found: Tensor = (self.embedding(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return found


def sound_text() -> Predictor:
    ids = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])
    return predictor(Masked(), {"ids": ids, "attention_mask": torch.ones_like(ids)})


def predictor(model: nn.Module, sample: Any) -> Predictor:
    """A predictor over a model in eval mode that asks for no gradients."""
    return Predictor(model.eval().requires_grad_(requires_grad=False), sample=sample)


class Linear(nn.Module):
    """What most of the broken ones do beside their fault."""

    def __init__(self, *, features: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found


def rows(count: int = 4, features: int = 8) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(1))


def dropout_left_on() -> Predictor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3)).requires_grad_(requires_grad=False)
    return Predictor(model.train(), sample=rows())


def batch_norm_that_learns() -> Predictor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)).requires_grad_(requires_grad=False)
    return Predictor(model.train(), sample=rows())


class FunctionalDropout(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x))  # its default is training=True: what many forget


class Centred(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Counting(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls


class Unmasked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.embedding(ids).mean(1)
        return found


class TwoRowsOnly(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(2, 8))


class WritingItsInput(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


class ReusingItsAnswer(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.zeros(64, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found = self.get_buffer("scratch")[: len(x)]
        found.copy_(super().forward(x))
        return found


class Leaking(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    def forward(self, x: Tensor) -> Tensor:
        self.kept.append(b"x" * 16_384)
        return super().forward(x)


class HalfNaN(Linear):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.linear.weight[0] = float("nan")


class FloatIds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.last = nn.Linear(40, 4)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.last(self.embedding(ids.long()).flatten(1))
        return found


class PlainTable(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.tables = [torch.ones(4)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.tables[0]


class Unreadable(Linear):
    """Holds what no fingerprint can read."""

    def __init__(self) -> None:
        super().__init__()
        self.history = array("d", [1.0, 2.0])


class Recording(Linear):
    """Turns gradients on, whatever the caller wants."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().forward(x)


class Wild(Linear):
    """Amplifies rounding."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.sin(x * 2e4))


class ShiftedIds(nn.Module):
    """Computes with ids before the embedding, so that nobody knows which ones it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.embedding(ids + 1)
        return found


class Poisoned(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * x.sum()


class Spoilt(Linear):
    """Does not get over an error."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = super().forward(x) + self.offset if x.shape[-1] == 8 and x.ndim == 2 else self.fail()
        return answer

    def fail(self) -> Tensor:
        self.offset = 1.0
        raise ValueError("the model takes [rows, 8]")


class TwoDtypes(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(super().forward(x).bfloat16()).float()
        return found


class HalfOnMeta(Linear):
    """A layer that was never loaded, and is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = nn.Linear(4, 4, device="meta")


class PromotedByABuffer(Linear):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.get_buffer("scale")


class Overflowing(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 300) * 300


class LoopingOverRows(Linear):
    """Unrolled by a tracer: a graph for every number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(LoopingOverRows, self).forward(x[index]) for index in range(len(x))])


class Branching(Linear):
    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found.relu() if float(x.abs().max()) > 1e9 else found


def with_gradients() -> Predictor:
    model = Linear()
    model(rows()).sum().backward()
    return predictor(model, rows())


def denormal() -> Predictor:
    model = Linear()
    with torch.no_grad():
        model.linear.weight[0] = 1e-40
    return predictor(model, rows())


def made_in_inference_mode() -> Predictor:
    with torch.inference_mode():
        model = Linear()
    return Predictor(model.eval(), sample=rows())


IDS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])


@dataclass(frozen=True, slots=True)
class Broken:
    make: Callable[[], Predictor]
    expected: frozenset[str]
    """Ids of the checks that find an error or a warning."""


def of(model: Callable[[], nn.Module], *expected: str, sample: Tensor | None = None) -> Broken:
    return Broken(lambda: predictor(model(), rows() if sample is None else sample), frozenset(expected))


BROKEN = {
    "dropout was left on": Broken(dropout_left_on, frozenset({"mode.eval", "mode.dropout"})),
    "batch norm learns from requests": Broken(batch_norm_that_learns, frozenset({"mode.eval", "mode.batch_norm"})),
    "functional dropout in eval mode": of(FunctionalDropout, "mode.random"),
    "rows are centred by their batch": of(Centred, "batching.rows"),
    "state between calls": of(Counting, "batching.state"),
    "a mean over padding": of(Unmasked, "batching.padding", sample=IDS),
    "a batch size of two written into forward": of(TwoRowsOnly, "batching.sizes", sample=rows(2)),
    "the input is written to": of(WritingItsInput, "batching.inputs"),
    "the answer is overwritten by the next call": of(ReusingItsAnswer, "batching.answers"),
    "every call leaks": of(Leaking, "memory.growth"),
    "NaN in the weights": of(HalfNaN, "precision.answers", "precision.weights"),
    "ids as floating numbers": of(FloatIds, "devices.float_ids", sample=IDS.float()),
    "weights in a plain list": of(PlainTable, "caching.stale"),
    "an attribute that no fingerprint reads": of(Unreadable, "caching.key"),
    "gradients turned on in forward": Broken(
        lambda: Predictor(Recording().eval(), sample=rows()), frozenset({"gradients.answers"})
    ),
    "gradients left over from training": Broken(with_gradients, frozenset({"gradients.buffers"})),
    "rounding is amplified": of(Wild, "precision.rounding"),
    "ids shifted before the embedding": of(ShiftedIds, "errors.ids", sample=IDS),
    "NaN of one row spreads": of(Poisoned, "errors.nan"),
    "an error leaves a mark": of(Spoilt, "errors.recovers"),
    "a layer on the meta device": of(HalfOnMeta, "devices.mixed", "caching.key"),
    "float64 by a buffer": of(PromotedByABuffer, "devices.float64"),
    "float16 overflows": of(Overflowing, "precision.float16"),
    "denormal weights": Broken(denormal, frozenset({"precision.denormals"})),
}
"""What is wrong with a model, in words -> the model, and what must be found: that, and nothing else."""
