"""Gradients with less memory, the measured peak, and batches cut until they fit."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from nograd import Predictor
from nograd.backends.eager import eager_backend
from nograd.core.module import EvalMode
from nograd.core.tensors import Batch, Signature, TensorSpec
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.transforms.memory import MemoryEfficientModel, SplittingBackend, find_layers, peak_bytes
from tests.fakes import Fake


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    """Keywords, a tuple, a buffer, dropout, and batch norm; counts its runs."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("shift", torch.ones(width))
        self.runs = 0

    def forward(self, x: Tensor, *, scale: float, debug: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        self.runs += 1
        hidden = self.dropout(torch.tanh(self.norm(self.linear(x)))) * scale + self.shift
        return hidden if debug is None else hidden + debug, {"before": x}


class Stack(nn.Module):
    """Blocks, one of them twice, between an embedding and a head of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        shared = Block()
        self.blocks = nn.ModuleList([shared, Block(), Block(), shared])
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        hidden = self.embedding(ids)
        for block in self.blocks:
            hidden, extra = block(hidden, scale=0.5, debug=weights)
            hidden = hidden + extra["before"]
        logits: Tensor = self.head(hidden)
        return logits


IDS = torch.tensor([1, 2, 3, 9])


def gradients(run: Callable[..., Tensor], model: nn.Module, *args: Any, mode: bool = True) -> dict[str, Tensor]:
    """Return the gradient of every parameter, by name."""
    torch.manual_seed(1)
    model.train(mode)
    model.zero_grad()
    backward(run(*args).square().sum())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys() != set()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def encoder() -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)


@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_equal_with_dropout_keywords_tuples_tied_weights_and_a_shared_block(mode: bool) -> None:
    model = Stack()
    twin = copy.deepcopy(model)

    got = gradients(MemoryEfficientModel(model), model, IDS, mode=mode)

    assert_same(got, gradients(twin, twin, IDS, mode=mode))
    assert len(got) == 13  # the tied weight once, and of three blocks two times weight and bias


def test_the_peak_of_a_deep_encoder_falls_and_its_gradients_stay() -> None:
    model = encoder()
    x = torch.randn(8, 32, 32)
    lighter = MemoryEfficientModel(model)
    plain = gradients(model, model, x)

    assert_same(gradients(lighter, model, x), plain)
    before = peak_bytes(lambda: backward(model(x).sum()))
    after = peak_bytes(lambda: backward(lighter(x).sum()))

    assert lighter.layers == tuple(f"layers.{i}" for i in range(8))
    assert after < before / 3
    assert after == peak_bytes(lambda: backward(lighter(x).sum()))


def test_a_transformer_explains_itself_in_less_memory_with_equal_gradients() -> None:
    model = bert()
    lighter = MemoryEfficientModel(model)
    x = torch.randn(4, 64, 32, requires_grad=True)

    def run(called: nn.Module) -> Tensor:
        state: Tensor = called(inputs_embeds=x).last_hidden_state
        return state

    def explained(called: nn.Module) -> Tensor:
        return torch.autograd.grad(run(called).square().sum(), x)[0]

    assert lighter.layers == tuple(f"encoder.layer.{i}" for i in range(6))
    assert_same(gradients(run, model, lighter), gradients(run, model, model))
    model.eval().requires_grad_(requires_grad=False)
    assert torch.equal(explained(lighter), explained(model))
    assert peak_bytes(lambda: explained(lighter)) < peak_bytes(lambda: explained(model)) / 2


def bert() -> nn.Module:
    """Return an encoder of transformers with MiniLM's six layers, narrow and with random weights."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 64}
    model: nn.Module = BertModel(BertConfig(**sizes, vocab_size=100, max_position_embeddings=64))
    return model


def test_without_gradients_it_runs_the_model_itself_and_keeps_nothing_back() -> None:
    model = Stack()
    lighter = MemoryEfficientModel(model).eval()
    frozen = MemoryEfficientModel(copy.deepcopy(model).requires_grad_(requires_grad=False))

    with torch.no_grad():
        answer = lighter(IDS)
    assert torch.equal(answer, model(IDS).detach())
    assert not frozen(IDS).requires_grad
    assert [block.runs for block in model.blocks] == [4, 2, 2, 4]


def test_gradients_reach_an_input_of_a_frozen_model_and_a_keyword_of_a_layer() -> None:
    model = Stack().requires_grad_(requires_grad=False).eval()
    lighter = MemoryEfficientModel(model)
    inputs = [torch.ones(4, 8, requires_grad=True) for _ in range(2)]

    lighter(IDS, weights=inputs[0]).square().sum().backward()
    model(IDS, weights=inputs[1]).square().sum().backward()

    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert model.blocks[1].runs == 2  # by each forward once; the backward pass runs a copy


def test_a_layer_runs_again_in_the_mode_in_which_it_ran_though_the_model_has_changed_its_own() -> None:
    model = Stack().train()
    lighter = MemoryEfficientModel(model)
    with EvalMode(model)():
        want = torch.autograd.grad(model(IDS).square().sum(), model.embedding.weight)
        loss = lighter(IDS).square().sum()

    assert torch.equal(torch.autograd.grad(loss, model.embedding.weight)[0], want[0])
    assert all(module.training for module in model.modules())


def test_batch_norm_counts_each_batch_once() -> None:
    model = Stack()
    twin = copy.deepcopy(model)

    gradients(MemoryEfficientModel(model), model, IDS)
    gradients(twin, twin, IDS)

    assert_same(dict(model.named_buffers()), dict(twin.named_buffers()))


def test_the_callers_model_is_left_as_it_was() -> None:
    model = Stack()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    lighter = MemoryEfficientModel(model)

    lighter(IDS).sum().backward()

    changed = {name: module.__dict__.keys() ^ before[name].keys() for name, module in model.named_modules()}
    assert not any(changed.values())
    assert all(module._modules is before[name]["_modules"] for name, module in model.named_modules())


def test_its_state_dict_is_the_models_by_itself_and_inside_another_module() -> None:
    model, other = Stack(), Stack()
    lighter = MemoryEfficientModel(model)
    outer = nn.Sequential(MemoryEfficientModel(Stack()))

    assert list(lighter.state_dict()) == list(model.state_dict())
    assert list(outer.state_dict()) == [f"0.{name}" for name in model.state_dict()]
    lighter.load_state_dict(other.state_dict())
    outer.load_state_dict(nn.Sequential(other).state_dict())
    assert_same(dict(model.state_dict()), dict(other.state_dict()))
    assert_same(dict(outer.state_dict()), {f"0.{name}": value for name, value in other.state_dict().items()})


def test_a_deep_copy_works_on_parameters_of_its_own() -> None:
    lighter = MemoryEfficientModel(Stack())
    twin = copy.deepcopy(lighter)

    assert_same(gradients(twin, twin, IDS), gradients(lighter, lighter, IDS))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in lighter.parameters()}


