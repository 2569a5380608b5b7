"""What stands before and behind the model: preprocess, postprocess, what an item is, and one of them as an example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.bundle.manifest import Described, FactoryStep, ImportedStep, Step, TokenizeStep
from nograd.bundle.naming import find, named
from nograd.core.inputs import to_host
from nograd.core.tensors import TensorSpec
from nograd.errors import ConfigError, ModelLoadError, UnsupportedError
from nograd.text.tokenizing import Tokenize

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor

__all__ = ["EXAMPLE", "TOKENIZER", "Front", "read_example", "read_step"]

EXAMPLE = "example.safetensors"
TOKENIZER = "tokenizer.json"

ITEM = "item"
"""The key of an example that is one array; others have the model's input names behind a dot."""


@dataclass(frozen=True, slots=True)
class Front:
    """What a Predictor has beside its backend."""

    preprocess: Callable[[Any], Any] | None = None
    """A `nograd.text.Tokenize`, which the bundle then holds whole; or a callable that a module holds under a name."""

    postprocess: Callable[[Any], Any] | None = None
    item: TensorSpec | None = None
    """What one item is, for servers."""

    example: Any = None
    """One item; without `preprocess` one row by input name, `[1, ...]`; None: zeros."""

    @classmethod
    def of(cls, predictor: Predictor) -> Front:
        """Return a Predictor's own."""
        try:
            example = predictor.example
        except UnsupportedError:  # no sample was given
            example = None
        return cls(predictor.preprocess, predictor.postprocess, predictor.item, example)

    def check(self, *, by_factory: bool = False) -> None:
        """Raise where a bundle could not hold it; ask before work that takes long.

        Args:
            by_factory: the model's factory returns a Predictor, so that what has no name comes from there.

        Raises:
            ConfigError: `preprocess` or `postprocess` cannot be found under a name, or the example cannot be written.
        """
        _step(self.preprocess, "preprocess", by_factory=by_factory)
        _step(self.postprocess, "postprocess", by_factory=by_factory)
        _split(self.example)

    def write(self, folder: Path, *, by_factory: bool) -> dict[str, Any]:
        """Write the tokenizer and an example of arrays into a folder; return the fields of `Described` that tell of them."""
        value, arrays = _split(self.example)
        if arrays:
            from safetensors.numpy import save_file

            save_file(arrays, folder / EXAMPLE)
        if isinstance(self.preprocess, Tokenize):
            (folder / TOKENIZER).write_text(self.preprocess.dumps(), "utf-8")
        return {
            "preprocess": _step(self.preprocess, "preprocess", by_factory=by_factory),
            "postprocess": _step(self.postprocess, "postprocess", by_factory=by_factory),
            "item": self.item,
            "example": value,
        }


def _step(step: Any, role: str, *, by_factory: bool) -> Step | None:
    if step is None:
        return None
    if type(step) is Tokenize:
        return TokenizeStep(step.names, step.max_tokens)
    try:
        return named(step, role)
    except ConfigError:
        if by_factory:
            return FactoryStep()
        raise


def read_step(step: Step | None, folder: Path, made: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Return the callable that a step describes.

    Args:
        step: as it was read.
        folder: of the bundle.
        made: what the model's factory brings in this place.

    Raises:
        ModelLoadError: it cannot be found or read.
    """
    if step is None:
        return None
    if isinstance(step, TokenizeStep):
        return Tokenize(folder / TOKENIZER, names=step.names, max_tokens=step.max_tokens)
    if isinstance(step, ImportedStep):
        found: Callable[[Any], Any] = find(step)
        return found
    if made is None:
        raise ModelLoadError("the model's factory returns no Predictor with the steps that it had when the bundle was written")
    return made


def _split(example: Any) -> tuple[Any, dict[str, Any]]:
    """Return an example as plain JSON, and as arrays by key: one of both is empty.

    Raises:
        ConfigError: it is neither.
    """
    example = to_host(example)
    if _is_plain(example):
        return example, {}
    found = {f".{name}": value for name, value in example.items()} if isinstance(example, Mapping) else {ITEM: example}
    if isinstance(example, bytes | bytearray):
        found = {"bytes": np.frombuffer(example, np.uint8)}
    arrays = {name: np.ascontiguousarray(value) for name, value in found.items() if isinstance(value, np.ndarray | np.generic)}
    if len(arrays) != len(found):
        raise ConfigError(
            f"the example is {type(example).__name__}; a bundle holds text, bytes, numbers, lists, arrays, arrays by name"
        )
    if any(array.dtype.kind not in "fiub" for array in arrays.values()):  # text as a model's own input, bfloat16: zeros do
        return None, {}
    return None, arrays


def _is_plain(value: Any) -> bool:
    """True for what JSON gives back as it was."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(child) for key, child in value.items())
    return value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


def read_example(described: Described, folder: Path) -> Any:
    """Return the example; None where there is none.

    Raises:
        ModelLoadError: its file cannot be read.
    """
    if described.example is not None or not (folder / EXAMPLE).is_file():
        return described.example
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / EXAMPLE)
    except SafetensorError as error:
        raise ModelLoadError(f"{EXAMPLE} cannot be read: {error}") from error
    if "bytes" in arrays:
        return arrays["bytes"].tobytes()
    return arrays[ITEM] if ITEM in arrays else {name[1:]: array for name, array in arrays.items()}
