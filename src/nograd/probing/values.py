"""Other values of the same kind for an input. Pure functions of tensors and a random generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nograd.core.tensors import TensorSpec

__all__ = ["Change", "InputValues", "is_mask", "neighbour", "ordinary"]

Kind = Literal["number", "id", "flag", "count", "mask of numbers"]
"""Kind of an input: floating or complex; an integer looked up in an embedding; a mask, or integers that are only 0 and 1;
any other integer (a length, a pixel, a hashed id); a floating mask.
"""

Change = Literal["everything", "values", "inner values", "numbers", "order", "nothing"]
"""Extent of a change: all kinds; numbers and ids; the same without ids at the ends; only numbers; the order; nothing. In
the last case, rows only meet other rows of the sample.
"""

MIN_VOCABULARY = 16
"""Ids that may mean padding are excluded from random ids if at least this many others remain."""


LARGE = 3
"""Above this factor, numbers change their size together with their order."""


@dataclass(frozen=True, slots=True)
class InputValues:
    """The values of one input in the samples."""

    spec: TensorSpec
    rows: Tensor
    """`[rows, ...]`"""

    seen: Tensor
    """All values of all samples, flat; integers as int64."""

    pads: tuple[int, ...] = ()
    """Ids that may mean padding; random ids avoid them."""

    @classmethod
    def of(cls, spec: TensorSpec, rows: Tensor, others: Sequence[Tensor], pads: Sequence[int]) -> InputValues:
        """Return the input with the values of `rows` and of the other samples."""
        flat = [each.flatten() for each in (rows, *others)]
        return cls(spec, rows, torch.cat([each if _is_inexact(each) else each.long() for each in flat]), tuple(pads))

    @property
    def kind(self) -> Kind:
        """The meaning of the values."""
        if is_mask(self.spec, self.rows):
            return "mask of numbers" if _is_inexact(self.rows) else "flag"
        return "number" if _is_inexact(self.rows) else "id" if self.spec.limits else "count"

    @property
    def is_constant(self) -> bool:
        """Whether all values of all samples are equal."""
        return bool((self.seen == self.seen[:1]).all())

    def range(self) -> tuple[int, int]:
        """Return the smallest and largest integer: of the embedding, of image bytes, or of the samples."""
        if self.spec.limits is not None:
            return self.spec.limits
        if self.rows.dtype == torch.uint8 and self.rows.ndim > 2:
            return 0, 255
        return int(self.seen.min()), int(self.seen.max())


def is_mask(spec: TensorSpec, tensor: Tensor) -> bool:
    """Return whether an input is a mask: by name or dtype, or if it contains only 0 and 1 and is not looked up in an
    embedding.
    """
    if "mask" in spec.name or spec.dtype == "bool":
        return True
    if _is_inexact(tensor) or (spec.limits is not None and spec.limits[1] > 1):
        return False
    return bool(((tensor == 0) | (tensor == 1)).all())


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def ordinary(values: InputValues, row: Tensor, change: Change, draw: torch.Generator, factor: float = 1) -> Tensor:
    """Return a row like those of the sample, with numbers `factor` times as large.

    Args:
        values: values of the samples.
        row: `[1, ...]`; unchanged values come from it.
        change: extent of the change.
        draw: a generator on the CPU.
        factor: factor of floating numbers.
    """
    if values.kind == "number" and change not in ("order", "nothing"):
        return _within(values, row, draw) if factor == 1 else _one_sided(values, row, draw, factor)
    if values.kind == "id" and change in ("everything", "values", "inner values"):
        return _random_ids(values, row, draw, keep_ends=change == "inner values")
    if values.kind == "count" and change == "everything" and not values.is_constant:
        return _integers(values, row, draw)
    return row


def neighbour(values: InputValues, row: Tensor, change: Change, draw: torch.Generator, factor: float) -> Tensor:
    """Return a row that differs as much as allowed: numbers `factor` times as large, other integers, other masks."""
    if change == "nothing":
        return row
    if change == "order":
        moved = _reversed(row) if row.ndim > 1 else row
        return moved * 3 + 1 if values.kind == "number" and abs(factor) > LARGE else moved
    if values.kind == "number":
        return _normal(values, row, draw, factor) if abs(factor) != 1 else _opposite(values, row, draw, int(factor))
    if values.kind == "flag" and change == "everything":
        return _with_other_end(row)
    if values.kind == "count" and change == "everything" and values.is_constant and values.range()[0] == values.range()[1]:
        return torch.where(row.long() > 0, row.long() - 1, row.long() + 1).to(row.dtype)
    return ordinary(values, row, change, draw)


def _scale(values: InputValues) -> float:
    finite = values.seen[values.seen.isfinite()]
    return float(finite.abs().max()) if finite.numel() and finite.any() else 1.0


def _is_positive(values: InputValues) -> bool:
    return not values.seen.is_complex() and not bool((values.seen < 0).any())


def _normal(values: InputValues, row: Tensor, draw: torch.Generator, factor: float) -> Tensor:
    """Return normally distributed numbers of the sample's magnitude; absolute values if the sample has no negative ones."""
    wide = torch.complex128 if row.is_complex() else torch.float64
    drawn = torch.randn(row.shape, generator=draw, dtype=wide)
    drawn = drawn.abs() if _is_positive(values) else drawn
    return (drawn * (_scale(values) * factor)).to(row.device, row.dtype)


