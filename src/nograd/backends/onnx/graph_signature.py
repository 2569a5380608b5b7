"""The signature of a graph that nograd did not export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import ModelLoadError

__all__ = ["have_rows", "read_signature"]

DTYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool", "string": "bytes",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}  # fmt: skip
"""ONNX Runtime's name of an element type -> nograd's name."""


def have_rows(inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Return whether all inputs and outputs may be `[rows, ...]`: no input is a scalar, and all fixed first sizes are equal."""
    if not all(node.shape for node in inputs):
        return False
    sizes = [node.shape[0] for node in (*inputs, *outputs) if node.shape]
    return all(size == sizes[0] for size in sizes if isinstance(size, int))


def read_signature(inputs: Sequence[Any], outputs: Sequence[Any], *, row_is_a_call: bool) -> Signature:
    """Return the signature of a graph without a manifest."""
    specs = tuple(tuple(_spec(node, skip=0 if row_is_a_call else 1) for node in nodes) for nodes in (inputs, outputs))
    if row_is_a_call:
        reason = "an input or output of the graph is not [rows, ...]: each row is a separate call"
    else:
        reason = (
            "the file does not say how its rows may be batched, and no sample was given: size limits and the independence of "
            "rows are unknown"
        )
    return Signature(specs[0], specs[1], batching="alone", reason=reason)


def _spec(node: Any, *, skip: int) -> TensorSpec:
    element = node.type.removeprefix("tensor(").removesuffix(")")
    if element not in DTYPES:
        raise ModelLoadError(f"{node.name!r} is {node.type}; nograd supports tensors of {', '.join(DTYPES)}")
    shape = tuple(size if isinstance(size, int | str) else f"{node.name}_{axis}" for axis, size in enumerate(node.shape))
    return TensorSpec(node.name, DTYPES[element], shape[skip:])