def test_it_has_the_models_signature_so_a_backend_finds_the_names_of_its_inputs() -> None:
    lighter = MemoryEfficientModel(Stack().eval())

    backend = eager_backend(lighter, [IDS])

    assert list(inspect.signature(lighter.forward).parameters) == ["ids", "weights"]
    assert [spec.name for spec in backend.signature.inputs] == ["ids"]


def test_layers_are_given_by_name_by_class_or_as_a_whole_list_and_an_inner_one_is_dropped() -> None:
    model = Stack()

    assert MemoryEfficientModel(model, layers=["blocks.1"]).layers == ("blocks.1",)
    assert MemoryEfficientModel(model, layers=["blocks.1.linear", "blocks.1"]).layers == ("blocks.1",)
    assert MemoryEfficientModel(model, layers=[Block]).layers == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert MemoryEfficientModel(model, layers=["blocks"]).layers == ("blocks.0", "blocks.1", "blocks.2")
    assert MemoryEfficientModel(model, layers=[Stack]).layers == ("",)


@pytest.mark.parametrize("layers", [[Stack], [nn.Linear], ["blocks.1.linear", "head"]])
def test_gradients_are_equal_whatever_was_chosen(layers: list[Any]) -> None:
    model = Stack()
    twin = copy.deepcopy(model)

    assert_same(gradients(MemoryEfficientModel(model, layers=layers), model, IDS), gradients(twin, twin, IDS))


def test_repeated_blocks_of_a_sequential_are_found_and_plain_layers_are_not() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2)))

    assert find_layers(nn.Sequential(nn.Linear(2, 2), blocks, nn.Linear(2, 2))) == ("1.0", "1.1")
    assert find_layers(nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.Dropout()])})) == ("a.0",)


def test_a_name_or_a_class_that_the_model_does_not_have_is_an_error_with_those_that_it_has() -> None:
    with pytest.raises(
        ConfigError, match=r"layers contains 'block.1', which is not a module of the model; similar names: 'blocks.1'"
    ):
        MemoryEfficientModel(Stack(), layers=["block.1"])
    with pytest.raises(ConfigError, match=r"the class Conv2d; the model has modules of: 'BatchNorm1d', 'Block', "):
        MemoryEfficientModel(Stack(), layers=[nn.Conv2d])


def test_a_model_without_repeated_blocks_is_an_error_that_names_its_modules() -> None:
    with pytest.raises(ConfigError, match=r"Sequential has no ModuleList, and no Sequential with repeated blocks; .*'0', '1'"):
        MemoryEfficientModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_a_container_whose_forward_was_replaced_is_refused() -> None:
    model = Stack()
    model.forward = model.forward  # type: ignore[method-assign]  # bound to the original, as hooks and compilers do

    with pytest.raises(UnsupportedError, match="module 'at the root' is a Stack whose forward was compiled or replaced"):
        MemoryEfficientModel(model)


