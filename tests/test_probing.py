"""The probe finds out by running: each model here is made to have one property."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from nograd import Predictor, TensorSpec
from nograd.backends.eager import eager_backend
from nograd.errors import SignatureError
from nograd.probing import probe
from tests.torch_models import LastState, Returns

torch.manual_seed(0)  # for the models and samples made below; the fixture is for those made in tests


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Pair(NamedTuple):
    mean: Tensor
    peak: Tensor


@dataclass
class Scored:
    scores: Tensor
    extra: Tensor | None = None


STEPS = nn.LSTM(5, 5)
"""Its dimension 0 is time, not rows."""


class Counting(nn.Module):
    """Keeps state in every way that a module can."""

    calls: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("total", torch.zeros(1))
        self.last: Tensor | None = None
        self.history: list[Tensor] = []
        self.by_name = {"kept": 1}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total = self.total + 1  # another tensor, made in inference mode
        self.last = x
        self.history.append(x)
        self.by_name = {**self.by_name, "more": 2}
        self.added = x
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


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.softmax(0), "depends on the other rows"),
        (lambda x: x - x.mean(0), "depends on the other rows"),
        (lambda x: x.cumsum(0), "depends on the other rows"),  # the first row does not
        (lambda x: STEPS(x)[0], "depends on the other rows"),  # batch_first was forgotten
        (nn.BatchNorm1d(5, track_running_stats=False), "one row alone does not run: the model cannot run x float32 [1, 5]"),
        (lambda x: x + torch.rand(1), "draws random numbers"),
        (F.dropout, "draws random numbers"),
        (lambda x: x.sum(-1).squeeze(), "one row alone does not run: output 'output' is float32 [] for 1 rows"),
    ],
)
def test_rows_that_may_not_meet_are_never_batched(function: Any, reason: str) -> None:
    signature = probe(Returns(function), torch.randn(3, 5)).signature

    assert signature.batching == "alone"
    assert reason in signature.reason


def test_rows_that_meet_are_told_even_from_one_row_without_a_length() -> None:
    centred = nn.Embedding(10, 3)

    signature = probe(Returns(lambda ids: centred(ids) - centred(ids).mean(0)), torch.tensor([3])).signature

    assert (signature.batching, signature.reason) == ("alone", "a row's answer depends on the other rows of its batch")


def test_state_between_calls_is_found_and_put_back() -> None:
    model = Counting()
    total = model.total

    found = probe(model, torch.randn(2, 3))

    assert found.signature.batching == "alone"
    assert "keeps state" in found.signature.reason
    assert (model.calls.item(), model.last, model.history, model.by_name) == (0, None, [], {"kept": 1})
    assert not hasattr(model, "added")
    assert model.total is total
    assert not total.is_inference()


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
        (lambda x: {"note": "text"}, r"the model returned dict without a tensor"),
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


def test_of_a_long_sample_a_few_rows_are_enough_unless_the_model_takes_it_whole_only() -> None:
    rows = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal rows
        rows += len(x)
        return x * 2

    probe(Returns(counted), torch.ones(1000, 4))
    whole = probe(Returns(lambda x: x.view(12, 3)), torch.ones(12, 3)).signature

    assert rows < 1000 + 30 * 8
    assert whole.batching == "alone"
    assert whole.reason.startswith("one row alone does not run: the model cannot run x float32 [1, 3]: RuntimeError")


class Sparse(nn.Module):
    """Holds a buffer of another layout."""

    links: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("links", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return (self.links @ x.T).T


class Tied(nn.Module):
    """A language model in miniature, with one weight for both its ends, and a uint8 buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor([3], dtype=torch.uint8))

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.embedding(ids)) * self.scale
        return found


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (Tied(), torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])),
        (Tied().half(), torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(inplace=True)).train(), torch.randn(3, 4)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 4)),
        (Returns(lambda x: x.float() / 255), torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)),
        (Returns(lambda x: ~x), torch.tensor([[True, False]])),
        (Returns(torch.fft.fft), torch.randn(2, 8)),
        (LastState(), torch.randn(3, 5, 4)),
        (Sparse(), torch.randn(2, 4)),
    ],
)
def test_whatever_the_model_its_answer_is_the_one_of_torch(model: nn.Module, sample: Tensor) -> None:
    kept = sample.clone()
    predictor = Predictor(model, sample=sample)

    answer = predictor.predict(sample)

    with torch.no_grad():
        torch.testing.assert_close(answer, copy.deepcopy(model).eval()(kept.clone()), rtol=1e-5, atol=1e-6)
    assert torch.equal(sample, kept)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((), "no sample was given; the probe needs at least one input that the model can run"),
        ((torch.tensor(1.0),), "input 'x' is a single number; every input must be [rows, ...]"),
        ((torch.ones(0, 3),), "the sample's inputs have {'x': 0} rows; all must have the same number, at least 1"),
        ((torch.ones(1, 3), torch.tensor(1.0)), "input 'x' is a single number; every input must be [rows, ...]"),
    ],
)
def test_a_sample_that_teaches_nothing_is_told_in_one_sentence(samples: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        probe(Returns(lambda x: x), *samples)

    assert str(caught.value) == message


def test_an_output_that_comes_and_goes_is_refused() -> None:
    with pytest.raises(SignatureError, match="the model's outputs have the ranks"):
        probe(Returns(lambda x: (x, x) if len(x) > 1 else (x,)), torch.ones(1, 3), torch.ones(2, 3))


def test_eager_rows_are_measured_by_the_probes_own_runs() -> None:
    runs: list[int] = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(len(x))
            return x * 2

    probed = probe(Counted(), torch.rand(2, 4))
    count = len(runs)
    runs.clear()
    backend = eager_backend(Counted(), [torch.rand(2, 4)])

    assert len(runs) == count
    assert probed.independence is not None
    assert probed.independence.bound == 0
    assert backend.signature.independence == probed.independence.measured_on("eager", "float32")


@pytest.mark.parametrize("leak", [1e-2, 1e-7])
def test_the_bound_of_eager_rows_is_a_number(leak: float) -> None:
    class Leaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + leak * x.abs().amax(0)

    found = eager_backend(Leaks(), [torch.rand(2, 4)]).signature

    assert found.batching == "alone"
    assert found.independence is not None
    assert found.independence.is_coupled
    assert "as large" in found.independence.companions
