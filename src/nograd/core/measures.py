"""Row-wise closeness of two arrays: cosine, difference, magnitude, agreement. Pure functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NOISE", "class_agreement", "cosines", "kind_of", "magnitudes", "sign_agreement"]

Array = npt.NDArray[Any]

NOISE = 1e-6
"""Values below this share of the largest value are numerical noise: 8 times the spacing of float32 numbers at 1."""


def kind_of(array: Array) -> str:
    """Return the kind of number: `float`, or numpy's kind letter, with one letter for all integers."""
    return "float" if "float" in array.dtype.name else array.dtype.kind.replace("u", "i")


def magnitudes(a: Array) -> Array:
    """Return the largest absolute value of each row; `a` is `[rows, elements]`."""
    found: Array = np.abs(a).max(1, initial=0)
    return found


def cosines(a: Array, b: Array) -> Array:
    """Return the cosine of each pair of rows, without overflow; 1 if both rows are zero, 0 if one is."""
    a_scale, b_scale = (np.abs(x).max(1, initial=0, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = a / a_scale, b / b_scale
        found = (a * b.conj()).sum(1).real / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    zero = (a_scale[:, 0] == 0).astype(int) + (b_scale[:, 0] == 0)
    cosines: Array = np.where(zero == 2, 1.0, np.where(zero == 1, 0.0, np.clip(found, -1, 1)))
    return cosines


def class_agreement(expected: Array, given: Array) -> Array:
    """Return the share of equal classes per row. The class is the position of the largest value on the last axis; ties are
    equal.

    Args:
        expected: `[rows, classes]` or `[rows, tokens, classes]`.
        given: same shape as `expected`.
    """
    places = given.argmax(-1)[..., None]
    same = np.take_along_axis(expected, places, -1)[..., 0] == expected.max(-1)
    shares: Array = same.mean(1) if same.ndim > 1 else same.astype(np.float64)
    return shares


def sign_agreement(expected: Array, given: Array) -> tuple[Array, Array, bool]:
    """Return per row the number of elements with equal signs and the number of elements with a sign; and whether both signs
    occur.

    Elements that are zero, or noise compared with the largest element of their row, have no sign.

    Args:
        expected: `[rows, elements]`.
        given: same shape as `expected`.
    """
    counts = np.abs(expected) > NOISE * magnitudes(expected)[:, None]
    same = counts & ((expected > 0) == (given > 0))
    positive = (expected > 0)[counts]
    return same.sum(1), counts.sum(1), bool(positive.any() and not positive.all())
