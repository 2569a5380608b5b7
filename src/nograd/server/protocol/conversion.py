"""Inputs whose datatype is not the model's but holds the same values: INT32 ids for INT64, FP16 for FP32. Pure, and exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from nograd.core.tensors import Array
from nograd.errors import ProtocolError

__all__ = ["can_convert", "convert"]

WIDER_FLOATS = {
    "float16": frozenset(("float32", "float64")),
    "bfloat16": frozenset(("float32", "float64")),
    "float32": frozenset(("float64",)),
}
"""Floating-point dtypes that hold every value of another."""


def can_convert(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Return whether an input of one dtype may be one of the other: two integers, or a float and a wider one.

    Integers that do not fit are found by `convert`. Nothing is rounded, so integers never become floats.
    """
    if given.kind in "iu" and wanted.kind in "iu":
        return True
    return wanted.name in WIDER_FLOATS.get(given.name, ())


def convert(name: str, values: Array, wanted: np.dtype[Any]) -> Array:
    """Return an input's values in the model's dtype; the same array if it has that.

    Args:
        name: of the input, for errors.
        values: of a dtype that `can_convert`.
        wanted: the model's dtype.

    Raises:
        ProtocolError: an integer is beyond the model's dtype.
    """
    if values.dtype == wanted:
        return values
    if wanted.kind in "iu" and values.size:
        limits = np.iinfo(wanted)
        for value in (int(values.min()), int(values.max())):
            if not limits.min <= value <= limits.max:
                raise ProtocolError(f"input {name!r} holds {value}; {wanted.name} goes from {limits.min} to {limits.max}")
    return values.astype(wanted)
