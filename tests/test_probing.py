"""The probe finds out by running: each model here is made to have one property."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd import Predictor, TensorSpec
from nograd.errors import SignatureError
from nograd.probing import probe


class Pair(NamedTuple):
    mean: Tensor
    peak: Tensor


@dataclass
class Scored:
    scores: Tensor
    extra: Tensor | None = None


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
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = mask.unsqueeze(-1).float()
        found: Tensor = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return found


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        steps = self.lstm(x)[0]
        return {"steps": steps, "last": steps[:, -1]}


class Positions(nn.Module):
    """Takes at most 12 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(12, 4))

    def forward(self, ids: Tensor) -> Tensor:
        return self.positions[: ids.shape[1]] * ids.unsqueeze(-1).float()


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: [x], ["output_0"]),
        (lambda x: Pair(x, x), ["mean", "peak"]),
        (lambda x: {"logits": x, "aux": (x, x)}, ["logits", "aux.0", "aux.1"]),
        (Scored, ["scores"]),
    ],
)
def test_outputs_are_named_and_given_back_in_the_models_own_structure(function: Any, names: list[str]) -> None:
    predictor = Predictor(Returns(function), sample=torch.zeros(2, 3))
    x = torch.randn(4, 3)

    answer = predictor.predict(x)

    assert [spec.name for spec in predictor.signature.outputs] == names
    assert type(answer) is type(function(x))
    assert repr(answer) == repr(function(x))


def test_a_fixed_shape_stays_fixed_and_rows_vary() -> None:
    found = probe(nn.Linear(16, 4), torch.zeros(3, 16))

    assert found.signature.inputs == (TensorSpec("input", "float32", (16,)),)
    assert found.signature.outputs == (TensorSpec("output", "float32", (4,)),)
    assert found.signature.batching == "pad"
    assert found.findings == ()


def test_a_mask_that_the_sample_left_out_is_generated_where_it_makes_padding_harmless() -> None:
    model = MaskedMean()
    predictor = Predictor(model, sample={"input_ids": torch.randint(0, 50, (2, 7))})

    assert predictor.signature.batching == "pad"
    assert predictor.signature.inputs[1] == TensorSpec("attention_mask", "int64", ("tokens",), pad_value=0, default=1)
    short, long = np.array([[3, 4]]), np.array([[5, 6, 7, 8, 9]])
    together = nograd.BatchPredictor(predictor).predict([{"input_ids": short[0]}, {"input_ids": long[0]}])
    for answer, ids in zip(together, (short, long), strict=True):
        np.testing.assert_allclose(answer, predictor.predict({"input_ids": ids})[0], atol=1e-6)


def test_padding_that_changes_an_answer_is_found_and_the_length_is_followed() -> None:
    found = probe(LastState(), torch.randn(2, 5, 4))

    assert found.signature.batching == "equal_lengths"
    assert found.signature.reason == "padding length changes the answers"
    assert found.signature.outputs[0].shape == ("length", 8)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.softmax(0), "depends on the other rows"),
        (lambda x: x - x.mean(0), "depends on the other rows"),
        (lambda x: x + torch.rand(1), "draws random numbers"),
    ],
)
def test_rows_that_may_not_meet_are_never_batched(function: Any, reason: str) -> None:
    signature = probe(Returns(function), torch.randn(3, 5)).signature

    assert signature.batching == "alone"
    assert reason in signature.reason


def test_state_between_calls_is_found_and_put_back() -> None:
    model = Counting()

    found = probe(model, torch.randn(2, 3))

    assert found.signature.batching == "alone"
    assert "keeps state" in found.signature.reason
    assert model.calls.item() == 0


def test_a_length_beyond_what_the_model_takes_is_refused_by_number() -> None:
    predictor = Predictor(Positions(), sample=torch.ones(2, 12, dtype=torch.int64))

    assert predictor.signature.max_sizes == {"tokens": 12}
    with pytest.raises(SignatureError, match=r"input 'ids' has 13 tokens; the model takes at most 12"):
        predictor.predict(torch.ones(1, 13, dtype=torch.int64))


def test_an_output_that_follows_in_another_proportion_is_batched_at_equal_lengths_only() -> None:
    signature = probe(nn.Conv1d(3, 4, 3, stride=2), torch.randn(2, 3, 11)).signature

    assert signature.batching == "equal_lengths"
    assert "another proportion" in signature.reason


def test_the_model_is_left_as_it_was_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)

    found = probe(model, torch.ones(3, 4))

    assert torch.rand(1) == expected
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()
    assert found.signature.batching == "pad"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(), r"output 'output' is float32 \[\] for \d rows; every output must be \[rows, \.\.\.\]"),
        (lambda x: {"y": x, "note": "text"}, r"output 'note' is str; nograd carries tensors"),
        (lambda x: x @ torch.zeros(9, 9), r"the model cannot run x float32 \[2, 3\]: RuntimeError"),
        (lambda x: None, r"without a tensor"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_one_sentence(function: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        probe(Returns(function), torch.zeros(2, 3))


def test_half_precision_comes_to_the_host_as_float32() -> None:
    predictor = Predictor(nn.Linear(4, 2).to(torch.bfloat16), sample=torch.zeros(2, 4, dtype=torch.bfloat16))

    assert predictor.signature.outputs[0].dtype == "float32"
    assert predictor.predict(np.zeros((1, 4), dtype=np.float32)).dtype == np.float32
