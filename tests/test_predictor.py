"""Predictor: eval and inference mode guaranteed, the module left alone, answers in the kind they were asked in."""

from __future__ import annotations

import json
import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd import Backend, Predictor, Signature, TensorSpec
from nograd.core.manifest import Manifest
from nograd.core.module import ModuleCall
from nograd.errors import ConfigError, ItemError, ModelError, SignatureError, UnsupportedError
from tests.torch_models import Returns
from tests.waiting import HANG_S


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Watched(nn.Module):
    """Says what it saw, and holds everybody until `together` of them are inside."""

    def __init__(self, together: int = 1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(3))
        self.seen: list[tuple[bool, bool, bool]] = []
        self.barrier = threading.Barrier(together)

    def forward(self, x: Tensor) -> Tensor:
        self.barrier.wait(HANG_S)
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


class Relay(nn.Module):
    """Two runs: the first ends after the second began, the second after the first's caller has its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.first_is_inside, self.second_is_inside, self.first_is_done = (threading.Event() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        if not self.first_is_inside.is_set():
            self.first_is_inside.set()
            assert self.second_is_inside.wait(HANG_S)
        else:
            self.second_is_inside.set()
            assert self.first_is_done.wait(HANG_S)
        found: Tensor = self.dropout(x)
        return found


def test_of_two_predictors_of_one_training_module_neither_brings_training_back_to_the_other() -> None:
    model, x, answers = Relay().train(), torch.ones(1, 64), list[Tensor]()
    first, second = (threading.Thread(target=lambda: answers.append(Predictor(model).predict(x))) for _ in range(2))

    first.start()
    assert model.first_is_inside.wait(HANG_S)
    second.start()
    first.join()
    model.first_is_done.set()
    second.join()

    assert all(torch.equal(answer, x) for answer in answers)
    assert len(answers) == 2
    assert model.dropout.training


def test_answers_come_in_the_kind_they_were_asked_in_and_take_part_in_autograd() -> None:
    predictor = Predictor(nn.Linear(4, 2), sample=torch.zeros(2, 4))

    tensor, rows, array, listed = (
        predictor.predict(x) for x in (torch.ones(3, 4), [torch.ones(4)] * 3, np.ones((3, 4)), [[1, 1, 1, 1]] * 3)
    )

    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, listed)
    np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-6)
    assert torch.equal(rows, tensor)
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


def test_of_several_outputs_the_one_named_logits_is_read() -> None:
    class Heads(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"hidden": x * 9, "logits": x}

    x = torch.tensor([[1.0, 3.0, 2.0]])
    predictor = Predictor(Heads(), sample=x)

    torch.testing.assert_close(predictor.predict_proba(x), x.softmax(-1))
    assert predictor.predict_class(x.numpy()).tolist() == [1]
    assert predictor.predict_class(x.numpy()).dtype == predictor.predict_class(x).numpy().dtype == np.int64


def test_a_tiny_temperature_leaves_the_largest_alone_without_an_overflow() -> None:
    predictor = Predictor(nn.Identity(), sample=torch.zeros(2, 2))

    for x in (torch.tensor([[1.0, 2.0]]), np.array([[1.0, 2.0]], np.float32)):
        assert predictor.predict_proba(x, temperature=1e-320).tolist() == [[0.0, 1.0]]


def test_half_precision_logits_and_those_of_items_become_float32_probabilities() -> None:
    predictor = Predictor(nn.Identity(), preprocess=lambda text: np.array([len(text), 0], np.float16), sample=["ab"])
    half = Predictor(nn.Linear(2, 2).half(), sample=torch.ones(1, 2))

    assert predictor.predict_proba(["", "a"]).dtype == np.float32
    assert predictor.predict_class(["", "a"]).tolist() == [0, 0]
    assert half.predict_proba(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x), "the model has the outputs 'output_0', 'output_1'; "
                           "choose the one with class scores: output='output_0'"),
        (lambda x: x[:, 0] * 1, "the model's output is float32 [2]; class scores are floating [rows, classes]"),
        (lambda x: x.long(), "the model's output is int64 [2, 3]; class scores are floating [rows, classes]"),
        (lambda x: x.view(2, 1, 3), "the model's output is float32 [2, 1, 3]; class scores are floating [rows, classes]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [torch.ones, np.ones])
def test_what_is_not_class_scores_is_not_read_as_such(make: Any, function: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        Predictor(Returns(function)).predict_proba(make((2, 3)))

    assert str(caught.value) == message


def test_items_whose_outputs_differ_in_length_have_no_classes_in_common() -> None:
    predictor = Predictor(Returns(lambda x: x * 2), preprocess=lambda n: np.ones(n, np.float32), sample=[2, 3])

    with pytest.raises(SignatureError, match="the items' outputs differ in length"):
        predictor.predict_class([2, 3])


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
    assert predictor.example == "a"
    for nothing, message in (([], "the list of items is empty"), ({"x": "a"}, "items is a dict")):
        with pytest.raises(SignatureError, match=message):
            predictor.predict(nothing)
    with pytest.raises(ItemError, match="item 1: preprocess raised TypeError") as caught:
        predictor.predict(["a", 5])
    assert caught.value.index == 1


@pytest.mark.parametrize("inputs", [torch.ones(3, 2), np.ones((3, 2), np.float32)])
def test_postprocess_alone_makes_an_answer_of_each_row(inputs: Any) -> None:
    predictor = Predictor(nn.Identity(), sample=torch.ones(1, 2), postprocess=lambda row: float(row.sum()))

    assert predictor.predict(inputs) == [2.0, 2.0, 2.0]


def test_the_callers_inputs_are_never_written_to() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True))
    array, tensor = -np.ones((1, 2), np.float32), -torch.ones(1, 2)

    for predictor in (Predictor(model), Predictor(model, sample=tensor)):
        assert predictor.predict(array).tolist() == predictor.predict(tensor).tolist() == [[0.0, 0.0]]

    assert array.tolist() == tensor.tolist() == [[-1.0, -1.0]]


def test_what_is_known_only_from_a_sample_is_asked_for() -> None:
    fresh = Predictor(nn.Linear(2, 1))
    items = Predictor(nn.Linear(2, 1), preprocess=lambda n: np.full(2, n, np.float32))

    for use in (lambda: fresh.backend, fresh.warm_up, lambda: fresh.gradients().__enter__()):
        with pytest.raises(UnsupportedError, match="give `sample=`, or predict once"):
            use()
    with pytest.raises(UnsupportedError, match="no example of an item is known; give `sample=` with `preprocess`"):
        items.warm_up()


def test_warming_up_runs_the_samples_first_row_and_zeros_where_there_is_none() -> None:
    watched = Watched()
    with_sample = Predictor(watched, sample=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    watched.seen.clear()

    with_sample.warm_up()

    assert len(watched.seen) == 1
    assert with_sample.example["x"].tolist() == [[1.0, 2.0, 3.0]]
    assert Predictor(Doubler()).example["x"].tolist() == [[0.0, 0.0]]


def test_a_row_at_a_time_through_a_model_whose_rows_meet() -> None:
    predictor = Predictor(Returns(lambda x: x - x.mean(0)), preprocess=np.float32, sample=[[1.0], [2.0]])

    assert [answer.tolist() for answer in predictor.predict([[1.0], [5.0]])] == [[0.0], [0.0]]


def test_a_backend_of_another_kind_is_predicted_with_arrays_and_tensors_alike() -> None:
    predictor = Predictor(Doubler())

    assert predictor.predict([[1, 2]])["y"].tolist() == [[2.0, 4.0]]
    assert predictor.predict(torch.ones(1, 2))["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda x: x, {}, "model is function; it must be a torch.nn.Module or a nograd Backend"),
        (Doubler(), {"device": "cpu"}, r"device is 'cpu'; a backend has its own \(cpu\): omit device"),
        (nn.Identity(), {"device": "tpu"}, "device is 'tpu'; torch cannot use it here: "),
    ],
)
def test_what_cannot_be_predicted_with_is_refused(model: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor(model, sample=torch.zeros(1, 1), **options)


class Pair(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None) -> dict[str, Tensor]:
        return {"left": a * 2, "right": a if b is None else b}


def test_without_a_sample_calls_run_as_they_come() -> None:
    predictor, x = Predictor(Pair(), "cpu"), torch.randn(3, 4)

    assert torch.equal(predictor(x)["left"], x * 2)
    assert torch.equal(predictor(x, x + 1)["right"], x + 1)
    assert torch.equal(predictor(a=x, b=x + 2)["right"], x + 2)
    assert predictor.predict(torch.ones(2, 3, 4))["left"].shape == (2, 3, 4)
    assert not predictor.is_probed


@pytest.mark.parametrize("make", [lambda x: x, lambda x: {"a": x}])
def test_the_short_path_answers_as_the_long_one_and_notices_changes(make: Any) -> None:
    linear = nn.Linear(4, 3)
    model = nn.Sequential(linear, nn.Dropout(0.5))

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, a: Tensor) -> Tensor:
            found: Tensor = self.inner(a)
            return found

    named = Named().train()
    predictor, x = Predictor(named, "cpu"), torch.randn(3, 4)
    right = linear(x).detach()
    for training in (True, True, False, False, False, True):
        named.train(training)
        assert torch.equal(predictor.predict(make(x)), right)
        assert named.training is training
    with torch.no_grad():
        linear.bias.add_(1)
    named.eval()
    assert torch.equal(predictor.predict(make(x)), linear(x).detach())
    assert not predictor.predict(make(x)).is_inference()


@pytest.mark.parametrize("function", [lambda x: x.add_(1), lambda x: nn.functional.relu(x, inplace=True), lambda x: x])
def test_the_short_path_leaves_inputs_alone(function: Any) -> None:
    predictor, x = Predictor(Returns(function), "cpu"), torch.tensor([[1.0, -2.0]])
    right = function(x.clone())
    for _ in range(4):
        found = predictor.predict(x)
        assert torch.equal(found, right)
        assert x.tolist() == [[1.0, -2.0]]
        found.zero_()


def test_a_failing_probe_fails_no_call() -> None:
    class Scalar(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    predictor, x = Predictor(Scalar(), "cpu"), torch.ones(2, 3)

    assert float(predictor.predict(x)) == 6
    assert predictor.signature.batching == "alone"
    assert "could not be probed" in predictor.signature.reason
    assert float(predictor.predict(x)) == 6


def test_after_a_first_call_rows_are_batched_as_with_a_sample() -> None:
    predictor = Predictor(nn.Linear(4, 3), "cpu")
    predictor.predict(torch.randn(1, 4))

    assert predictor.signature.batching == "pad"
    assert predictor.predict(torch.randn(2, 4)).shape == (2, 3)


def test_an_output_that_is_a_distribution_is_used_as_it_is() -> None:
    predictor, x = Predictor(Returns(lambda x: x.softmax(-1)), "cpu"), torch.randn(4, 3)

    for given in (x, x.numpy()):
        with pytest.warns(UserWarning, match="is already a distribution"):
            found = predictor.predict_proba(given)
        np.testing.assert_allclose(np.asarray(found), x.softmax(-1).numpy(), atol=1e-6)
    with pytest.warns(UserWarning, match="is already a distribution"):
        np.testing.assert_allclose(predictor.predict_proba(x, temperature=2.0), (x / 2).softmax(-1).numpy(), atol=1e-6)


def test_an_output_is_chosen_by_name() -> None:
    predictor, x = Predictor(Pair(), "cpu"), torch.randn(4, 3)

    torch.testing.assert_close(predictor.predict_proba(x, output="left"), (x * 2).softmax(-1))
    assert torch.equal(predictor.predict_class(x, output="right"), x.argmax(-1))
    with pytest.raises(SignatureError, match="the model has the outputs 'left', 'right'; choose"):
        predictor.predict_class(x)
    with pytest.raises(ConfigError, match="output is 'middle'; the model has the outputs 'left', 'right'"):
        predictor.predict_proba(x, output="middle")


def test_the_problem_type_of_a_configuration_decides() -> None:
    model, x = Returns(lambda x: x), torch.tensor([[2.0, -1.0, 0.5], [-3.0, 1.0, -0.5]])
    model.config = SimpleNamespace(problem_type="multi_label_classification")  # type: ignore[assignment]
    predictor = Predictor(model, "cpu")

    torch.testing.assert_close(predictor.predict_proba(x), x.sigmoid())
    np.testing.assert_allclose(predictor.predict_proba(x.numpy()), x.sigmoid().numpy(), atol=1e-6)
    assert predictor.predict_class(x).tolist() == [[1, 0, 1], [0, 1, 0]]
    model.config = SimpleNamespace(problem_type="regression")  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match="problem_type is 'regression'"):
        predictor.predict_proba(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.pt", r"model is 'model.pt'; it must be .*: open files and names with nograd.load\('model.pt'\)"),
        (nn.Linear, r"model is the class Linear; .*: pass an instance, Linear\(...\)"),
        ({"weight": 1}, "model is dict; .*load_state_dict"),
        (Predictor(nn.Identity()), "model is a Predictor; .*call a Predictor directly"),
    ],
)
def test_what_is_not_a_model_is_named(model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Predictor(model, "cpu")


@pytest.mark.parametrize("device", ["cud", "cuda:7" if not torch.cuda.is_available() else "cuda:99"])
def test_a_device_that_does_not_exist_is_refused_at_once(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}'; torch cannot use it here"):
        Predictor(nn.Linear(2, 2), device)


class Classifier(nn.Module):
    """A linear model with the configuration of a transformers one."""

    def __init__(self, problem_type: str) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.config = SimpleNamespace(problem_type=problem_type)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return class scores, `[rows, 3]`."""
        return {"logits": self.linear(x)}


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".xml"])
def test_an_exported_file_says_what_its_outputs_mean(tmp_path: Path, suffix: str) -> None:
    from nograd.backends.openvino import export_to_openvino
    from nograd.exports import open_file

    model, x = Classifier("multi_label_classification").eval(), torch.randn(2, 3)
    path = tmp_path / f"model{suffix}"
    if suffix == ".onnx":
        nograd.export_to_onnx(model, x, path)
    elif suffix == ".pt":
        nograd.export_to_torchscript(model, x, path)
    else:
        export_to_openvino(model, x, path)

    found = Predictor(open_file(path, trusted=True)).predict_proba(x.numpy())

    np.testing.assert_allclose(found, model(x)["logits"].sigmoid().detach().numpy(), atol=1e-5)


