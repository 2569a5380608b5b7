"""How the rows of a backend may be batched, found by running it: for models that are no torch module, on plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nograd.errors import ModelError
from nograd.tensors import Array, Batch, Signature

__all__ = ["how_to_batch"]

TOLERANCE = 1e-3
"""Largest difference, relative to the output's largest value, that arithmetic in another order may cause; quantized graphs that
scale their activations by the whole batch exceed it, and then rows do depend on each other."""


def how_to_batch(run: Callable[[Batch], Batch], sample: Batch, signature: Signature) -> Signature:
    """Return the signature with what was found: rows batch freely, only at equal lengths, or not at all.

    Args:
        run: runs a checked batch.
        sample: a checked batch; with one row, a second one is made of it.
        signature: what the model takes and gives.

    Raises:
        ModelError: the model cannot run the sample.
    """
    base = run(sample)
    if not _same(base, run(sample)):
        return _limited(signature, "the same input gave two different answers: the model keeps state between calls")
    try:
        pair = run({name: np.concatenate([array[:1], _changed(array[:1])]) for name, array in sample.items()})
    except ModelError as error:
        return _limited(signature, f"two rows together do not run: {error}")
    if not _same(run(_first(sample)), _first(pair)) or not _same(_first(base), _first(pair)):
        return _limited(signature, "a row's answer depends on the other rows of its batch")
    if signature.lengths:
        reason = f"rows do not influence each other; whether {' and '.join(signature.lengths)} may be padded is not known"
        return replace(signature, batching="equal_lengths", reason=reason)
    return replace(signature, batching="pad", reason="rows do not influence each other; all inputs have one fixed shape")


def _limited(signature: Signature, reason: str) -> Signature:
    return replace(signature, batching="alone", reason=reason)


def _first(batch: Batch) -> Batch:
    return {name: array[:1] for name, array in batch.items()}


def _changed(array: Array) -> Array:
    """Return another row; integers stay small and not negative, so that they are ids and masks as before."""
    if array.dtype.kind in "iu":
        return np.where(array > 0, array - 1, array + 1).astype(array.dtype)
    if array.dtype.kind == "b":
        return ~array
    return array if array.dtype.kind == "O" else (array * 3 + 1).astype(array.dtype)


def _same(expected: Mapping[str, Array], given: Mapping[str, Array]) -> bool:
    return all(_close(array, given[name]) for name, array in expected.items())


def _close(expected: Array, given: Array) -> bool:
    if expected.shape != given.shape:
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(expected, given)
    scale = float(np.nanmax(np.abs(expected), initial=0))
    return np.allclose(expected, given, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
