"""The short path of `predict`: its answers are the caller's own, and it notices what changes between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.errors import ModelError


class Applies(nn.Module):
    """Applies a function to itself and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.linear = nn.Linear(3, 3)
        self.register_buffer("table", torch.arange(6.0).reshape(2, 3))
        self.memory = np.zeros((2, 3), dtype=np.float32)
        self.kept: Tensor = torch.zeros(2, 3)
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def keep(model: Any, x: Tensor) -> Tensor:
    model.kept = model.linear(x)
    kept: Tensor = model.kept
    return kept


def keep_in_a_list(model: Any, x: Tensor) -> Tensor:
    model.history.append(x * 2)
    last: Tensor = model.history[-1]
    return last


def reuse_numpy(model: Any, x: Tensor) -> Tensor:
    np.copyto(model.memory, x.numpy() * 2)
    return torch.from_numpy(model.memory)


SHARED = {
    "the input": lambda _, x: x,
    "a view of the input": lambda _, x: x[:, :2],
    "the input, detached": lambda _, x: x.detach(),
    "a buffer": lambda model, _: model.table,
    "rows of a buffer": lambda model, _: model.table[:2],
    "a parameter": lambda model, _: model.linear.weight[:2],
    "an attribute": keep,
    "an entry of a list": keep_in_a_list,
    "memory of numpy": reuse_numpy,
}


@pytest.mark.parametrize("name", SHARED)
def test_an_answer_shares_no_memory_with_the_input_or_the_model(name: str) -> None:
    model = Applies(SHARED[name]).eval()
    predictor = nograd.Predictor(model, "cpu")
    x = torch.arange(6.0).reshape(2, 3)
    for _ in range(3):  # the full path, the trial on copies, the short path
        answer = predictor.predict(x)
    with torch.no_grad():
        expected = model(x).clone()
    assert torch.equal(answer, expected)
    answer.add_(100)
    assert torch.equal(x, torch.arange(6.0).reshape(2, 3))
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    later = predictor.predict(x)
    predictor.predict(x + 1)
    assert torch.equal(later, expected)


@pytest.mark.parametrize("sample", [None, torch.zeros(2, 4)])
def test_an_answer_can_be_used_in_training_code(sample: Tensor | None) -> None:
    predictor = nograd.Predictor(nn.Linear(4, 3), "cpu", sample=sample)
    head = nn.Linear(3, 1)
    for _ in range(3):
        features = predictor.predict(torch.randn(2, 4))
        assert not features.requires_grad
        head(features).sum().backward()
    assert torch.is_grad_enabled()


def test_a_module_put_into_training_between_calls_runs_in_eval_mode_and_keeps_its_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    predictor = nograd.Predictor(model, "cpu")
    x = torch.randn(2, 4)
    expected = [predictor.predict(x) for _ in range(3)][-1]
    model[1].train()  # not the root
    assert torch.equal(predictor.predict(x), expected)
    assert model[1].training


@pytest.mark.parametrize("place", ["a replaced child", "a new child of a container", "a child of a leaf"])
def test_a_child_that_is_added_in_training_mode_runs_in_eval_mode(place: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity()).eval()
    predictor = nograd.Predictor(model, "cpu")
    x = torch.randn(2, 4)
    for _ in range(3):
        expected = predictor.predict(x)
    if place == "a replaced child":
        model[1] = nn.Dropout(0.9)
    elif place == "a new child of a container":
        model.append(nn.Dropout(0.9))
    else:
        model[1].add_module("inner", nn.Dropout(0.9))
        model[1].register_forward_hook(lambda module, _, output: module.inner(output))
    assert torch.equal(predictor.predict(x), expected)


@pytest.mark.parametrize("makes", ["with the first call", "with a later call"])
def test_state_that_was_made_in_inference_mode_can_be_updated(makes: str) -> None:
    calls = 0 if makes == "with the first call" else -2

    def accumulate(model: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1:
            model.history.append(torch.zeros(3))
        elif calls > 1:
            model.history[0].mul_(0.5)
        return x * 2 if calls < 1 else x * 2 + model.history[0]

    predictor = nograd.Predictor(Applies(accumulate).eval(), "cpu")
    x = torch.randn(2, 3)
    for _ in range(6):
        assert torch.equal(predictor.predict(x), x * 2)


def test_gradients_that_the_model_records_itself_do_not_reach_the_answer() -> None:
    def enabled(model: Any, x: Tensor) -> Tensor:
        with torch.enable_grad():
            answer: Tensor = model.linear(x)
        return answer

    predictor = nograd.Predictor(Applies(enabled).eval(), "cpu")
    for _ in range(3):
        assert not predictor.predict(torch.randn(2, 3)).requires_grad


def test_an_error_of_the_model_leaves_the_callers_gradient_mode() -> None:
    def fail(_: Any, x: Tensor) -> Tensor:
        if x.sum() > 5:
            raise ValueError("too large")
        return x * 2

    predictor = nograd.Predictor(Applies(fail).eval(), "cpu")
    for _ in range(3):
        predictor.predict(torch.zeros(2, 3))
    with pytest.raises(ModelError, match="too large"):
        predictor.predict(torch.ones(2, 3))
    assert torch.is_grad_enabled()
