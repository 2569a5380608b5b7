"""Exact conversion of inputs to the model's datatype: INT32 ids to INT64, FP16 to FP32. Pure."""

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
"""Floating-point dtype -> dtypes that represent all of its values."""


def can_convert(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Return whether one dtype may be converted to the other: two integers, or a float and a wider float.

    `convert` detects integers out of range. Values are never rounded, so integers are not converted to floats.
    """
    if given.kind in "iu" and wanted.kind in "iu":
        return True
    return wanted.name in WIDER_FLOATS.get(given.name, ())


def convert(name: str, values: Array, wanted: np.dtype[Any]) -> Array:
    """Return an input's values in the model's dtype; the same array if it has that dtype.

    Args:
        name: name of the input, for errors.
        values: values whose dtype `can_convert` accepts.
        wanted: the model's dtype.

    Raises:
        ProtocolError: an integer is out of range of the model's dtype.
    """
    if values.dtype == wanted:
        return values
    if wanted.kind in "iu" and values.size:
        limits = np.iinfo(wanted)
        for value in (int(values.min()), int(values.max())):
            if not limits.min <= value <= limits.max:
                raise ProtocolError(f"input {name!r} contains {value}; {wanted.name} goes from {limits.min} to {limits.max}")
    return values.astype(wanted)
