"""Models that `benchmarks.attack` serves: numbers, wide answers, tokenized texts, slow user code, and a failing model."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from nograd import Backend, Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch
from nograd.text import Tokenize


class Function(Backend):
    """Calls a numpy function. The models need no torch, so that a server starts at once."""

    name, device, lanes = "numpy", "cpu", 1

    def __init__(self, function: Any, signature: Signature) -> None:
        self._function = function
        self.signature = signature

    def run(self, batch: Batch) -> Batch:
        outputs: Batch = self._function(batch)
        return outputs


def _floats(function: Any, takes: int | str, returns: int | str) -> Function:
    inputs, outputs = TensorSpec("x", "float32", (takes,)), TensorSpec("y", "float32", (returns,))
    return Function(lambda batch: {"y": function(batch["x"])}, Signature((inputs,), (outputs,), reason="rows are independent"))


def _failing(x: Any) -> Any:
    if (x > 1000).any():
        raise ValueError(f"no such index: {x.max()}")
    return x * np.float32(2)


def linear() -> Predictor:
    """Four numbers to twice their value."""
    return Predictor(_floats(lambda x: x * np.float32(2), 4, 4), sample={"x": np.ones((2, 4), np.float32)})


def failing() -> Predictor:
    """As `linear`; numbers above 1000 fail with a traceback in the log."""
    return Predictor(_floats(_failing, 4, 4), sample={"x": np.ones((2, 4), np.float32)})


def any_length() -> Predictor:
    """Rows of any length."""
    return Predictor(_floats(lambda x: x * np.float32(2), "n", "n"), sample={"x": np.ones((2, 4), np.float32)})


def wide() -> Predictor:
    """Four numbers to a million."""
    return Predictor(_floats(lambda x: np.repeat(x, 250_000, axis=1), 4, 1_000_000), sample={"x": np.ones((2, 4), np.float32)})


def _codes(function: Any, dtype: str) -> Function:
    inputs, outputs = TensorSpec("input_ids", dtype, ("tokens",)), TensorSpec("embedding", "float32", (2,))
    signature = Signature((inputs,), (outputs,), reason="padding with 0 changes nothing")
    return Function(lambda batch: {"embedding": function(batch["input_ids"])}, signature)


def _sums(ids: Any) -> Any:
    return np.repeat(ids.sum(axis=1, keepdims=True), 2, axis=1).astype(np.float32)


def text() -> Predictor:
    """Texts to the number of their words, tokenized by a regular tokenizer without a limit of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    prepare = Tokenize(words, names=("input_ids",))
    return Predictor(_codes(_sums, "int64"), preprocess=prepare, sample=["word", "word word word"])


def _wait(value: str) -> Any:
    time.sleep(float(value))
    return {"input_ids": np.zeros(1, np.int64)}


def slow_before() -> Predictor:
    """A `preprocess` that sleeps for as many seconds as its text says."""
    return Predictor(_codes(_sums, "int64"), preprocess=_wait, sample=["0", "0.0"])


def _length(value: str) -> Any:
    return {"input_ids": np.full(1, int(value), np.int64)}


def _sleep(outputs: Any) -> Any:
    time.sleep(float(np.ravel(next(iter(outputs.values())) if isinstance(outputs, dict) else outputs)[0]))
    return {"slept": 1.0}


def slow_after() -> Predictor:
    """A `postprocess` that sleeps for as many seconds as its text says."""
    return Predictor(_codes(_sums, "int64"), preprocess=_length, postprocess=_sleep, sample=["0", "0"])
