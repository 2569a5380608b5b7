"""What the tests' real servers serve: `nograd serve served_models:tiny`, from this folder. torch is imported late."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd import Backend, Predictor, Signature, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nograd.core.tensors import Batch

GATE_VARIABLE = "NOGRAD_TEST_GATE"
"""Environment variable with the port on which a test waits for the gated model to call."""

GATE = 42.0
"""A row that begins with this value makes the gated model call its test, and wait until that hangs up."""


def tiny() -> Predictor:
    """Linear(16, 4): input `x` FP32 [-1, 16], output `output` FP32 [-1, 4]."""
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.linear(x)
            return answer

    torch.manual_seed(0)
    return Predictor(Tiny(), sample=torch.randn(2, 16))


class Spell:
    """A preprocess: the bytes of a text, and a mask."""

    item = TensorSpec("text", "bytes")

    def __call__(self, text: str) -> dict[str, Any]:
        codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        return {"codes": codes, "attention_mask": np.ones_like(codes)}


def echo() -> Predictor:
    """Text to numbers: input `text` BYTES [-1], output `embedding` FP32 [-1, 8]; longer texts pad shorter ones."""
    import torch

    class Embed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters = torch.nn.Embedding(256, 8)

        def forward(self, codes: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            weights = attention_mask.unsqueeze(-1).float()
            return {"embedding": (self.letters(codes) * weights).sum(1) / weights.sum(1)}

    torch.manual_seed(0)
    return Predictor(Embed(), preprocess=Spell(), sample=["hello", "a longer text"])


class Dense(Backend):
    """The layer of `tiny` without torch: its server starts with a third of the processor time (2026-12-01)."""

    name = "dense"
    device = "cpu"
    signature = Signature(
        (TensorSpec("x", "float32", (16,)),), (TensorSpec("output", "float32", (4,)),), reason="rows are independent"
    )
    weight = np.random.default_rng(0).standard_normal((4, 16), np.float32) / 4

    def run(self, batch: Batch) -> Batch:
        with np.errstate(all="ignore"):  # torch is silent, too
            return {"output": (batch["x"][:, None, :] * self.weight).sum(-1)}


def dense() -> Predictor:
    """Input `x` FP32 [-1, 16], output `output` FP32 [-1, 4], as `tiny`."""
    return Predictor(Dense())


class Letters(Backend):
    """The model of `echo` without torch: the mean of a table's rows over the letters that are not masked."""

    name = "letters"
    device = "cpu"
    signature = Signature(
        (TensorSpec("codes", "int64", ("tokens",), limits=(0, 255)), TensorSpec("attention_mask", "int64", ("tokens",))),
        (TensorSpec("embedding", "float32", (8,)),),
        reason="padding is masked",
    )
    table = np.random.default_rng(0).standard_normal((256, 8), np.float32)

    def run(self, batch: Batch) -> Batch:
        weights = batch["attention_mask"][:, :, None].astype(np.float32)
        with np.errstate(all="ignore"):
            return {"embedding": (self.table[batch["codes"]] * weights).sum(1) / weights.sum(1)}


def letters() -> Predictor:
    """Input `text` BYTES [-1], output `embedding` FP32 [-1, 8], as `echo`."""
    return Predictor(Letters(), preprocess=Spell(), sample=["hello", "a longer text"])


class Gated(Backend):
    """Doubles `x` FP32 [-1, 2]; a GATE makes it wait for its test."""

    name = "gated"
    device = "cpu"
    signature = Signature(
        (TensorSpec("x", "float32", (2,)),), (TensorSpec("output", "float32", (2,)),), reason="rows are independent"
    )

    def run(self, batch: Batch) -> Batch:
        np.sort(np.arange(200_000) * 7919 % 200_003)  # longer than a hand-over: such a model gets a thread of its own
        if (batch["x"][:, 0] == GATE).any():
            with socket.create_connection(("127.0.0.1", int(os.environ[GATE_VARIABLE]))) as test:
                test.recv(1)
        return {"output": batch["x"] * 2}


def gated() -> Predictor:
    return Predictor(Gated())


class Scaled(Backend):
    """`x` FP32 [-1, 16] times 1.1: a row's answer is the same bits in any company."""

    name = "scaled"
    device = "cpu"
    signature = Signature(
        (TensorSpec("x", "float32", (16,)),), (TensorSpec("output", "float32", (16,)),), reason="rows are independent"
    )

    def run(self, batch: Batch) -> Batch:
        with np.errstate(over="ignore"):
            return {"output": batch["x"] * np.float32(1.1)}