def test_the_peak_counts_what_is_held_at_once_beyond_what_was_there() -> None:
    kept = torch.ones(1000)

    def work() -> None:
        first = torch.ones(256)
        second = first + first
        del first
        torch.empty(128).copy_(second[:128]).add_(kept[:128])

    assert peak_bytes(work) == 2 * 1024
    with pytest.raises(ConfigError, match="device is 'meta'; the peak can be measured on 'cpu' and 'cuda'"):
        peak_bytes(work, device="meta")


class Fits:
    """A model that takes so many elements at once, and remembers the rows of each run."""

    def __init__(self, max_elements: int, error: BaseException | None = None) -> None:
        self.max_elements = max_elements
        self.error = error or MemoryError()
        self.rows: list[int] = []

    def __call__(self, batch: Batch) -> Batch:
        self.rows.append(len(batch["x"]))
        if batch["x"].size > self.max_elements:
            raise ModelError("the model raised") from self.error
        return {"output": batch["x"] * 2}


ROWS = Signature((TensorSpec("x", "float32", ("tokens",)),), (TensorSpec("output", "float32", ("tokens",)),))


def rows(count: int, tokens: int = 1) -> Batch:
    return {"x": np.arange(count * tokens, dtype=np.float32).reshape(count, tokens)}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_batch_that_does_not_fit_runs_in_halves_and_the_next_is_cut_before_it_runs(error: BaseException) -> None:
    model = Fits(3, error)
    backend = SplittingBackend(Fake(model, ROWS))

    answer = backend.run(rows(8))
    first, model.rows = model.rows, []

    assert (answer["output"] == rows(8)["x"] * 2).all()
    assert first == [8, 4, 2, 2, 2, 2]
    assert (backend.run(rows(5))["output"] == rows(5)["x"] * 2).all()
    assert model.rows == [2, 2, 1]


def test_what_fits_is_remembered_by_rows_times_length() -> None:
    model = Fits(16)
    backend = SplittingBackend(Fake(model, ROWS))
    backend.run(rows(4, tokens=8))
    model.rows = []

    for tokens in (8, 4, 16):
        backend.run(rows(4, tokens))

    assert model.rows == [2, 2, 4, 1, 1, 1, 1]


def test_a_row_that_does_not_fit_alone_is_the_error_and_others_are_not_cut_for_it() -> None:
    model = Fits(4)
    backend = SplittingBackend(Fake(model, ROWS))

    with pytest.raises(ModelError):
        backend.run(rows(2, tokens=5))
    model.rows = []
    backend.run(rows(4))

    assert model.rows == [4]


@pytest.mark.parametrize("batching", ["alone", "pad"])
def test_nothing_is_cut_where_rows_depend_on_each_other_or_memory_is_not_the_cause(batching: Any) -> None:
    error = MemoryError() if batching == "alone" else RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    model = Fits(1, error)
    backend = SplittingBackend(Fake(model, Signature(ROWS.inputs, ROWS.outputs, batching=batching)))

    with pytest.raises(ModelError):
        backend.run(rows(4))

    assert model.rows == [4]


def test_it_is_the_backend_in_all_else() -> None:
    inner = Fake(dict, ROWS, lanes=3)
    backend = SplittingBackend(inner)

    backend.limit_threads(1)
    assert (backend.name, backend.device, backend.lanes, backend.signature) == ("fake", "cpu", 3, ROWS)
    assert backend.restore({"output": 1}) == 1
    with backend:
        pass


def test_layers_are_the_second_argument_as_modules_classes_or_names() -> None:
    model = Stack()
    blocks = ("blocks.0", "blocks.1", "blocks.2", "blocks.3")

    assert MemoryEfficientModel(model, {Block}).layers == blocks
    assert MemoryEfficientModel(model, Block).layers == blocks
    assert MemoryEfficientModel(model, model.blocks).layers == MemoryEfficientModel(model, ["blocks"]).layers
    assert MemoryEfficientModel(model, [model.blocks[1], "blocks.2"]).layers == ("blocks.1", "blocks.2")
    assert_same(gradients(MemoryEfficientModel(model, [model.blocks[1]]), model, IDS), gradients(model, model, IDS))


def test_what_is_not_a_module_of_the_model_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="layers contains a Linear that is not a module of the model"):
        MemoryEfficientModel(Stack(), [nn.Linear(2, 2)])
    with pytest.raises(ConfigError, match="layers contains 3; it must contain names, classes or modules of the model"):
        MemoryEfficientModel(Stack(), [3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^model is a Predictor; give the torch.nn.Module that it runs"):
        MemoryEfficientModel(Predictor(Stack()))  # type: ignore[arg-type]
