"""Size limits: the probe finds the smallest and the largest size that a model takes, and nothing where there is no limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nograd import Predictor
from nograd.backends.eager import eager_backend
from nograd.backends.exporting import verified
from nograd.backends.modules import ModuleBackend
from nograd.backends.torchscript import export_to_torchscript, load_torchscript
from nograd.errors import ExportError, InputSizeError, ModelError, SignatureError
from nograd.probing import probe
from nograd.probing.sizes import FAR_FACTOR
from nograd.probing.tables import CheckedIndexes
from nograd.probing.work import BoundedWork, OverBudget
from nograd.server.protocol.statuses import status_of

WIDTH = 8


class Words(nn.Module):
    """Looks up words and adds what `places` returns for them; `size` is the number of positions."""

    size = 48

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        return torch.tanh(x + self.places(ids, x)).mean(1)

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class SlicedParameter(Words):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, self.size, WIDTH))

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.table[:, : ids.shape[1]]


class IndexedBuffer(Words):
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(self.size, WIDTH))

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.table[torch.arange(ids.shape[1])]


class RotaryCache(Words):
    cos: Tensor
    sin: Tensor

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(self.size), torch.rand(WIDTH))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        length = ids.shape[1]
        return x * self.cos[:length] + x.roll(WIDTH // 2, -1) * self.sin.narrow(0, 0, length)


class BehindPadding(Words):
    """RoBERTa's positions: they start after the padding index, so two entries are never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(self.size + 2, WIDTH, padding_idx=1)

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        mask = ids.ne(1).int()
        found: Tensor = self.table((mask.cumsum(1) * mask).long() + 1)
        return found


class RelativeDistances(Words):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * self.size - 1, WIDTH)

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1])
        found: Tensor = self.table(at[:, None] - at[None] + self.size - 1)
        return found.mean(1)


class CausalMask(Words):
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(self.size, self.size)))

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        length = ids.shape[1]
        return (x @ x.mT).masked_fill(self.mask[:length, :length] == 0, 0) @ x


class CheckedInPython(Words):
    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        if ids.shape[1] > self.size:
            raise ValueError("too long")
        return torch.sin(torch.arange(ids.shape[1], dtype=x.dtype))[:, None]


