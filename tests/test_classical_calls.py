"""The contract of the classical calls: each answers as plain torch does, for five kinds of model, without a sample.

A kind is what a model takes and returns: a tensor; several tensors; named tensors; rows of different lengths; named outputs.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.errors import ConfigError, NogradError
from nograd.sources import folder_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:8-bit integers",  # tiny models may be slower in 8 bits, and a warning says so
    "ignore:float16",  # likewise in half precision
    "ignore:ONNX Runtime",  # a preset that cannot export says that it runs eagerly
    "ignore:the model runs eagerly",  # torch.compile takes no LSTM; the warning says so
    "ignore:no other process will find these answers",
    "ignore::DeprecationWarning",  # of torch's exporters
)

CPU = torch.device("cpu")
ROWS = 10


class Pair(nn.Module):
    """Two tensors in order."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(self.left(a)) * torch.sigmoid(self.right(b))


class Bag(nn.Module):
    """Ids and their mask, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8, padding_idx=0), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.head((self.table(input_ids) * attention_mask.unsqueeze(-1)).sum(1))
        return found


class Reader(nn.Module):
    """Rows of any length, read by an LSTM to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


class Named(nn.Module):
    """Two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.body(x))
        return {"logits": self.head(hidden), "hidden": hidden}


Inputs: TypeAlias = Any
"""A tensor, a tuple of them, or a dict of them."""


@dataclass(frozen=True)
class Kind:
    """A model, and inputs of one row each."""

    model: nn.Module
    rows: Sequence[Inputs]
    output: str | None = None
    """Name of the class scores, if there are several outputs."""

    varies: bool = False
    """Whether rows differ in length, so that they have no common batch."""

    @property
    def batches(self) -> list[Inputs]:
        """The rows as batches: all in one, or rows of each length in one."""
        if not self.varies:
            return [stacked(self.rows)]
        lengths = sorted({len(row) for row in self.rows})
        return [stacked([row for row in self.rows if len(row) == length]) for length in lengths]


def kinds() -> dict[str, Kind]:
    torch.manual_seed(0)
    ids = torch.randint(1, 50, (ROWS, 6))
    return {
        "tensor": Kind(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), list(torch.randn(ROWS, 6))),
        "several tensors": Kind(Pair(), list(zip(torch.randn(ROWS, 6), torch.randn(ROWS, 4), strict=True))),
        "dict": Kind(Bag(), [{"input_ids": row, "attention_mask": torch.ones(6)} for row in ids]),
        "varying length": Kind(Reader(), [torch.randn(3 + index % 4, 5) for index in range(ROWS)], varies=True),
        "dict of outputs": Kind(Named(), list(torch.randn(ROWS, 6)), output="logits"),
    }


KINDS = kinds()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    known = KINDS[request.param]
    return Kind(copy.deepcopy(known.model).eval(), known.rows, known.output, known.varies)


def stacked(rows: Sequence[Inputs]) -> Inputs:
    first = rows[0]
    if isinstance(first, dict):
        return {name: torch.stack([row[name] for row in rows]) for name in first}
    return tuple(map(torch.stack, zip(*rows, strict=True))) if isinstance(first, tuple) else torch.stack(list(rows))


def plain(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What torch answers, called as a user calls a module."""
    with torch.inference_mode():
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def near(found: Any, right: Any, tolerance: float = 1e-5) -> None:
    """Assert the same structure, kinds, shapes and, within a share of the largest value, numbers."""
    if isinstance(right, Mapping):
        assert isinstance(found, Mapping)
        assert list(found) == list(right)
        for name in right:
            near(found[name], right[name], tolerance)
        return
    assert type(found) is type(right)
    assert found.shape == right.shape
    found, right = torch.as_tensor(found), torch.as_tensor(right)
    assert found.dtype == right.dtype
    assert (found - right).abs().max() <= tolerance * max(1.0, float(right.abs().max()))


def rows_of(outputs: Any) -> list[Any]:
    if isinstance(outputs, Mapping):
        return [dict(zip(outputs, each, strict=True)) for each in zip(*outputs.values(), strict=True)]
    return list(outputs)


def right_rows(kind: Kind) -> list[Any]:
    """What torch answers to each row alone, without the batch dimension."""
    return [rows_of(plain(kind.model, stacked([row])))[0] for row in kind.rows]


def joined(rows: Sequence[Any]) -> Any:
    return stacked(rows)


# -- Predictor and those that are called like one