def test_a_bundle_says_what_its_outputs_mean(tmp_path: Path) -> None:
    from nograd.bundle import BundleSettings, ExportedFile, write_bundle

    model, x = Classifier("multi_label_classification").eval(), torch.randn(2, 3)
    file = nograd.export_to_onnx(model, x, tmp_path / "model.onnx").path
    exported = nograd.ONNXPredictor(file)
    settings = BundleSettings(name="tiny", backend="onnx")
    write_bundle(tmp_path / "bundle", model=ExportedFile(file), signature=exported.signature, settings=settings)

    found = nograd.load(str(tmp_path / "bundle"))

    scores = model(x)["logits"].detach().numpy()
    np.testing.assert_allclose(found.predict_proba(x.numpy()), 1 / (1 + np.exp(-scores)), atol=1e-5)
    np.testing.assert_array_equal(found.predict_class(x.numpy()), scores > 0)


def test_a_module_over_a_graph_has_the_problem_type_of_its_model(tmp_path: Path) -> None:
    from nograd.transforms.onnx_module import OnnxModule

    model, x = Classifier("multi_label_classification").eval(), torch.randn(4, 3)
    file = nograd.export_to_onnx(model, x, tmp_path / "model.onnx").path
    module = OnnxModule(file.read_bytes(), ModuleCall(("x",), "positional"))
    again = pickle.loads(pickle.dumps(module))

    for each in (module, again):
        found = Predictor(each, "cpu").predict_proba(x)
        torch.testing.assert_close(found, model(x)["logits"].sigmoid().detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["compiled", "memory-efficient", "splitting"])
