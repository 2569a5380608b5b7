"""Compiled modules: called as the model is, equal answers at every size, another way with the reason if compiling fails."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.backends.compiling import EAGER, ExecutionMode, failure_of, next_way, reason_of
from nograd.errors import ConfigError
from tests.kinds_of_model import MODELS, assert_equal, call, make_inputs, make_model


def test_after_too_many_sizes_come_dynamic_shapes_and_then_eager() -> None:
    first = ExecutionMode(dynamic=None)
    second = next_way(first, "limit", fullgraph=True, can_be_dynamic=True)

    assert second == ExecutionMode(dynamic=True)
    assert next_way(second, "limit", fullgraph=True, can_be_dynamic=True) == EAGER
    assert next_way(first, "limit", fullgraph=True, can_be_dynamic=False) == EAGER


def test_a_graph_break_is_compiled_in_pieces_unless_they_are_forbidden() -> None:
    pieces = next_way(ExecutionMode(), "break", fullgraph=False, can_be_dynamic=True)

    assert pieces == ExecutionMode(in_one_piece=False)
    assert next_way(pieces, "break", fullgraph=False, can_be_dynamic=True) == EAGER
    assert next_way(ExecutionMode(), "break", fullgraph=True, can_be_dynamic=True) == EAGER
    assert next_way(ExecutionMode(), "other", fullgraph=False, can_be_dynamic=True) == EAGER


@pytest.mark.parametrize("kind", MODELS)
def test_a_compiled_module_answers_as_the_module_and_works_in_a_predictor(kind: str) -> None:
    model = make_model(kind)
    compiled = nograd.optimize_model_compile(model, mode="reduce-overhead")
    predictor = nograd.Predictor(compiled, sample=make_inputs(kind, 3))

    for rows in (1, 4):
        inputs = make_inputs(kind, rows)
        assert_equal(call(compiled, inputs), call(model, inputs))
        assert_equal(predictor.predict(inputs), call(model, inputs))
    assert compiled.num_graphs > 0 or "RNN" in compiled.reason or "LSTM" in compiled.reason, compiled.reason


def test_it_behaves_as_a_compiled_module_of_torch() -> None:
    model = make_model("tensor")
    compiled, of_torch = nograd.optimize_model_compile(model), cast("nn.Module", torch.compile(model))

    assert isinstance(compiled, nn.Module)
    assert list(compiled.state_dict()) == list(of_torch.state_dict())
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in of_torch.named_parameters()]
    compiled.train()
    assert (compiled.training, model.training) == (True, True)
    model.eval()
    assert not compiled.training
    compiled.to(torch.float64)
    assert next(model.parameters()).dtype == torch.float64
    compiled.load_state_dict(of_torch.state_dict())
    assert copy.deepcopy(compiled).original is not model
    assert compiled.num_graphs == 0


class EachSizeIsAnother(nn.Module):
    """Python that torch.compile can only follow for one size at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return x * sum([2.0] * x.shape[1])


class EachDepthIsAnother(nn.Module):
    """The same over a middle axis, with named inputs and a tuple."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for index in range(x.shape[1]):
            y = y + x[:, index]
        return y, x


@pytest.mark.parametrize(("kind", "fullgraph"), [(EachSizeIsAnother, True), (EachDepthIsAnother, False)])
def test_beyond_the_limit_of_recompilations_every_size_is_answered(kind: type[nn.Module], fullgraph: bool) -> None:
    model, sizes = kind(), range(2, 7)
    compiled = nograd.optimize_model_compile(model, fullgraph=fullgraph)

    with torch._dynamo.config.patch(recompile_limit=1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for size in sizes:
            inputs: Any = torch.rand(3, size) if kind is EachSizeIsAnother else (torch.rand(3, size, 4), torch.rand(3, 4))
            assert_equal(call(compiled, inputs), call(model, inputs))

    said = [str(each.message) for each in caught if "runs eagerly" in str(each.message)]
    assert said == [
        "the model runs eagerly, not compiled: it was given more sizes than torch.compile's limit of recompilations allows"
    ]
    assert compiled.reason


class Refuses(nn.Module):
    """Has an error of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(f"three columns, not {x.shape[1]}")
        return x + 1


def test_an_error_of_the_model_is_raised_as_it_is_and_changes_nothing() -> None:
    compiled = nograd.optimize_model_compile(Refuses(), fullgraph=True)

    with pytest.raises(ValueError, match="three columns, not 2"):
        compiled(torch.ones(1, 2))
    assert compiled(torch.ones(1, 3)).tolist() == [[2, 2, 2]]
    assert (compiled.way, compiled.reason) == (ExecutionMode(), "")


def test_a_missing_compiler_is_the_reason_in_one_sentence() -> None:
    from torch._inductor.exc import InvalidCxxCompiler

    error = RuntimeError("backend='inductor' raised")
    error.__cause__ = InvalidCxxCompiler()

    assert reason_of(error) == "torch.compile found no working C++ compiler; on Debian: apt-get install g++"
    assert failure_of(error) == "other"


def test_with_a_sample_it_is_compiled_at_once_and_runs_named_arrays() -> None:
    model = make_model("named")
    compiled = nograd.optimize_model_compile(model, make_inputs("named", 3), batch_sizes=[1, 4], lengths=[8])
    inputs = make_inputs("named", 4)

    graphs = compiled.num_graphs
    assert graphs > 0
    assert_equal(compiled(inputs), call(model, inputs))  # one dict: spread over the parameters
    found = compiled.run({name: tensor.numpy() for name, tensor in inputs.items()})
    assert_equal(torch.from_numpy(found["output"]), call(model, inputs))
    assert compiled.signature.batching == "pad"


def test_an_export_of_a_compiled_module_starts_from_the_module(tmp_path: Path) -> None:
    model, inputs = make_model("tensor"), make_inputs("tensor")
    nograd.export_to_torchscript(nograd.optimize_model_compile(model), inputs, tmp_path / "m.pt")

    assert_equal(nograd.load(str(tmp_path / "m.pt"), trusted=True).predict(inputs), call(model, inputs))


def test_wrong_uses_are_one_sentence() -> None:
    model = make_model("tensor")

    with pytest.raises(ConfigError, match=r"^model is a Predictor; give the torch.nn.Module that it runs, or its `.backend`$"):
        nograd.optimize_model_compile(nograd.Predictor(model))  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="mode is 'fast'; it must be one of default"):
        nograd.optimize_model_compile(model, mode="fast")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="has no backend, because no sample was given"):
        nograd.optimize_model_compile(model).run({})