class HalvedPositions(Words):
    """Two words share a position, as behind a convolution with a stride of two."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(self.size // 2, WIDTH)

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        found: Tensor = self.table(torch.arange((ids.shape[1] + 1) // 2))
        return found.repeat_interleave(2, 0)[: ids.shape[1]]


class Clamped(SlicedParameter):
    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        return self.table[:, torch.arange(ids.shape[1]).clamp(max=self.size - 1)]


class GrowingCache(SlicedParameter):
    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        table = getattr(self, "cache", self.table)
        if ids.shape[1] > table.shape[1]:
            self.cache = table = torch.zeros(1, ids.shape[1], WIDTH)
        return table[:, : ids.shape[1]]


LIMITED = (
    SlicedParameter, IndexedBuffer, RotaryCache, BehindPadding, RelativeDistances, CausalMask, CheckedInPython, HalvedPositions,
)  # fmt: skip


@pytest.mark.parametrize("kind", LIMITED)
@pytest.mark.parametrize("length", [6, 30])
def test_the_longest_text_that_a_model_takes_is_found(kind: type[Words], length: int) -> None:
    signature = probe(kind().eval(), torch.randint(2, 50, (2, length))).signature

    assert (dict(signature.max_sizes), dict(signature.min_sizes)) == ({"tokens": 48}, {})


def test_a_sample_as_long_as_the_table_is_the_longest() -> None:
    assert probe(IndexedBuffer().eval(), torch.randint(2, 50, (2, 48))).signature.max_sizes == {"tokens": 48}


@pytest.mark.parametrize("kind", [Clamped, GrowingCache])
def test_a_model_that_answers_beyond_its_table_has_no_limit(kind: type[Words]) -> None:
    model = kind().eval()

    signature = probe(model, torch.randint(2, 50, (2, 6))).signature

    assert (dict(signature.max_sizes), dict(signature.min_sizes)) == ({}, {})
    assert not hasattr(model, "cache")


@pytest.mark.parametrize("kind", [SlicedParameter, RotaryCache])
def test_an_exported_file_carries_the_limit(kind: type[Words], tmp_path: Path) -> None:
    path = export_to_torchscript(kind().eval(), torch.randint(2, 50, (2, 6)), tmp_path / "model.pt").path

    predictor = Predictor(load_torchscript(path, trusted=True))
    assert predictor.predict(torch.ones(1, 48, dtype=torch.int64)).shape == (1, WIDTH)
    with pytest.raises(SignatureError, match="input 'ids' has 49 tokens; the model takes 1 to 48"):
        predictor.predict(torch.ones(1, 49, dtype=torch.int64))


@pytest.mark.parametrize(("limit", "message"), [({}, "accepts 49 tokens"), ({"tokens": 50}, "accepts 49 tokens")])
def test_an_export_that_forgets_the_limit_is_refused(limit: dict[str, int], message: str) -> None:
    reference = eager_backend(IndexedBuffer().eval(), [torch.randint(2, 50, (2, 6))])
    forgetful = ModuleBackend(reference.model, replace(reference.signature, max_sizes=limit), reference.call, name="file")

    with pytest.raises(ExportError, match=message):
        verified(forgetful, reference)


class OftenLooped(Words):
    """The limit is in a list that the probe cannot see, and far beyond what it runs."""

    def places(self, ids: Tensor, x: Tensor) -> Tensor:
        return x * [1.0, 2.0][ids.shape[1] // 2000]


@pytest.mark.parametrize("length", [4000, 4100])
def test_an_index_error_on_a_larger_input_than_any_sample_is_the_callers(length: int) -> None:
    predictor = Predictor(OftenLooped().eval(), sample=torch.randint(2, 50, (2, 6)))

    with pytest.raises(InputSizeError, match=rf"input 'ids' has {length} tokens; the samples have at most 6") as caught:
        predictor.predict(torch.ones(1, length, dtype=torch.int64))
    assert isinstance(caught.value.__cause__, IndexError)
    assert status_of(caught.value) == 400


def test_another_error_on_a_larger_input_is_the_models() -> None:
    class Broken(OftenLooped):
        def places(self, ids: Tensor, x: Tensor) -> Tensor:
            return x / (ids.shape[1] < 2000 or int("no number"))

    predictor = Predictor(Broken().eval(), sample=torch.randint(2, 50, (2, 6)))
    with pytest.raises(ModelError) as caught:
        predictor.predict(torch.ones(1, 4000, dtype=torch.int64))
    assert status_of(caught.value) == 500


def test_a_table_that_is_too_long_to_be_run_is_still_the_limit() -> None:
    class Long(SlicedParameter):
        size = 100_000

        def places(self, ids: Tensor, x: Tensor) -> Tensor:
            return super().places(ids, x) + x @ (x.mT @ x)

    assert probe(Long().eval(), torch.randint(2, 50, (2, 6))).signature.max_sizes == {"tokens": 100_000}


def signals(*kernel: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, kernel[0]), nn.ReLU(), nn.MaxPool1d(kernel[1]), nn.AdaptiveAvgPool1d(1), nn.Flatten())


class LastOfThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, -3].tanh() + x.mean(1)


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(1, 5, 1).mean((1, 3))


@pytest.mark.parametrize(
    ("model", "sample", "smallest"),
    [
        (signals(7, 2), torch.rand(2, 3, 40), {"size_2": 8}),
        (signals(3, 4), torch.rand(2, 3, 7), {"size_2": 6}),
        (signals(3, 4), torch.rand(2, 3, 6), {"size_2": 6}),
        (LastOfThree(), torch.rand(2, 20, 3), {"length": 3}),
        (Windows(), torch.rand(2, 33, 2), {"length": 5}),
        (nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.AdaptiveMaxPool2d(1)), torch.rand(2, 1, 9, 12), {"height": 3, "width": 5}),
    ],
)
def test_the_smallest_size_that_a_model_takes_is_found(model: nn.Module, sample: Tensor, smallest: dict[str, int]) -> None:
    predictor = Predictor(model.eval(), sample=sample)

    assert (dict(predictor.signature.min_sizes), dict(predictor.signature.max_sizes)) == (smallest, {})
    dim, least = next(iter(smallest.items()))
    axis = predictor.signature.places[dim][1]
    with pytest.raises(SignatureError, match=f"has {least - 1} {dim}; the model takes at least {least}"):
        predictor.predict(sample.narrow(axis, 0, least - 1))
    assert len(predictor.predict(sample.narrow(axis, 0, least))) == 2


class OfLength(nn.Module):
    """Reads up to a length that another input gives; a sample that is cut makes it raise, a shorter text does not."""

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0].sum(1)


class AtTheEnd(nn.Module):
    """Reads the state of the token that ends a text, like BART: without one it raises."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        ends = (ids == 2).int().argmax(1)
        if not (ids == 2).any(1).all():
            raise ValueError("no end")
        x: Tensor = self.words(ids)
        return x.cumsum(1)[torch.arange(len(ids)), ends]


class Area(nn.Module):
    """Takes images of up to 400 pixels, whatever their shape."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(400))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) * self.table[: x[0].numel()]).sum(1)


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (OfLength(), {"x": torch.rand(2, 9, 4), "length": torch.tensor([9, 7])}),
        (AtTheEnd(), torch.tensor([[5, 6, 7, 8, 9, 2], [9, 8, 7, 6, 5, 2]])),
        (nn.Conv2d(1, 2, 3, padding=1), torch.rand(2, 1, 9, 9)),
    ],
)
def test_a_refusal_for_another_reason_than_the_size_is_no_limit(model: nn.Module, sample: Any) -> None:
    signature = probe(model.eval(), sample).signature

    assert (dict(signature.max_sizes), dict(signature.min_sizes)) == ({}, {})


class Sum(nn.Module):
    """Takes every size."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True)


