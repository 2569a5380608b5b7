"""Manifest: the signature of an exported file, stored as JSON inside it, so that it runs without its source model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from nograd.core.independence import Independence
from nograd.core.structure import Outline
from nograd.core.tensors import Batching, Signature, TensorSpec
from nograd.errors import ModelLoadError

__all__ = ["KEY", "Manifest", "graph_outputs"]

KEY = "nograd"
"""Metadata key of the manifest in exported files."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The signature of an exported model, and its original output structure."""

    signature: Signature
    outline: Outline
    """See `nograd.core.structure.outline`."""

    problem_type: str = ""
    """Meaning of a transformers model's outputs, see `nograd.core.scores.ProblemType`; empty: unknown."""

    def dumps(self) -> str:
        """Return the manifest as JSON text."""
        signature = self.signature
        plain = _ManifestFile(
            FORMAT,
            [_to_file(spec) for spec in signature.inputs],
            [_to_file(spec) for spec in signature.outputs],
            signature.batching,
            signature.reason,
            dict(signature.max_sizes),
            self.outline,
            signature.repeatable,
            dict(signature.min_sizes),
            signature.independence,
            self.problem_type,
            dict(signature.tried_sizes),
        )
        return msgspec.json.encode(plain).decode()

    @classmethod
    def loads(cls, text: str | bytes) -> Manifest:
        """Parse the JSON text of `dumps`.

        Raises:
            ModelLoadError: the text is not a manifest, or has a newer format.
        """
        try:
            plain = msgspec.json.decode(text, type=_ManifestFile)
        except msgspec.DecodeError as error:
            raise ModelLoadError(f"the file's manifest cannot be read: {error}") from error
        if plain.format > FORMAT:
            raise ModelLoadError(
                f"the file's manifest has format {plain.format}; this nograd reads up to {FORMAT}: update nograd"
            )
        inputs, outputs = (tuple(map(_from_file, specs)) for specs in (plain.inputs, plain.outputs))
        signature = Signature(
            inputs, outputs, plain.batching, plain.reason, plain.max_sizes, plain.repeatable, plain.min_sizes,
            plain.independence, plain.tried_sizes,
        )  # fmt: skip
        return cls(signature, plain.outline, plain.problem_type)


def graph_outputs(signature: Signature) -> dict[str, str]:
    """Return the name of each output in a graph, by its name in the signature.

    A graph has one name per value. An output with the name of an input, such as the state of a recurrent model, becomes
    `<name>_out` there.
    """
    taken = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    inputs = {spec.name for spec in signature.inputs}
    names = {}
    for spec in signature.outputs:
        name = spec.name
        if name in inputs:
            while name in taken:
                name = f"{name}_out"
            taken.add(name)
        names[spec.name] = name
    return names


class _TensorFields(msgspec.Struct):
    name: str
    dtype: str
    shape: list[int | str]
    pad_value: float = 0
    default: float | None = None
    limits: tuple[int, int] | None = None


class _ManifestFile(msgspec.Struct):
    format: int
    inputs: list[_TensorFields]
    outputs: list[_TensorFields]
    batching: Batching
    reason: str
    max_sizes: dict[str, int]
    outline: Any
    repeatable: bool = True
    min_sizes: dict[str, int] = {}
    independence: Independence | None = None
    """None also in files of older versions, which did not measure it."""

    problem_type: str = ""
    """Empty also in files of older versions, which did not record it."""

    tried_sizes: dict[str, int] = {}


def _to_file(spec: TensorSpec) -> _TensorFields:
    return _TensorFields(spec.name, spec.dtype, list(spec.shape), spec.pad_value, spec.default, spec.limits)


def _from_file(spec: _TensorFields) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, tuple(spec.shape), spec.pad_value, spec.default, spec.limits)
