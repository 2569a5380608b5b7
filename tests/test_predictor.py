"""Predictor: eval and inference mode guaranteed, the module left alone, answers in the kind they were asked in."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nograd import Backend, Predictor, Signature, TensorSpec
from nograd.errors import ConfigError, ItemError, ModelError, SignatureError, UnsupportedError


class Watched(nn.Module):
    """Says what it saw, and holds everybody until `together` of them are inside."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[bool, bool, bool]] = []
        self.barrier = threading.Barrier(together)

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait(10)
        self.seen.append((self.dropout.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        found: Tensor = self.dropout(x) * self.weight
        return found


class Doubler(Backend):
    name, device = "doubler", "cpu"
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))

    def run(self, batch: Any) -> Any:
        return {"y": batch["x"] * 2}


def test_it_runs_in_eval_and_inference_mode_and_leaves_the_module_in_its_own() -> None:
    model = Watched().train()

    Predictor(model).predict(torch.ones(2, 3))

    assert set(model.seen) == {(False, False, True)}
    assert model.training
    assert model.dropout.training
    assert torch.is_grad_enabled()


def test_two_threads_in_one_training_module_both_see_eval_mode() -> None:
    model = Watched(together=2).train()
    predictor = Predictor(model, sample=None)
    threads = [threading.Thread(target=predictor.predict, args=(torch.ones(1, 3),)) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert model.seen == [(False, False, True)] * 2
    assert model.training


def test_answers_come_in_the_kind_they_were_asked_in_and_take_part_in_autograd() -> None:
    predictor = Predictor(nn.Linear(4, 2), sample=torch.zeros(2, 4))

    tensor, array, listed = (predictor.predict(x) for x in (torch.ones(3, 4), np.ones((3, 4), np.float32), [[1, 1, 1, 1]] * 3))

    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, listed)
    np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-6)
    weight = torch.ones(2, requires_grad=True)
    (tensor * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("inputs", [{"x": [[1.0, 2.0]], "y": [[3.0, 4.0]]}, ([[1.0, 2.0]], [[3.0, 4.0]])])
def test_several_inputs_come_by_name_or_in_order(inputs: Any) -> None:
    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - y

    predictor = Predictor(Difference(), sample=(torch.zeros(1, 2), torch.zeros(1, 2)))

    assert predictor.predict(inputs).tolist() == [[-2.0, -2.0]]


def test_probabilities_are_stable_float32_and_flattened_by_temperature() -> None:
    predictor = Predictor(nn.Identity(), sample=torch.zeros(2, 3))
    logits = torch.tensor([[1e4, 0.0, -1e4], [1.0, 2.0, 3.0]])

    sharp, flat = predictor.predict_proba(logits), predictor.predict_proba(logits, temperature=1e6)

    assert sharp.dtype == torch.float32
    assert sharp[0].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(sharp[1], torch.softmax(logits[1], 0))
    assert flat[1].tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)
    assert predictor.predict_class(logits).tolist() == [0, 2]
    np.testing.assert_allclose(predictor.predict_proba(logits.numpy()), sharp.numpy(), atol=1e-7)


def test_a_single_logit_is_the_log_odds_of_class_1_of_2() -> None:
    predictor = Predictor(nn.Identity(), sample=torch.zeros(2, 1))

    assert predictor.predict_proba(torch.zeros(1, 1)).tolist() == [[0.5, 0.5]]
    assert predictor.predict_class(torch.tensor([[2.0], [-2.0]])).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="it must be above 0, finite"):
        Predictor(nn.Identity(), sample=torch.zeros(2, 3)).predict_proba(torch.zeros(1, 3), temperature=temperature)


def test_gradients_on_demand_are_torchs_and_end_with_their_context() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).train()
    predictor = Predictor(model, sample=torch.zeros(2, 4))
    x = torch.randn(2, 4, requires_grad=True)

    with predictor.gradients():
        (saliency,) = torch.autograd.grad(predictor.predict(x).sum(), x)

    (expected,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(saliency, expected)
    assert not predictor.predict(x).requires_grad
    with pytest.raises(UnsupportedError, match="backend 'doubler' has no gradients"), Predictor(Doubler()).gradients():
        pass


def test_without_a_sample_the_first_input_teaches_names_kinds_and_ranks() -> None:
    predictor = Predictor(nn.Linear(4, 2))

    with pytest.raises(ModelError, match="the model raised RuntimeError"):
        predictor.predict(torch.zeros(2, 3))
    assert predictor.predict(torch.zeros(2, 4)).shape == (2, 2)
    with pytest.raises(SignatureError, match="the model takes float32"):
        predictor.predict(torch.zeros(2, 4, dtype=torch.int64))


def test_preprocess_and_postprocess_stand_around_each_item() -> None:
    predictor = Predictor(
        nn.Linear(2, 1),
        preprocess=lambda text: np.array([len(text), 1], np.float32),
        postprocess=lambda row: row.shape,
        sample=["a"],
    )

    assert predictor.predict(["a", "bb"]) == [(1,), (1,)]
    assert predictor.predict("a") == (1,)
    with pytest.raises(ItemError, match="item 1: TypeError") as caught:
        predictor.predict(["a", 5])
    assert caught.value.index == 1


def test_a_backend_of_another_kind_is_predicted_with_arrays_and_tensors_alike() -> None:
    predictor = Predictor(Doubler())

    assert predictor.predict([[1, 2]])["y"].tolist() == [[2.0, 4.0]]
    assert predictor.predict(torch.ones(1, 2))["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("model", "options"), [(lambda x: x, {}), (Doubler(), {"device": "cpu"}), (nn.Identity(), {"device": "tpu"})]
)
def test_what_cannot_be_predicted_with_is_refused(model: Any, options: Any) -> None:
    with pytest.raises(ConfigError):
        Predictor(model, sample=torch.zeros(1, 1), **options)