class Pairs(nn.Module):
    """Work grows with the square of the length: a long one is beyond the budget."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] * x[:, None]).sum((1, 2))[:, None]


def test_the_largest_size_that_was_answered_is_stored_if_no_limit_was_found() -> None:
    signature = probe(Sum(), torch.rand(2, 5), torch.rand(2, 8)).signature

    [(dim, tried)] = signature.tried_sizes.items()
    assert tried == 1024
    assert signature.describe_limits() == f"{dim}: no limit found up to 1024"
    assert signature.describe_sizes() == ""


def test_a_run_that_the_budget_ended_proves_nothing_of_its_size() -> None:
    [tried] = probe(Pairs(), torch.rand(2, 1500), torch.rand(2, 1600)).signature.tried_sizes.values()

    assert 1500 <= tried < FAR_FACTOR * 1500


def test_a_dimension_with_a_limit_has_no_size_that_was_only_tried() -> None:
    assert probe(IndexedBuffer().eval(), torch.randint(2, 50, (2, 6))).signature.tried_sizes == {}


def test_a_file_keeps_the_size_up_to_which_no_limit_was_found(tmp_path: Path) -> None:
    written = export_to_torchscript(Sum(), torch.rand(2, 5), tmp_path / "sum.pt")
    read = load_torchscript(written.path, trusted=True).signature

    assert read.tried_sizes == probe(Sum(), torch.rand(2, 5)).signature.tried_sizes != {}


def test_a_limit_that_dimensions_share_is_that_of_each_with_the_others_at_their_smallest() -> None:
    signature = probe(Area(), torch.rand(2, 12, 16)).signature

    assert signature.max_sizes == {"length": 400, "size_2": 400}


class Eights(nn.Module):
    """Takes multiples of 8 from 16 on, up to a table of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(64))

    def forward(self, x: Tensor) -> Tensor:
        blocks = (x * self.table[: x.shape[1]]).view(len(x), -1, 8)
        return blocks[:, 0].sum(1) + blocks[:, 1].sum(1)


def test_sizes_that_go_in_steps_keep_every_size_that_may_run() -> None:
    signature = probe(Eights().eval(), torch.rand(2, 24), torch.rand(2, 32)).signature

    assert signature.max_sizes == {"length": 64}
    assert 8 < signature.min_sizes["length"] <= 16


def test_a_sample_of_any_size_is_within_the_limits() -> None:
    short, long = torch.randint(2, 50, (2, 1)), torch.randint(2, 50, (2, 48))

    assert probe(IndexedBuffer().eval(), short, long).signature.max_sizes == {"tokens": 48}


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.ones(1000, 1) + torch.ones(1000),
        lambda: torch.zeros(1000, 1000),
        lambda: torch.ones(1000, 4) @ torch.ones(4, 1000),
        lambda: torch.nn.functional.conv1d(torch.ones(1, 64, 1000), torch.ones(64, 64, 9)),
        lambda: [torch.ones(1000).tanh() for _ in range(300)],
    ],
)
def test_a_bounded_run_ends_before_it_is_too_much(run: Callable[[], Any]) -> None:
    with torch.inference_mode(), pytest.raises(OverBudget), BoundedWork(250_000) as watch:
        run()
    assert watch.work > 250_000


@pytest.mark.parametrize(
    "read",
    [
        lambda table, at: nn.functional.embedding(at, table),
        lambda table, at: table[at],
        lambda table, at: table[:, at % 2][at],
        lambda table, at: table.index_select(0, at),
        lambda table, at: table.gather(0, at[:, None]),
        lambda table, at: table.clone().scatter(0, at[:, None], 1.0),
    ],
)
def test_an_index_beyond_a_table_is_an_error_before_a_gpu_is_lost_to_it(read: Callable[[Tensor, Tensor], Tensor]) -> None:
    with CheckedIndexes():
        assert len(read(torch.ones(4, 2), torch.tensor([3, 0, 1, 2]))) == 4
        with pytest.raises(IndexError, match="index 4 is out of range; the table has 4 entries"):
            read(torch.ones(4, 2), torch.tensor([3, 4]))


@pytest.mark.parametrize(
    "grow",
    [
        lambda x: x.repeat(1, 1_000_000),
        lambda x: x.tile((1, 1_000_000)),
        lambda x: x.repeat_interleave(1_000_000, 1),
        lambda x: nn.functional.interpolate(x[:, None], scale_factor=1_000_000),
    ],
)
def test_a_bounded_run_ends_before_a_result_that_is_a_million_times_as_large(grow: Callable[[Tensor], Tensor]) -> None:
    with torch.inference_mode(), pytest.raises(OverBudget), BoundedWork(2**22):
        grow(torch.zeros(1, 100))
