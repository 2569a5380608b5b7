"""Fingerprints of torch modules that keep caches, weak references and numbered hooks."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from nograd.backends.eager import eager_backend
from nograd.runtime.fingerprint import of_value
from nograd.runtime.module_state import without_bookkeeping


def seeded(make: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(0)
    return make().eval()


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


class Tripled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 3


def with_hook(factor: float) -> nn.Module:
    """A linear layer whose hook has a number that no other hook of this process has."""
    layer = nn.Linear(3, 4)
    layer.register_forward_hook(lambda _module, _inputs, output: output * factor, always_call=True)
    layer.register_forward_pre_hook(lambda _module, inputs, kwargs: (inputs, kwargs), with_kwargs=True)
    return layer


def parametrized(step: type[nn.Module]) -> nn.Module:
    layer = nn.Linear(3, 3)
    register_parametrization(layer, "weight", step())
    return layer


MODULES: dict[str, Callable[[], nn.Module]] = {
    "gru": lambda: nn.GRU(3, 4, 2, bidirectional=True),
    "lstm with projection": lambda: nn.LSTM(3, 4, proj_size=2),
    "rnn in a list": lambda: nn.ModuleList([nn.RNN(3, 4), nn.RNN(3, 4)]),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(3, 4)),
    "weight norm of an lstm": lambda: parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 4)),
    "old spectral norm": lambda: spectral_norm(nn.Linear(3, 4)),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(3, 4), "weight", 2),  # type: ignore[no-untyped-call]
    "hooks": lambda: with_hook(2.0),
}


@pytest.mark.parametrize("name", MODULES)
def test_equal_modules_have_one_fingerprint(name: str) -> None:
    first, second = (of_value(seeded(MODULES[name])) for _ in range(2))

    assert first == second
    assert first.private_because == ""


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_old_weight_norm_has_a_stable_fingerprint_that_its_weights_change(name: str) -> None:
    first, second = (seeded(lambda: weight_norm(nn.LSTM(3, 4), name)) for _ in range(2))
    assert of_value(first) == of_value(second)

    with torch.no_grad():
        getattr(second, f"{name}_g").mul_(2)
    assert of_value(first) != of_value(second)


@pytest.mark.parametrize(
    "make", [lambda: nn.LSTM(3, 4), lambda: parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")], ids=["lstm", "norm"]
)
def test_runs_and_copies_leave_an_rnns_fingerprint(make: Callable[[], nn.Module]) -> None:
    model = seeded(make)
    before = of_value(model)
    assert of_value(copy.deepcopy(model)) == before

    with torch.inference_mode():
        model(torch.zeros(2, 1, 3))
    assert of_value(model) == before


class States(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.gru(x)[0]


def test_every_weight_of_an_rnn_counts() -> None:
    model = seeded(States)
    backend = eager_backend(model, [torch.rand(2, 5, 3)])
    seen = {backend.fingerprint()}
    for weight in model.parameters():
        with torch.no_grad():
            weight.view(-1)[0] += 1
        seen.add(backend.fingerprint())

    assert len(seen) == 5


def test_weights_that_an_rnn_lists_and_does_not_own_count() -> None:
    model, other = (seeded(lambda: nn.LSTM(3, 4)) for _ in range(2))
    other._flat_weights[0] = torch.zeros(16, 3)

    assert "_flat_weights" not in without_bookkeeping(vars(model))
    assert of_value(model) != of_value(other)


def test_what_a_hook_does_counts_and_its_number_does_not() -> None:
    assert of_value(seeded(lambda: with_hook(2.0))) != of_value(seeded(lambda: with_hook(3.0)))


def test_the_users_class_and_code_under_a_parametrization_count() -> None:
    assert of_value(seeded(lambda: parametrized(Doubled))) != of_value(seeded(lambda: parametrized(Tripled)))

    def made(amount: float) -> nn.Module:
        class Layer(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) + amount

        layer = Layer(3, 3)
        register_parametrization(layer, "weight", Doubled())
        return layer

    one, other = (of_value(seeded(lambda amount=amount: made(amount))) for amount in (1.0, 2.0))  # type: ignore[misc]
    assert one != other


class Holder:
    def __init__(self, value: Any) -> None:
        self.reference = weakref.ref(value)


def test_a_weak_reference_is_read_as_what_it_refers_to() -> None:
    ones, twos, like = torch.ones(3), torch.full((3,), 2.0), torch.ones(3)

    assert of_value(Holder(ones)) == of_value(Holder(like))
    assert of_value(Holder(ones)) != of_value(Holder(twos))


def test_a_lazy_parameter_makes_a_private_fingerprint() -> None:
    assert "lazy parameter" in of_value(nn.LazyLinear(3)).private_because
