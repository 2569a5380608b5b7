"""Pre- and postprocessing of a bundle, with its item type and an example item."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.bundle.manifest import BundleDescription, FactoryStep, ImportedStep, Step, TokenizeStep
from nograd.bundle.naming import find, import_step
from nograd.core.inputs import to_host
from nograd.core.tensors import TensorSpec
from nograd.errors import ConfigError, ModelLoadError, UnsupportedError
from nograd.text.tokenizing import Tokenize

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor

__all__ = ["EXAMPLE", "TOKENIZER", "Pipeline", "read_example", "read_step"]

EXAMPLE = "example.safetensors"
TOKENIZER = "tokenizer.json"

ITEM = "item"
"""Key of an example that is a single array. Other examples use the model's input names with a leading dot."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The parts of a Predictor other than its backend."""

    preprocess: Callable[[Any], Any] | None = None
    """A `nograd.text.Tokenize`, which the bundle stores completely, or a callable with an import name."""

    postprocess: Callable[[Any], Any] | None = None
    item: TensorSpec | None = None
    """Type of one item, for servers."""

    example: Any = None
    """One item. Without `preprocess`: one row by input name, `[1, ...]`. None: zeros."""

    @classmethod
    def of(cls, predictor: Predictor) -> Pipeline:
        """Return the parts of a Predictor."""
        try:
            example = predictor.example
        except UnsupportedError:  # no sample was given
            example = None
        return cls(predictor.preprocess, predictor.postprocess, predictor.item, example)

    def check(self, *, by_factory: bool = False) -> None:
        """Raise if a bundle cannot store these parts. Call it before expensive work.

        Args:
            by_factory: the model's factory returns a Predictor, which supplies the steps without an import name.

        Raises:
            ConfigError: `preprocess` or `postprocess` has no import name, or the example cannot be written.
        """
        _step(self.preprocess, "preprocess", by_factory=by_factory)
        _step(self.postprocess, "postprocess", by_factory=by_factory)
        _split(self.example)

    def write(self, folder: Path, *, by_factory: bool) -> dict[str, Any]:
        """Write the tokenizer and array examples to a folder. Return the matching fields of `BundleDescription`."""
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
        return TokenizeStep(step.names, step.max_tokens, step.prompt, step.truncation_side)
    try:
        return import_step(step, role)
    except ConfigError:
        if by_factory:
            return FactoryStep()
        raise


def read_step(step: Step | None, folder: Path, made: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Return the callable of a step.

    Args:
        step: as read from bundle.json.
        folder: the bundle's folder.
        made: the corresponding step of the factory's Predictor.

    Raises:
        ModelLoadError: the callable cannot be found or read.
    """
    if step is None:
        return None
    if isinstance(step, TokenizeStep):
        return Tokenize(
            folder / TOKENIZER, names=step.names, max_tokens=step.max_tokens, prompt=step.prompt,
            truncation_side=step.truncation_side,
        )  # fmt: skip
    if isinstance(step, ImportedStep):
        found: Callable[[Any], Any] = find(step)
        return found
    if made is None:
        raise ModelLoadError("the model's factory returns no Predictor with the steps that it had when the bundle was written")
    return made


def _split(example: Any) -> tuple[Any, dict[str, Any]]:
    """Split an example into plain JSON and arrays by key; one of both is empty.

    Raises:
        ConfigError: the example has another type.
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
            f"the example is {type(example).__name__}; a bundle can contain text, bytes, numbers, lists, arrays, arrays by name"
        )
    if any(array.dtype.kind not in "fiub" for array in arrays.values()):  # text, bfloat16: zeros instead
        return None, {}
    return None, arrays


def _is_plain(value: Any) -> bool:
    """Return whether a value survives a JSON round trip unchanged."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(child) for key, child in value.items())
    return value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


def read_example(described: BundleDescription, folder: Path) -> Any:
    """Return the example; None if there is none.

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