CALLED: dict[str, tuple[Callable[[nn.Module], Any], float]] = {
    "Predictor(model, device)": (lambda model: nograd.Predictor(model, CPU), 1e-5),
    "Predictor(model, device='cpu')": (lambda model: nograd.Predictor(model, device="cpu"), 1e-5),
    "CachedPredictor(model, device)": (lambda model: nograd.CachedPredictor(model, CPU), 1e-5),
    "CachedPredictor(Predictor)": (lambda model: nograd.CachedPredictor(nograd.Predictor(model)), 1e-5),
    "RedisCachedPredictor(model, device, ...)": (
        lambda model: nograd.RedisCachedPredictor(model, CPU, redis_url="redis://127.0.0.1:1/0", ttl_seconds=60),
        1e-5,
    ),
    "LowLatencyPredictor(model, device)": (lambda model: nograd.LowLatencyPredictor(model, CPU), 1e-4),
    "FP16Predictor(model, device)": (lambda model: nograd.FP16Predictor(model, CPU), 1e-2),
}


@pytest.mark.parametrize("call", CALLED)
def test_predict_returns_what_the_model_returns(call: str, kind: Kind) -> None:
    make, tolerance = CALLED[call]
    predictor = make(kind.model)

    for _ in range(2):  # the second time from a cache, or on what the first call taught
        for batch in kind.batches:
            right = plain(kind.model, batch)
            near(predictor.predict(batch), right, tolerance)
            near(predictor(batch), right, tolerance)
    predictor.close()


def test_predict_proba_and_predict_class_read_the_scores(kind: Kind) -> None:
    predictor = nograd.Predictor(kind.model, CPU)

    for batch in kind.batches:
        outputs = plain(kind.model, batch)
        logits = outputs if kind.output is None else outputs[kind.output]
        near(predictor.predict_proba(batch, output=kind.output), logits.softmax(-1))
        near(predictor.predict_class(batch, output=kind.output), logits.argmax(-1))


# -- many rows

BATCHED: dict[str, Callable[[nn.Module], Any]] = {
    "BatchPredictor(model, device, batch_size=4)": lambda model: nograd.BatchPredictor(model, CPU, batch_size=4),
    "BatchPredictor(Predictor)": lambda model: nograd.BatchPredictor(nograd.Predictor(model)),
}


@pytest.mark.parametrize("call", BATCHED)
def test_predict_batch_joins_the_outputs_in_order(call: str, kind: Kind) -> None:
    found = BATCHED[call](kind.model).predict_batch(list(kind.rows))

    near(found, joined(right_rows(kind)))


def test_predict_streams_an_answer_for_each_row(kind: Kind) -> None:
    found = list(nograd.BatchPredictor(kind.model, CPU, batch_size=4).predict(iter(kind.rows)))

    for each, right in zip(found, right_rows(kind), strict=True):
        near(torch.as_tensor(each) if isinstance(each, np.ndarray) else each, right)


def test_high_throughput_returns_one_output_for_each_row(kind: Kind) -> None:
    found = nograd.HighThroughputPredictor(kind.model, CPU, batch_size=4).predict_batch(list(kind.rows))

    assert isinstance(found, list)
    for each, right in zip(found, right_rows(kind), strict=True):
        near(each, right, 1e-4)


@pytest.mark.parametrize("make", [lambda model: model, nograd.Predictor], ids=["module", "Predictor"])
def test_a_batcher_answers_concurrent_requests(make: Callable[[nn.Module], Any], kind: Kind) -> None:
    async def story() -> tuple[list[Any], list[Any]]:
        batcher = nograd.DynamicBatcher(make(kind.model), max_batch_size=4, max_wait_ms=10.0)
        single = [stacked([row]) for row in kind.rows]
        whole = await asyncio.gather(*map(batcher.predict, single))
        rows = await asyncio.gather(*map(batcher.predict, kind.rows))
        await batcher.close()
        return list(whole), list(rows)

    whole, rows = asyncio.run(story())
    for each, row, right in zip(whole, rows, right_rows(kind), strict=True):
        near(rows_of(each)[0], right)
        near(row, right)


# -- files


def test_an_onnx_file_answers_as_the_model_does(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "model.onnx")
    nograd.export_to_onnx(kind.model, kind.batches[0], path, opset_version=18)
    predictor = nograd.ONNXPredictor(path, device="cpu")

    for batch in kind.batches:
        near(predictor.predict(to_numpy(batch)), to_numpy(plain(kind.model, batch)), 1e-4)


