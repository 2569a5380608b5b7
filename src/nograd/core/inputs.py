"""Conversions between kinds of input: torch tensors, arrays and lists; by name, in order, or single; many rows, or one.

This module never imports torch: if tensors exist, torch is already imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

from nograd.core.tensors import Signature
from nograd.errors import SignatureError

__all__ = ["by_name", "each_item", "holds_tensors", "is_module", "is_tensor", "one_row", "stacked", "to_host"]


def is_module(model: object) -> bool:
    """Return whether an object is a torch module. Modules exist only if torch is already imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def is_tensor(value: object) -> bool:
    """Return whether an object is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def holds_tensors(inputs: Any) -> bool:
    """Return whether the inputs contain torch tensors; a mixture of tensors and arrays counts as tensors."""
    if isinstance(inputs, Mapping):
        return any(map(holds_tensors, inputs.values()))
    if isinstance(inputs, list):  # a list of rows has one kind: that of its first row
        return bool(inputs) and is_tensor(inputs[0])
    return any(map(holds_tensors, inputs)) if isinstance(inputs, tuple) else is_tensor(inputs)


def to_host(inputs: Any) -> Any:
    """Convert tensors to arrays. CPU tensors share their memory with the arrays."""
    if isinstance(inputs, Mapping):
        return {name: to_host(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(map(to_host, inputs))
    if isinstance(inputs, list) and holds_tensors(inputs):
        return list(map(to_host, inputs))
    if not is_tensor(inputs):
        return inputs
    tensor = inputs.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # numpy lacks bfloat16: ml_dtypes reads the same bits
        return tensor.view(sys.modules["torch"].int16).numpy().view("bfloat16")
    return tensor.numpy()


def without_inference_tensors(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return torch tensors by name with normal ones in place of inference tensors, which autograd refuses."""
    return {name: leaf.clone() if leaf.is_inference() else leaf for name, leaf in leaves.items()}


def by_name(inputs: Any, signature: Signature) -> dict[str, Any]:
    """Return inputs by name. A dict is copied, a tuple follows the signature's order, anything else is the only input."""
    if type(inputs) is np.ndarray and len(signature.inputs) == 1:  # the checks below take 1 us
        return {signature.inputs[0].name: inputs}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    names = [spec.name for spec in signature.inputs]
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(values) != len(names):
        required = sum(spec.default is None for spec in signature.inputs)
        if not required <= len(values) <= len(names):
            raise SignatureError(
                f"{len(values)} inputs were given; the model takes {', '.join(map(repr, names))}: "
                "give a tuple in this order, or a dict"
            )
    return dict(zip(names, values, strict=False))


def each_item(items: Any) -> Iterator[Any]:
    """Return an iterator over items.

    Raises:
        SignatureError: `items` is a single item, or a dict of columns.
    """
    if isinstance(items, Mapping | str | bytes) or not isinstance(items, Iterable):
        raise SignatureError(f"items is a {type(items).__name__}; give a list or another iterable of items")
    return iter(items)


def one_row(row: Any) -> Any:
    """Convert a row to inputs with one row: every array gets dimension 0."""
    if isinstance(row, Mapping):
        return {name: one_row(value) for name, value in row.items()}
    if isinstance(row, tuple):
        return tuple(map(one_row, row))
    return [row] if _is_plain(row) else np.asarray(to_host(row))[None]


def stacked(rows: Sequence[Any]) -> Any:
    """Stack rows of equal kind, dtype and shape into inputs with as many rows.

    Raises:
        ValueError: the rows differ in kind, names, dtype or shape.
    """
    first = rows[0]
    if any(type(row) is not type(first) for row in rows):
        raise ValueError("the rows differ in kind")
    if isinstance(first, Mapping):
        if any(row.keys() != first.keys() for row in rows):
            raise ValueError("the rows differ in their names")
        return {name: stacked([row[name] for row in rows]) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked(column) for column in zip(*rows, strict=True))
    if _is_plain(first):
        return list(rows)
    arrays = [np.asarray(to_host(row)) for row in rows]
    if any(array.dtype != arrays[0].dtype for array in arrays):
        raise ValueError("the rows differ in dtype")
    return np.stack(arrays)


def _is_plain(value: Any) -> bool:
    """Return whether a value has no dtype: a list, a number or a string. numpy scalars have one."""
    return isinstance(value, list | Number | str) and not isinstance(value, np.generic)
