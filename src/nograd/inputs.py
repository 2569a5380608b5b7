"""Kinds of input: torch tensors, arrays and lists; named, in order, or alone; many rows, or one.

torch is never imported here: a tensor can only exist where somebody else did.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nograd.errors import SignatureError
from nograd.tensors import Signature

__all__ = ["as_items", "by_name", "holds_tensors", "is_module", "is_tensor", "one_row", "stacked", "to_host"]


def is_module(model: object) -> bool:
    """True for a torch module; a module can only exist where torch was imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def is_tensor(value: object) -> bool:
    """True for a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def holds_tensors(inputs: Any) -> bool:
    """True where the inputs are torch tensors; a mixture of tensors and arrays counts as tensors."""
    if isinstance(inputs, Mapping):
        return any(map(is_tensor, inputs.values()))
    return any(map(is_tensor, inputs)) if isinstance(inputs, tuple) else is_tensor(inputs)


def to_host(inputs: Any) -> Any:
    """Return tensors as arrays; on a CPU they share their memory."""
    if isinstance(inputs, Mapping):
        return {name: to_host(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(map(to_host, inputs))
    return inputs.detach().cpu().numpy() if is_tensor(inputs) else inputs


def by_name(inputs: Any, signature: Signature) -> dict[str, Any]:
    """Return inputs by name: a dict as it is, a tuple in the signature's order, anything else as the only input."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    names = [spec.name for spec in signature.inputs]
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    required = sum(spec.default is None for spec in signature.inputs)
    if not required <= len(values) <= len(names):
        raise SignatureError(
            f"{len(values)} inputs were given; the model takes {', '.join(map(repr, names))}: give a tuple in this order, or a dict"
        )
    return dict(zip(names, values, strict=False))


def as_items(inputs: Any) -> list[Any]:
    """Return what `preprocess` will be called with, one by one."""
    if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
        raise SignatureError(f"inputs are {type(inputs).__name__}; with `preprocess`, give a list of items")
    items = list(inputs)
    if not items:
        raise SignatureError("the list of items is empty; give at least 1")
    return items


def one_row(row: Any) -> Any:
    """Return a row as inputs with one row: every array gets dimension 0."""
    if isinstance(row, Mapping):
        return {name: one_row(value) for name, value in row.items()}
    if isinstance(row, tuple):
        return tuple(map(one_row, row))
    return np.asarray(to_host(row))[None]


def stacked(rows: Sequence[Any]) -> Any:
    """Return rows of one kind and shape as inputs with that many rows.

    Raises:
        ValueError: the rows differ in shape.
    """
    first = rows[0]
    if isinstance(first, Mapping):
        return {name: stacked([row[name] for row in rows]) for name in first}
    if isinstance(first, tuple):
        return tuple(stacked(column) for column in zip(*rows, strict=True))
    return np.stack([to_host(row) for row in rows])