def test_a_model_around_another_has_its_problem_type(kind: str) -> None:
    from nograd.backends.compiled import CompiledBackend
    from nograd.backends.eager import eager_backend
    from nograd.transforms.memory import MemoryEfficientModel, SplittingBackend

    model = Classifier("regression")
    eager = eager_backend(model, [torch.zeros(2, 3)])
    if kind == "compiled":
        made: Backend = CompiledBackend(eager, mode="default", dynamic=True, fullgraph=False, batch_sizes=(1,), lengths=(1,))
    elif kind == "splitting":
        made = SplittingBackend(eager)
    else:
        made = eager_backend(MemoryEfficientModel(model, ["linear"]), [torch.zeros(2, 3)])

    assert made.problem_type == "regression"


def test_a_manifest_of_an_older_nograd_has_no_problem_type() -> None:
    text = Manifest(Signature((TensorSpec("x", "float32", (3,)),), ()), "output", "regression").dumps()
    older = json.loads(text)
    del older["problem_type"]

    assert Manifest.loads(text).problem_type == "regression"
    assert Manifest.loads(json.dumps(older)).problem_type == ""


class Cache:
    """State of a run that is not a tensor, such as the keys and values of a language model."""


@dataclass
class Output:
    logits: Tensor
    past_key_values: Any = None
    hidden: Any = None