def _one_sided(values: InputValues, row: Tensor, draw: torch.Generator, factor: float) -> Tensor:
    """Return numbers of one sign: negative if the sample has both, so that a padding of zeros would be the largest."""
    drawn = _normal(values, row, draw, factor)
    return drawn if drawn.is_complex() or _is_positive(values) else -drawn.abs()


def _opposite(values: InputValues, row: Tensor, draw: torch.Generator, sign: int) -> Tensor:
    """Return numbers of the sample's magnitude and one sign: the sign that it does not have, or positive if it has both."""
    drawn = _within(values, row, draw)
    return drawn * sign if drawn.is_complex() or _is_positive(values) else drawn.abs()


def _within(values: InputValues, row: Tensor, draw: torch.Generator) -> Tensor:
    """Return uniform numbers in the sample's range; for a constant c from 0 to 2c, for zeros from 0 to 1."""
    if row.is_complex():
        return _normal(values, row, draw, 1)
    finite = values.seen[values.seen.isfinite()].double()
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    if low == high:
        low, high = (min(0.0, 2 * low), max(0.0, 2 * high)) if low else (0.0, 1.0)
    drawn = torch.rand(row.shape, generator=draw, dtype=torch.float64)
    return (drawn * (high - low) + low).to(row.device, row.dtype)


def _integers(values: InputValues, row: Tensor, draw: torch.Generator) -> Tensor:
    low, high = values.range()
    return torch.randint(low, high + 1, row.shape, generator=draw).to(row.device).to(row.dtype)


def _random_ids(values: InputValues, row: Tensor, draw: torch.Generator, *, keep_ends: bool) -> Tensor:
    """Return random ids without those that may mean padding; with `keep_ends`, ids of both ends keep their positions."""
    low, high = values.range()
    ends = {int(end) for end in (*row.flatten()[:1], *row.flatten()[-1:])} if keep_ends else set()
    avoided = sorted(value for value in {*values.pads, *ends} if low <= value <= high)
    size = high - low + 1 - len(avoided)
    if size < MIN_VOCABULARY:
        avoided, size = sorted(ends), high - low + 1 - len(ends)
    if size < 1:
        return row
    drawn = torch.randint(low, low + size, row.shape, generator=draw)
    for value in avoided:  # ascending, because each shifts the larger values
        drawn = torch.where(drawn >= value, drawn + 1, drawn)
    drawn = drawn.to(row.device).to(row.dtype)
    for value in ends:
        drawn = torch.where(row == value, row, drawn)
    return drawn


def _with_other_end(row: Tensor) -> Tensor:
    """Return flags with the second half inverted along axis 1, like a shorter or longer mask."""
    half = (row.shape[1] + 1) // 2 if row.ndim > 1 and row.shape[1] > 1 else 0
    turned = ~row if row.dtype == torch.bool else (1 - row.long()).to(row.dtype)
    return torch.cat([row[:, :half], turned[:, half:]], dim=1) if row.ndim > 1 else turned


def _reversed(row: Tensor) -> Tensor:
    """Return the row with its last axis reversed; `flip` does not support unsigned integers of 16 bits and more."""
    return row.index_select(-1, torch.arange(row.shape[-1] - 1, -1, -1, device=row.device))
