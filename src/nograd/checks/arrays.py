"""Derive the batches for checks from sample rows: more rows, other rows, other lengths. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nograd.core.tensors import Array, Batch, Signature, TensorSpec, num_rows

__all__ = [
    "changed",
    "describe",
    "difference",
    "lively",
    "longer",
    "padded",
    "resized",
    "row",
    "row_difference",
    "tiled",
    "varied",
]


def row(batch: Batch, index: int) -> Batch:
    """Return one row as a batch."""
    return {name: array[index : index + 1] for name, array in batch.items()}


def varied(batch: Batch, rows: int) -> Batch:
    """Return the batch with at least `rows` rows; added rows are the first row with its values rotated along the last axis."""
    return {name: _varied(array, rows) for name, array in batch.items()}


def _varied(array: Array, rows: int) -> Array:
    moved = [np.roll(array[:1], shift, axis=-1) if array.ndim > 1 else array[:1] for shift in range(1, rows - len(array) + 1)]
    return np.concatenate([array, *moved]) if moved else array


def tiled(batch: Batch, rows: int) -> Batch:
    """Return exactly `rows` rows: the batch's rows, repeated as often as needed."""
    index = np.arange(rows) % num_rows(batch)
    return {name: array[index] for name, array in batch.items()}


def lively(batch: Batch, signature: Signature) -> Batch:
    """Return the batch with other values in place of zeros, and size 4 or more for every varying dimension.

    Meant for models without a known sample: zeros multiply, average and pad to zeros, whatever errors the model has.
    """
    for dim in signature.lengths:
        name, axis = signature.places[dim]
        if batch[name].shape[axis] == 1:
            batch = resized(batch, signature.inputs, dim, signature.allowed_size(dim, 4))
    values = np.random.default_rng(0)
    return {spec.name: _lively(batch[spec.name], spec, values) for spec in signature.inputs}


def _lively(array: Array, spec: TensorSpec, values: np.random.Generator) -> Array:
    if array.dtype.kind == "O" or array.any():
        return array
    if "float" in array.dtype.name:
        return values.standard_normal(array.shape).astype(array.dtype)
    if array.dtype.kind == "b" or "mask" in spec.name:
        return np.ones_like(array)
    low, high = spec.limits or (0, 1)
    return values.integers(low, min(high, low + 100), array.shape, endpoint=True).astype(array.dtype)


def changed(batch: Batch) -> Batch:
    """Return rows in which every value differs; integers remain small and not negative, like ids and masks."""
    return {name: _changed(array) for name, array in batch.items()}


def _changed(array: Array) -> Array:
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind in "iu":
        return np.where(array > 0, array - 1, array + 1).astype(array.dtype)
    return array if array.dtype.kind == "O" else (array * 3 + 1).astype(array.dtype)


def resized(batch: Batch, specs: Sequence[TensorSpec], dim: str, size: int) -> Batch:
    """Return the batch with a varying dimension at another size: cut, or repeated from its start."""
    result = dict(batch)
    for spec in specs:
        for axis, name in enumerate(spec.shape, start=1):
            if name == dim:
                array = result[spec.name]
                result[spec.name] = np.take(array, np.arange(size) % array.shape[axis], axis)
    return result


def padded(batch: Batch, specs: Sequence[TensorSpec], dim: str, size: int) -> Batch:
    """Return the batch with a varying dimension padded to `size`, with the pad values of the specs."""
    result = dict(batch)
    for spec in specs:
        for axis, name in enumerate(spec.shape, start=1):
            if name == dim:
                array = result[spec.name]
                widths = [(0, size - array.shape[axis] if at == axis else 0) for at in range(array.ndim)]
                result[spec.name] = np.pad(array, widths, constant_values=spec.pad_value)
    return result


def longer(size: int, signature: Signature, dim: str) -> int:
    """Return a size that the model takes and that is larger by half or more; the same size if the model takes no larger one."""
    return signature.allowed_size(dim, size + max(2, size // 2))


def difference(expected: Mapping[str, Array], given: Mapping[str, Array]) -> float:
    """Return the largest difference of any output, relative to that output's largest absolute value.

    The result is infinite if a shape differs, or if a value is finite on one side only. Integers differ by 0 or 1.
    """
    return max((_difference(array, given[name]) for name, array in expected.items()), default=0.0)


NOISE = 1e-2
"""A row below this share of the batch's largest value is small: its rounding errors come from the other rows."""


def row_difference(expected: Mapping[str, Array], given: Mapping[str, Array]) -> float:
    """Return the largest difference of any row of any output, relative to that row's largest absolute value.

    A row that is nearly zero compared with the others is measured against a hundredth of their largest value.
    """
    found = 0.0
    for name, array in expected.items():
        whole = _scale(array)
        for index in range(len(array)):
            own, other = array[index : index + 1], given[name][index : index + 1]
            least = NOISE * whole
            found = max(found, _difference(own, other) * (min(1.0, _scale(own) / least) if least and _scale(own) else 1.0))
    return found


def _scale(array: Array) -> float:
    """Return the largest finite absolute value of an array of numbers; 0 for other arrays."""
    if array.dtype.kind in "OUSb":
        return 0.0
    values = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
    return float(values[np.isfinite(values)].max(initial=0))


def _difference(expected: Array, given: Array) -> float:
    if expected.shape != given.shape:
        return float("inf")
    if expected.dtype.kind in "OUSb" or (expected.dtype.kind in "iu" and given.dtype.kind in "iu"):
        return float(not np.array_equal(expected, given))
    a, b = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (expected, given))
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    a, b = a[finite], b[finite]
    scale, most = float(np.abs(a).max(initial=0)), float(np.abs(a - b).max(initial=0))
    return most / scale if scale else (float("inf") if most else 0.0)


def describe(batch: Batch) -> str:
    """Return names, dtypes and shapes as text."""
    return ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in batch.items())