class Odd(Scaled):
    """The same for 257 numbers: a row has 1028 bytes, so no short JSON is the bytes of one by accident."""

    signature = Signature(
        (TensorSpec("x", "float32", (257,)),), (TensorSpec("output", "float32", (257,)),), reason="rows are independent"
    )


def odd() -> Predictor:
    return Predictor(Odd())


def scaled() -> Predictor:
    return Predictor(Scaled())


def unfinished() -> Predictor:
    """As `scaled`, but where the file is that MARKER_VARIABLE names."""
    if Path(os.environ[MARKER_VARIABLE]).exists():
        raise RuntimeError("its file is half written")
    return scaled()


class Lengths(Backend):
    """`text` BYTES [-1] to `embedding` FP32 [-1, 2]: its letters, and a third of them."""

    name = "lengths"
    device = "cpu"
    signature = Signature(
        (TensorSpec("text", "bytes"),), (TensorSpec("embedding", "float32", (2,)),), reason="rows are independent"
    )

    def run(self, batch: Batch) -> Batch:
        return {"embedding": np.array([[len(text), len(text) / 3] for text in batch["text"]], np.float32)}


def lengths() -> Predictor:
    return Predictor(Lengths())


class Columns(Backend):
    """How bright each column of a grey picture is, as scores: the lightest column is the likeliest class."""

    name = "columns"
    device = "cpu"
    signature = Signature((TensorSpec("image", "float32", (1, 8, 8)),), (TensorSpec("scores", "float32", (8,)),))

    def run(self, batch: Batch) -> Batch:
        return {"scores": batch["image"].mean(axis=(1, 2))}


def columns() -> Predictor:
    return Predictor(Columns())


def telling() -> Predictor:
    """Numbers to text: input `x` FP32 [-1, 2], outputs `word` and `facts` BYTES [-1]; the facts are JSON."""

    def tell(row: Any) -> dict[str, Any]:
        return {"word": "<b>much</b>" if row[0] > 1 else "little", "facts": {"largest": float(max(row))}}

    return Predictor(Gated(), postprocess=tell)


LIFE_VARIABLE = "NOGRAD_TEST_LIFE"
"""Environment variable with the rows that `mortal` runs before its process gets a signal, and the signal: `100 SIGKILL`."""


class Mortal(Backend):
    """Answers `x` FP32 [-1, 2] with its sum, and with the company that it had: other batches would give other answers."""

    name = "mortal"
    device = "cpu"
    signature = Signature(
        (TensorSpec("x", "float32", (2,)),),
        (TensorSpec("sum", "float32"), TensorSpec("company", "float32", (3,))),
        reason="rows are independent",
    )

    def __init__(self) -> None:
        life, _, name = os.environ.get(LIFE_VARIABLE, "").partition(" ")
        self._rows_left = int(life or -1)
        self._signal = signal.Signals[name or "SIGKILL"]

    def run(self, batch: Batch) -> Batch:
        rows = batch["x"]
        if (rows[:, 0] == GATE).any():
            raise ValueError("42 is not served here")
        if 0 < self._rows_left <= len(rows):
            os.kill(os.getpid(), self._signal)
        self._rows_left -= len(rows)
        company = np.tile([len(rows), rows.sum(), rows[:, 0].max()], (len(rows), 1)).astype(np.float32)
        return {"sum": rows.sum(1), "company": company}


def mortal() -> Predictor:
    return Predictor(Mortal())


MARKER_VARIABLE = "NOGRAD_TEST_MARKER"
"""Environment variable with a file that the first process of `fragile` to run a FATAL row leaves, when it ends there."""

FATAL = 77.0


class Fragile(Mortal):
    """As `mortal`; a FATAL row ends the process that runs it, the first time."""

    def run(self, batch: Batch) -> Batch:
        if (batch["x"][:, 0] == FATAL).any() and not Path(os.environ[MARKER_VARIABLE]).exists():
            Path(os.environ[MARKER_VARIABLE]).touch()
            os._exit(1)
        return super().run(batch)


def fragile() -> Predictor:
    return Predictor(Fragile())


def raising() -> Predictor:
    raise RuntimeError("the weights are gone")


def bare() -> nn.Module:
    import torch

    return torch.nn.Linear(2, 2)


def example() -> nn.Module:
    """A bare module that says itself what it takes, as Lightning's do."""
    import torch

    model = torch.nn.Linear(2, 2)
    model.example_input_array = torch.zeros(1, 2)
    return model


def no_model() -> str:
    return "weights"


not_callable = "weights"


def branching() -> Predictor:
    """A model whose answer takes a branch on its data, which a trace cannot record."""
    import torch

    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x - 1

    return Predictor(Branching(), sample=torch.ones(2, 3))
