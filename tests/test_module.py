"""How a module is called, with what, and in which mode."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nograd import Signature, TensorSpec
from nograd.core.module import (
    EvalMode,
    ModuleCall,
    check_tensors,
    floating_dtype,
    module_device,
    own_signature,
    problem_type,
    to_tensors,
)
from nograd.errors import SignatureError

T = torch.ones(1, 2)


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        return x - y


class Positional(nn.Module):
    def forward(self, *args: Tensor) -> Tensor:
        return args[0] - args[1]


class Open(nn.Module):
    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        return x - more["y"]


class Dict(nn.Module):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["x"] - batch["y"]


@pytest.mark.parametrize(
    ("model", "sample", "expected"),
    [
        (Two(), (T, T), ModuleCall(("x", "y"), "positional", ("mask",))),
        (Two(), {"y": T, "x": T}, ModuleCall(("y", "x"), "keywords", ("mask",))),
        (Positional(), (T, T), ModuleCall(("input_0", "input_1"), "positional")),
        (Positional(), {"x": T, "y": T}, ModuleCall(("x", "y"), "positional")),
        (Open(), {"x": T, "y": T}, ModuleCall(("x", "y"), "keywords")),
        (Dict(), {"x": T, "y": T}, ModuleCall(("x", "y"), "mapping")),
        (Dict(), {"x": T}, ModuleCall(("x",), "mapping")),
        (nn.Linear(2, 1), T, ModuleCall(("input",), "positional")),
        (nn.Sequential(nn.Linear(2, 1)), {"input": T}, ModuleCall(("input",), "keywords")),
    ],
)
def test_the_way_of_calling_is_read_from_forward_and_the_sample(model: nn.Module, sample: Any, expected: ModuleCall) -> None:
    assert ModuleCall.learn(model, sample) == expected


@pytest.mark.parametrize("model", [Two(), Positional(), Open(), Dict()])
def test_every_way_of_calling_gives_each_input_its_own_tensor(model: nn.Module) -> None:
    sample = {"x": torch.tensor([[5.0]]), "y": torch.tensor([[2.0]])}

    assert ModuleCall.learn(model, sample)(model, sample).item() == 3.0


@pytest.mark.parametrize(
    ("model", "sample", "message"),
    [
        (Two(), {"x": T, "z": T}, "unknown input 'z'; forward takes 'x', 'y', 'mask'"),
        (Two(), (T,) * 4, "the sample has 4 inputs; forward takes 'x', 'y', 'mask'"),
        (nn.Linear(2, 1), {"pixels": T}, "unknown input 'pixels'; forward takes 'input'"),
        (nn.Linear(2, 1), (T, T), "the sample has 2 inputs; forward takes 'input'"),
        (nn.Identity(), "text", "input 'input' is str; give a tensor, an array or nested lists of numbers "
         "(new(): invalid data type 'str')"),
        (nn.Identity(), [T, torch.ones(1, 3)], "input 'input' is list; give a tensor, an array or nested lists of numbers "
         "(stack expects each tensor to be equal size, but got [1, 2] at entry 0 and [1, 3] at entry 1)"),
    ],
)  # fmt: skip
def test_a_sample_that_does_not_fit_is_told_in_one_sentence(model: nn.Module, sample: Any, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        to_tensors(sample, ModuleCall.learn(model, sample), model)

    assert str(caught.value) == message


@pytest.mark.parametrize("other", [{"x": T}, T, (T, T, T), {"x": T, "y": T, "mask": T}])
def test_samples_of_one_model_hold_the_same_inputs(other: Any) -> None:
    with pytest.raises(SignatureError, match="the samples differ: one has"):
        to_tensors(other, ModuleCall(("x", "y"), "keywords"), Two())


def test_the_model_gets_copies_unless_it_is_known_to_leave_its_inputs_alone() -> None:
    x = torch.tensor([-1.0])
    relu = nn.ReLU(inplace=True)

    assert ModuleCall(("input",), "positional")(relu, {"input": x}).item() == 0.0
    assert x.item() == -1.0
    assert ModuleCall(("input",), "positional", copies=False)(relu, {"input": x}) is x


def test_floating_inputs_take_the_modules_one_dtype_and_others_stay() -> None:
    half = nn.Linear(2, 1).half()
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1).double())

    assert floating_dtype(half) == torch.float16
    assert floating_dtype(mixed) is floating_dtype(nn.ReLU()) is None
    assert to_tensors(T, ModuleCall(("x",), "positional"), half)["x"].dtype == torch.float16
    assert to_tensors(T.int(), ModuleCall(("x",), "positional"), half)["x"].dtype == torch.int32
    assert module_device(nn.ReLU()) == torch.device("cpu")


NARROW = Signature(
    (TensorSpec("i", "int8", ("tokens",)), TensorSpec("h", "float16"), TensorSpec("m", "bool", ("tokens",), default=1))
)


def test_tensors_change_their_width_like_arrays_and_defaults_are_filled_in() -> None:
    checked = check_tensors({"i": torch.tensor([[1, 2, 3]]), "h": torch.tensor([torch.inf])}, NARROW)

    assert [(tensor.dtype, tensor.tolist()) for tensor in checked.values()] == [
        (torch.int8, [[1, 2, 3]]), (torch.float16, [torch.inf]), (torch.bool, [[True] * 3]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("i", "h", "message"),
    [
        (torch.tensor([[300]]), torch.ones(1), "input 'i' contains 300; int8 goes from -128 to 127"),
        (torch.tensor([[1]]), torch.tensor([7e4]), "input 'h' contains 70000; float16 goes to 65504"),
        (torch.tensor([[1.0]]), torch.ones(1), r"input 'i' is float32 \[1, 1\]; the model takes int8 \[rows, tokens\]"),
        (torch.tensor([[1]]), torch.ones(2), "input 'h' has 2 rows, input 'i' has 1; they must agree"),
    ],
)
def test_no_tensor_says_another_thing_after_it_was_narrowed(i: Tensor, h: Tensor, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        check_tensors({"i": i, "h": h}, NARROW)


def mixed() -> nn.Sequential:
    """Root and one child in training, the other child not."""
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    return model


def test_modes_come_back_submodule_by_submodule_even_after_an_error() -> None:
    model = mixed()

    with pytest.raises(RuntimeError, match="inside"), EvalMode(model)():
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")

    assert [module.training for module in model.modules()] == [True, True, False]


def test_only_the_last_of_several_users_brings_training_back_whatever_they_hold_it_by() -> None:
    model = mixed()

    with EvalMode(model)():
        with EvalMode(model)():
            pass
        assert not model[0].training

    assert model[0].training


def test_a_module_that_does_more_in_train_than_set_a_flag_is_told() -> None:
    class Merging(nn.Dropout):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            super().train(mode)
            return self

    model = Merging().train()

    with EvalMode(model)():
        assert model.merged
    assert not model.merged


def test_an_exported_program_keeps_the_mode_of_its_export() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(2, 1), nn.Dropout()).eval(), (T,)).module()

    with EvalMode(exported)():
        assert not exported.training
    assert exported.training


def test_a_module_whose_parameters_have_no_shape_yet_is_run_by_its_owner_first() -> None:
    with pytest.raises(SignatureError, match="the model has lazy parameters without a shape; run it once before"):
        ModuleCall.learn(nn.LazyLinear(2), T)


def test_a_module_that_nobody_runs_any_more_is_not_kept_alive() -> None:
    model = mixed()
    with EvalMode(model)():
        pass
    gone = weakref.ref(model)

    del model
    gc.collect()

    assert gone() is None


@pytest.mark.parametrize("model", [Two(), Open(), nn.Linear(2, 1)])
def test_a_wrapper_has_the_signature_and_the_attributes_of_forward(model: nn.Module) -> None:
    wrapped = own_signature(lambda *args, **kwargs: (args, kwargs), model)
    assert inspect.signature(wrapped) == inspect.signature(model.forward)
    assert (wrapped.__name__, inspect.unwrap(wrapped)) == ("forward", model.forward)
    assert wrapped(1, y=2) == ((1,), {"y": 2})
    assert not hasattr(wrapped, "_torchdynamo_orig_callable")


class Delegating(nn.Module):
    """Attributes that it does not have are the inner module's, as those of peft's models are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class OfClass(nn.Module):
    config = SimpleNamespace(problem_type="regression")


def test_the_problem_type_is_found_wherever_a_module_has_it() -> None:
    assert problem_type(nn.Linear(2, 1)) == ""
    assert problem_type(OfClass()) == problem_type(Delegating(OfClass())) == "regression"
    configured = nn.Linear(2, 1)
    configured.config = SimpleNamespace(problem_type="multi_label_classification")  # type: ignore[assignment]
    assert problem_type(configured) == problem_type(Delegating(configured)) == "multi_label_classification"
    configured.problem_type = "regression"  # type: ignore[assignment]
    assert problem_type(configured) == "regression"
