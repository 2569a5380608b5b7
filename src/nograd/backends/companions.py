"""Companions: rows that share a batch with the row under test, with other values, magnitudes or lengths. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nograd.core.tensors import TEXT, Array, Batch, Signature, TensorSpec, concat

__all__ = ["MIXED", "kinds_for", "make_row", "random_target", "stretched", "with_companions"]

FACTORS: Mapping[str, float] = {
    "rows of other values": 1.0,
    "rows 100 times as large": 100.0,
    "rows a hundredth of the size": 0.01,
    "rows of the opposite sign": -1.0,
    "rows 100 times as large and of the opposite sign": -100.0,
}
"""Kind of companion -> factor for the values of floating inputs."""

RANDOM = "random rows"

MIXED = "rows of mixed sizes"

Rng = np.random.Generator


def kinds_for(signature: Signature) -> tuple[str, ...]:
    """Return the kinds of companions for these inputs. Kinds that change the magnitude need floating inputs."""
    if any(_is_floating(spec) for spec in signature.inputs):
        return (*FACTORS, RANDOM)
    return ("rows of other values", RANDOM)


def make_row(samples: Sequence[Batch], signature: Signature, kind: str, rng: Rng) -> Batch:
    """Return one companion, as a batch of one row.

    Args:
        samples: checked batches; the row has the lengths of one of their rows.
        signature: the model's signature.
        kind: one of `kinds_for`.
        rng: random generator.
    """
    sample = samples[int(rng.integers(len(samples)))]
    row = int(rng.integers(len(next(iter(sample.values())))))
    return {
        spec.name: _companion(spec, sample[spec.name], sample[spec.name][row : row + 1], kind, rng) for spec in signature.inputs
    }


def random_target(sample: Batch, signature: Signature, rng: Rng) -> Batch:
    """Return a random row of ordinary magnitude, because a sample of zeros proves little.

    Flags and text are the sample's first.
    """
    return {
        spec.name: first if spec.dtype == TEXT or _is_flag(sample[spec.name]) else _random(spec, sample[spec.name], first, rng)
        for spec in signature.inputs
        for first in (sample[spec.name][:1],)
    }


def stretched(row: Batch, signature: Signature, sizes: Mapping[str, int]) -> Batch:
    """Return the row with other sizes of its varying dimensions: cut, or repeated from the start."""
    result: dict[str, Array] = {}
    for spec in signature.inputs:
        array = row[spec.name]
        for axis, size in enumerate(spec.shape, start=1):
            if isinstance(size, str) and array.shape[axis] != sizes[size]:
                array = np.take(array, np.arange(sizes[size]) % array.shape[axis], axis=axis)
        result[spec.name] = np.ascontiguousarray(array)
    return result


def with_companions(target: Batch, companions: Sequence[Batch], place: int, signature: Signature) -> Batch:
    """Return one batch with the target at `place` among the companions, all padded to the longest."""
    return concat([*companions[:place], target, *companions[place:]], signature.inputs)


def _is_floating(spec: TensorSpec) -> bool:
    return "float" in spec.dtype or "complex" in spec.dtype


def _is_flag(values: Array) -> bool:
    """Return whether values are booleans, or integers that are all 0 or 1: masks and token types."""
    return values.dtype.kind == "b" or (values.dtype.kind in "iu" and bool(np.isin(values, (0, 1)).all()))


def _companion(spec: TensorSpec, whole: Array, row: Array, kind: str, rng: Rng) -> Array:
    if spec.dtype == TEXT:
        return _other_text(row)
    if kind == RANDOM:
        return _random(spec, whole, row, rng)
    if not _is_floating(spec):
        return _other_integers(whole, row, rng)
    moved = rng.permutation(row.ravel()).reshape(row.shape).astype(_wide(spec))
    if not moved.any():
        moved = rng.standard_normal(row.shape).astype(_wide(spec))
    return _clipped(moved * FACTORS[kind], spec)


def _other_text(row: Array) -> Array:
    return np.array([f"{text} {text[::-1]}" for text in row.ravel()], dtype=object).reshape(row.shape)


def _other_integers(whole: Array, row: Array, rng: Rng) -> Array:
    """Return integers in another order; for a constant row, adjacent integers that are not negative."""
    if row.size > 1 and (row != row.ravel()[0]).any():
        return rng.permutation(row.ravel()).reshape(row.shape)
    if row.dtype.kind == "b":
        return ~row
    if (whole != row.ravel()[:1]).any():
        return rng.choice(whole.ravel(), row.shape).astype(row.dtype)
    return np.where(row > 0, row - 1, row + 1).astype(row.dtype)


def _random(spec: TensorSpec, whole: Array, row: Array, rng: Rng) -> Array:
    """Return random values: normally distributed with the sample's magnitude, or ids that the model is known to accept."""
    if spec.dtype == TEXT:
        return _other_text(row)
    if _is_floating(spec):
        scale = float(np.nanmax(np.abs(whole.astype(_wide(spec))), initial=0)) or 1.0
        return _clipped(rng.standard_normal(row.shape).astype(_wide(spec)) * scale, spec)
    if row.dtype.kind == "b":
        return rng.integers(0, 2, row.shape).astype(bool)
    low, high = (0, 1) if _is_flag(whole) else spec.limits or (int(whole.min()), int(whole.max()))
    return rng.integers(low, high, row.shape, dtype=row.dtype, endpoint=True)


def _wide(spec: TensorSpec) -> str:
    """Return the array in a wider dtype, so that arithmetic does not overflow before values are clipped."""
    return "complex128" if "complex" in spec.dtype else "float64"


def _clipped(values: Array, spec: TensorSpec) -> Array:
    if "complex" in spec.dtype:
        return values.astype(spec.dtype)
    import ml_dtypes

    limit = float(ml_dtypes.finfo(spec.dtype).max)  # type: ignore[no-untyped-call]
    return np.clip(values, -limit, limit).astype(spec.dtype)