ENTRIES: dict[str, tuple[Callable[[Tensor], Any], str, Callable[[Tensor], Any]]] = {
    "a cache": (lambda x: Output(x * 2, Cache()), r"'past_key_values' \(Cache\)", lambda x: Output(x * 2)),
    "a number": (lambda x: {"y": x * 2, "steps": 3}, r"'steps' \(int\)", lambda x: {"y": x * 2, "steps": None}),
    "text in a tuple": (lambda x: (x * 2, ["a", "b"]), r"'output_1.0' \(str\)", lambda x: (x * 2, None)),
}


@pytest.mark.parametrize("sample", [None, torch.zeros(2, 3)])
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_that_is_not_a_tensor_is_left_out_with_one_warning(name: str, sample: Tensor | None) -> None:
    function, message, wanted = ENTRIES[name]
    with pytest.warns(UserWarning, match=message) as caught:  # noqa: PT031  with a sample the first statement warns
        predictor = Predictor(Returns(function), "cpu", sample=sample)
        answers = [predictor.predict(torch.ones(2, 3)) for _ in range(3)]

    assert len(caught) == 1
    for answer in answers:
        assert plain(answer) == plain(wanted(torch.ones(2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plain(predictor.predict(np.ones((2, 3), np.float32))) == plain(wanted(torch.ones(2, 3)))


def plain(value: Any) -> Any:
    """Return an answer as lists, dicts and None."""
    if isinstance(value, Output):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    return [plain(child) for child in value] if isinstance(value, tuple) else value if value is None else value.tolist()
