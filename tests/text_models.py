"""Models of text, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nograd import Predictor, Signature, TensorSpec
from nograd.core.tensors import Array, Batch
from tests.fakes import Fake

TEXT = TensorSpec("text", "bytes")
VECTOR = TensorSpec("embedding", "float32", (3,))


def vector(text: str) -> list[float]:
    """What `embedding` holds of a text: its length, its first letter, a number that float32 does not hold exactly."""
    return [len(text), ord(text[:1] or "\0"), len(text) / 3]


def vectors(texts: Any) -> Array:
    return np.array([vector(text) for text in texts], dtype=np.float32)


def embedder(*outputs: TensorSpec) -> Fake:
    """Text to the vector, under the name and in the dtype of each output."""
    specs = outputs or (VECTOR,)

    def run(batch: Batch) -> Batch:
        found = vectors(batch["text"])
        return {spec.name: found[:, : spec.shape[0]].astype(spec.dtype) for spec in specs}

    return Fake(run, Signature((TEXT,), specs, reason="rows are independent"))


def constant(value: float) -> Fake:
    """Any text to the same number, three times."""
    return Fake(
        lambda batch: {"embedding": np.full((len(batch["text"]), 3), value, np.float32)},
        Signature((TEXT,), (VECTOR,), reason="rows are independent"),
    )


class Letters:
    """A preprocess that says how many tokens a text has: a letter is one."""

    item = TEXT

    def __call__(self, text: str) -> Mapping[str, Array]:
        return {"codes": np.array([ord(letter) for letter in text], dtype=np.int64)}

    def num_tokens(self, text: str) -> int:
        if text == "?":
            raise KeyError(text)
        return len(text)


def counted() -> Predictor:
    """Text to the sum of its letters, thrice; tokens are counted."""
    codes = TensorSpec("codes", "int64", ("tokens",))
    fake = Fake(
        lambda batch: {"embedding": np.repeat(batch["codes"].sum(1, keepdims=True), 3, axis=1).astype(np.float32)},
        Signature((codes,), (VECTOR,), reason="padding with 0 changes nothing"),
    )
    return Predictor(fake, preprocess=Letters(), sample=["a text"])
