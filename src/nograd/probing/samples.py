"""Changes of samples: more rows, other sizes, padding. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from nograd.core.tensors import TensorSpec
from nograd.errors import SignatureError

__all__ = [
    "Place",
    "Tensors",
    "check_rows",
    "completed",
    "cut",
    "differing",
    "first_rows",
    "groups",
    "only_row",
    "padded",
    "resized",
    "with_rows",
]

Tensors: TypeAlias = dict[str, Tensor]
"""Inputs or outputs by name, each `[rows, ...]`."""

Place: TypeAlias = tuple[str, int]
"""An input name and one of its axes."""


def check_rows(sample: Tensors) -> None:
    """Raise SignatureError unless all inputs have the same number of rows, at least one."""
    for name, tensor in sample.items():
        if tensor.ndim == 0:
            raise SignatureError(f"input {name!r} is a single number; every input must be [rows, ...]")
    rows = {name: len(tensor) for name, tensor in sample.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise SignatureError(f"the sample's inputs have {rows} rows; all must have the same number, at least 1")


def only_row(sample: Tensors, row: int) -> Tensors:
    """Return one row."""
    return {name: tensor[row : row + 1] for name, tensor in sample.items()}


def first_rows(sample: Tensors, count: int) -> Tensors:
    """Return at most `count` first rows."""
    return {name: tensor[:count] for name, tensor in sample.items()}


def with_rows(sample: Tensors, at_least: int) -> Tensors:
    """Return the sample with at least `at_least` rows; added rows are the first row with rotated values."""
    result: Tensors = {}
    for name, tensor in sample.items():
        first = tensor[:1]
        added = [first.roll(shift, dims=-1) if tensor.ndim > 1 else first for shift in range(1, at_least - len(tensor) + 1)]
        result[name] = torch.cat([tensor, *added])
    return result


def groups(sample: Tensors, samples: Sequence[Tensors]) -> Iterator[tuple[Place, ...]]:
    """Yield sets of places that may be one dimension: places of equal size on one axis, then single places, then all of equal
    size.

    Sets come before single places: a transformer ignores a mask of ones, so its ids would seem to vary without the mask. A
    second sample distinguishes inputs of equal length that vary independently (a query and a document).
    """
    places = [(name, axis) for name, tensor in sample.items() for axis in range(1, tensor.ndim)]
    by_axis: dict[tuple[int, ...], list[Place]] = {}
    by_size: dict[tuple[int, ...], list[Place]] = {}
    for name, axis in places:
        sizes = tuple(other[name].shape[axis] for other in (sample, *samples))
        by_axis.setdefault((axis, *sizes), []).append((name, axis))
        by_size.setdefault(sizes, []).append((name, axis))
    yield from (tuple(group) for group in by_axis.values() if len(group) > 1)
    yield from ((place,) for place in places)
    yield from (tuple(group) for group in by_size.values() if len(group) > 1)


def differing(sample: Tensors, samples: Sequence[Tensors]) -> list[tuple[Place, ...]]:
    """Return the places in which the samples differ; places with equal sizes in every sample are one dimension."""
    by_size: dict[tuple[int, ...], list[Place]] = {}
    for name, tensor in sample.items():
        for axis in range(1, tensor.ndim):
            by_size.setdefault(tuple(other[name].shape[axis] for other in (sample, *samples)), []).append((name, axis))
    return [tuple(group) for sizes, group in by_size.items() if len(set(sizes)) > 1]


def resized(sample: Tensors, places: Sequence[Place], size: int) -> Tensors:
    """Return the sample with some dimensions at another size: cut, or repeated from the start."""
    result = dict(sample)
    for name, axis in places:
        tensor = result[name]
        index = torch.arange(size, device=tensor.device) % tensor.shape[axis]
        result[name] = tensor.index_select(axis, index)
    return result


def completed(sample: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """Return the sample with the missing inputs set to their defaults."""
    sizes: dict[int | str, int] = {"rows": len(next(iter(sample.values())))}
    for spec in specs:
        if spec.name in sample:
            sizes.update(zip(spec.shape, sample[spec.name].shape[1:], strict=True))
    device = next(iter(sample.values())).device
    result = dict(sample)
    for spec in specs:
        if spec.name not in sample and spec.default is not None:
            shape = [size if isinstance(size, int) else sizes[size] for size in ("rows", *spec.shape)]
            result[spec.name] = torch.full(shape, spec.default, dtype=getattr(torch, spec.dtype), device=device)
    return result


def padded(sample: Tensors, specs: Sequence[TensorSpec], dim: str, target: int) -> Tensors:
    """Return the sample with one dimension padded to `target` by the specs' values."""
    result = dict(sample)
    for spec in specs:
        for axis, size in enumerate(spec.shape, start=1):
            if size == dim:
                tensor = result[spec.name]
                shape = list(tensor.shape)
                shape[axis] = target - shape[axis]
                fill = torch.full(shape, spec.pad_value, dtype=tensor.dtype, device=tensor.device)
                result[spec.name] = torch.cat([tensor, fill], dim=axis)
    return result


def cut(outputs: Mapping[str, Tensor], specs: Sequence[TensorSpec], dim: str, size: int) -> Tensors:
    """Return the outputs with one dimension cut to `size`."""
    result = dict(outputs)
    for spec in specs:
        for axis, name in enumerate(spec.shape, start=1):
            if name == dim:
                leaf = result[spec.name]
                result[spec.name] = leaf.narrow(axis, 0, min(size, leaf.shape[axis]))
    return result
