"""What the probe finds does not depend on the values of the sample, and what it cannot find it says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nograd import Predictor, SampleWarning
from nograd.probing import probe
from tests.probing_zoo import IDS, NUMBERS, ids, numbers
from tests.torch_models import Returns


@pytest.mark.parametrize("sample", ["zeros", "constant", "one row", "uniform", "normal", "large"])
@pytest.mark.parametrize("name", NUMBERS)
def test_the_verdict_on_numbers_does_not_depend_on_the_samples_values(name: str, sample: str) -> None:
    torch.manual_seed(0)
    model = NUMBERS[name].make()

    signature = probe(model, numbers(sample)).signature

    assert signature.batching == NUMBERS[name].verdict, signature.reason


@pytest.mark.parametrize("sample", ["zeros", "constant", "one row", "random"])
@pytest.mark.parametrize("name", IDS)
def test_the_verdict_on_ids_does_not_depend_on_the_samples_values(name: str, sample: str) -> None:
    torch.manual_seed(0)
    model = IDS[name].make()

    signature = probe(model, ids(sample)).signature

    assert signature.batching == IDS[name].verdict, signature.reason


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2, bias=False)])
@pytest.mark.parametrize("sample", ["zeros", "constant", "uniform"])
def test_an_image_net_is_batched_at_equal_sizes_whatever_the_sample(layer: nn.Module, sample: str) -> None:
    net = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert probe(net, numbers(sample, (2, 3, 8, 9))).signature.batching == "equal_lengths"


def test_a_size_effect_is_named_as_such() -> None:
    def by_count(x: Tensor) -> Tensor:
        return x * (1.003 if len(x) > 3 else 1.0)

    signature = probe(Returns(by_count), torch.rand(2, 4)).signature

    assert signature.batching == "alone"
    assert signature.reason.startswith("a row's answer depends on the number of rows in its batch")


def test_rounding_next_to_large_rows_is_not_coupling() -> None:
    """A product with a large matrix rounds relative to each row."""
    torch.manual_seed(0)

    assert probe(nn.Linear(512, 8), torch.rand(2, 512)).signature.batching == "pad"


class Picky(nn.Module):
    """Takes only what a condition holds for."""

    def __init__(self, condition: Any) -> None:
        super().__init__()
        self.condition = condition

    def forward(self, x: Tensor) -> Tensor:
        if not bool(self.condition(x)):
            raise ValueError("refused")
        return x * 2


@pytest.mark.parametrize(
    ("condition", "sample", "batching"),
    [
        (lambda x: ((x.sum(-1) - 1).abs() < 1e-4).all(), torch.full((2, 4), 0.25), "pad"),  # probabilities
        (lambda x: (x.diff() >= 0).all(), torch.ones(2, 4), "equal_lengths"),  # sorted; zeros at the end are not
    ],
)
def test_values_that_the_model_refuses_are_skipped_and_the_user_is_warned(
    condition: Any, sample: Tensor, batching: str
) -> None:
    with pytest.warns(SampleWarning, match=r"the sample has one value only for input 'x', and the model ran no other"):
        signature = probe(Picky(condition), sample).signature

    assert signature.batching == batching


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (Returns(lambda x: x.sqrt()), torch.rand(2, 4)),  # NaN for negative numbers
        (Returns(lambda x: x.exp()), torch.rand(2, 4)),  # infinite for large ones
        (Picky(lambda x: (x >= 0).all()), torch.rand(2, 4)),
        (Picky(lambda x: (x.abs() < 10).all()), torch.rand(2, 4)),
        (Returns(lambda x: x.float().mean(1)), torch.ones(2, 4).bool()),
    ],
)
def test_values_that_give_no_number_prove_nothing_and_harm_nothing(model: nn.Module, sample: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(model, sample).signature.batching in ("pad", "equal_lengths")


def test_a_sample_of_one_row_that_no_other_row_can_be_made_of_is_reported() -> None:
    only = torch.tensor([[3.0, 1.0, 2.0]])

    with pytest.warns(SampleWarning, match="the sample has one row only for input 'x'"):
        probe(Picky(lambda x: (x == only).all()), only)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
@pytest.mark.parametrize("values", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[60_000, 9, 9, 9]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
def test_unsigned_integers_come_back_unchanged(dtype: torch.dtype, values: list[list[int]]) -> None:
    predictor = Predictor(Returns(lambda x: x.clone()), sample=torch.tensor(values).to(dtype))
    largest = torch.iinfo(dtype).max
    x = torch.tensor([[1, 2, 3, largest]], dtype=torch.uint64 if largest > 2**62 else torch.int64).to(dtype)

    answer = predictor.predict(x)

    assert (answer.dtype, answer.tolist()) == (dtype, [[1, 2, 3, largest]])


def test_unsigned_ids_are_looked_up() -> None:
    words = nn.Embedding(300, 4)

    predictor = Predictor(Returns(lambda x: words(x.long()).sum(1)), sample=torch.tensor([[299, 2], [1, 5]]).to(torch.uint16))

    assert predictor.predict(torch.tensor([[7, 8]]).to(torch.uint16)).shape == (1, 4)


def test_the_users_random_state_is_not_touched() -> None:
    model = nn.Linear(4, 2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    probe(model, torch.zeros(2, 4))

    assert torch.equal(torch.rand(3), expected)
