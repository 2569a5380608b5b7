"""Shapes in requests, checked in linear time before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from nograd.core.tensors import Array
from nograd.errors import ProtocolError

__all__ = ["MAX_DIMENSIONS", "MAX_SIZE", "count_elements", "reshape", "shorten"]

MAX_DIMENSIONS = 64
"""Maximum dimensions of an array, which is numpy's limit."""

MAX_SIZE = 2**63 - 1
"""Maximum size of one dimension."""

SHOWN = 80
"""Maximum characters of a client's value in an error."""


def count_elements(name: str, shape: Sequence[int]) -> int:
    """Return the number of elements of an input's shape.

    Args:
        name: name of the input, for errors.
        shape: the client's shape, of any length and with numbers of any size.

    Raises:
        ProtocolError: the shape has too many dimensions, or a size is negative or too large.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise ProtocolError(f"input {name!r} has a shape of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed")
    for size in shape:
        if size < 0:
            raise ProtocolError(f"input {name!r} has shape {list(shape)}; sizes are 0 or more")
        if size > MAX_SIZE:
            raise ProtocolError(f"input {name!r} has a size of {shorten(size)} in its shape; sizes are at most {MAX_SIZE}")
    return prod(shape)


def reshape(name: str, values: Array, shape: Sequence[int]) -> Array:
    """Return the elements of an input in its shape; their number was checked before.

    Raises:
        ProtocolError: no array can have this shape: it has no elements and a size that is too large.
    """
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"input {name!r} has shape {list(shape)}: {error}") from None


def shorten(value: Any) -> str:
    """Return a client's value for an error: its `repr`, truncated to 80 characters.

    >>> shorten(10**100)
    '10000000000000000000000000000000000000000000000000000000000000000000000000000000...'
    """
    if type(value) is int and value.bit_length() > 4096:
        return "a number of more than 1,000 digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