def to_numpy(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: value.numpy() for name, value in values.items()}
    return tuple(value.numpy() for value in values) if isinstance(values, tuple) else values.numpy()


@pytest.mark.parametrize("method", ["trace", "script"])
def test_a_loaded_torchscript_file_is_called_as_the_model_is(method: Any, kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "model.pt")
    nograd.export_to_torchscript(kind.model, kind.batches[0], path, method=method)
    loaded = torch.jit.load(path)  # type: ignore[no-untyped-call]

    for batch in kind.batches:
        near(plain(loaded, batch), plain(kind.model, batch))


# -- modules

MODULES: dict[str, tuple[Callable[[Kind], Any], float]] = {
    "quantize_dynamic(model)": (lambda kind: nograd.quantize_dynamic(kind.model), 0.1),
    "quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)": (
        lambda kind: nograd.quantize_dynamic(kind.model, {nn.Linear}, dtype=torch.qint8),
        0.1,
    ),
    "quantize_static(model, loader)": (lambda kind: nograd.quantize_static(kind.model, kind.batches * 4), 0.2),
    "optimize_model_compile(model, mode=..., fullgraph=True)": (
        lambda kind: nograd.optimize_model_compile(kind.model, mode="reduce-overhead", fullgraph=True),
        1e-4,
    ),
}


@pytest.mark.parametrize("call", MODULES)
def test_a_transformed_module_is_called_as_the_model_is(call: str, kind: Kind) -> None:
    make, tolerance = MODULES[call]
    made = make(kind)

    assert isinstance(made, nn.Module)
    for batch in kind.batches:
        near(plain(made, batch), plain(kind.model, batch), tolerance)
    predictor = nograd.Predictor(made, CPU)
    near(predictor.predict(kind.batches[0]), plain(kind.model, kind.batches[0]), tolerance)


def test_a_memory_efficient_model_has_equal_outputs_and_gradients(kind: Kind) -> None:
    layers = [name for name, child in kind.model.named_children() if any(True for _ in child.parameters())]
    checkpointed = nograd.MemoryEfficientModel(kind.model, layers)
    model = copy.deepcopy(kind.model)

    for batch in kind.batches:
        near(plain(checkpointed, batch), plain(model, batch))
        for each in (checkpointed, model):
            total(called(each, batch)).backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip(kind.model.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def called(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def total(outputs: Any) -> Tensor:
    leaves = outputs.values() if isinstance(outputs, Mapping) else [outputs]
    return torch.stack([leaf.square().sum() for leaf in leaves]).sum()


# -- text


def test_a_cached_embedder_runs_a_text_again_when_it_was_least_recently_used() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = folder_of("minilm")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    embedders = [nograd.CachedEmbedder(model, tokenizer, CPU, cache_size=2), nograd.CachedEmbedder("minilm", cache_size=2)]

    for text in ("one text", "another", "one text", "a third text", "one text", "another"):
        tokens = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens)[0].mean(1)[0]
        right = mean / mean.norm()
        for embedder in embedders:
            near(embedder.embed(text), right, 1e-5)
    for embedder in embedders:
        assert embedder.statistics().hits == 2
        near(embedder.embed_many(["a third text", text])[1], right.numpy(), 1e-5)
        embedder.close()


# -- wrong uses

WRONG: dict[str, Callable[[], object]] = {
    "a Predictor where a module is expected": lambda: nograd.quantize_dynamic(nograd.Predictor(KINDS["tensor"].model)),  # type: ignore[arg-type]
    "a name where a model is expected": lambda: nograd.Predictor("minilm"),  # type: ignore[arg-type]
    "a class where a model is expected": lambda: nograd.DynamicBatcher(nn.Linear),  # type: ignore[arg-type]
    "a device that does not exist": lambda: nograd.Predictor(KINDS["tensor"].model, "cuda:77"),
    "a batcher on a device that does not exist": lambda: nograd.DynamicBatcher(KINDS["tensor"].model, "nowhere"),
    "a file that cannot be written": lambda: nograd.export_to_onnx(
        KINDS["tensor"].model, KINDS["tensor"].batches[0], "/proc/nowhere/model.onnx"
    ),
}


@pytest.mark.parametrize("use", WRONG)
def test_a_wrong_use_is_one_sentence(use: str) -> None:
    with pytest.raises(NogradError) as error:
        WRONG[use]()

    assert isinstance(error.value, ConfigError)
    assert "\n" not in str(error.value)
    assert not str(error.value).endswith(".")
