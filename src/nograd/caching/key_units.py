"""Units of caching, one per key: a row, or a whole part if rows are not independent. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from nograd.caching.codec import encode
from nograd.caching.keys import Keys
from nograd.core.tensors import TEXT, Batch, Signature, join_arrays, num_rows, split

__all__ = ["Texts", "Units", "fits_outputs", "why_not"]

_HALF = ("float16", "bfloat16")


def why_not(signature: Signature) -> str:
    """Return why a model's outputs cannot be cached, in one sentence; empty if they can."""
    if not signature.repeatable:
        return signature.reason
    text = next((spec.name for spec in signature.outputs if spec.dtype == TEXT), None)
    return "" if text is None else f"output {text!r} is text; only numbers are cached"


def fits_outputs(outputs: Batch, signature: Signature, *, rows: int, sizes: Mapping[str, int]) -> bool:
    """Return whether arrays match the model's outputs in name, dtype and shape; True while the outputs are unknown.

    Args:
        outputs: arrays from a cache that other programs write to.
        signature: signature of the model.
        rows: expected number of rows.
        sizes: sizes of varying dimensions, by name. Other varying dimensions may have any size that is equal in all outputs.
    """
    if not signature.outputs:
        return True
    if outputs.keys() != {spec.name for spec in signature.outputs}:
        return False
    known = {"rows": rows, **sizes}
    for spec in signature.outputs:
        array = outputs[spec.name]
        wanted = ("rows", *spec.shape)
        if array.dtype != np.dtype("float32" if spec.dtype in _HALF else spec.dtype) or array.ndim != len(wanted):
            return False  # backends return half precision as float32
        for size, found in zip(wanted, array.shape, strict=True):
            if found != (size if isinstance(size, int) else known.setdefault(size, found)):
                return False
    return True


class Texts:
    """Texts as units: cached texts are not tokenized.

    Args:
        texts: one text per unit.
        keys: keys of the model and its tokenizer.
        prepare: converts a text and its position to one checked row.
        signature: signature of the model.
    """

    def __init__(self, texts: Sequence[str], keys: Keys, prepare: Callable[[str, int], Batch], signature: Signature) -> None:
        self.keys = list(map(keys.of_text, texts))
        self._texts = texts
        self._prepare = prepare
        self._signature = signature

    def fits(self, position: int, outputs: Batch) -> bool:  # noqa: ARG002  the length of a text is not known
        """Return whether arrays can be the outputs of the unit at a position."""
        return fits_outputs(outputs, self._signature, rows=1, sizes={})

    def take(self, positions: Sequence[int]) -> list[Batch]:
        """Return the texts at some positions as parts of one row."""
        return [self._prepare(self._texts[position], position) for position in positions]

    def values(self, outputs: Sequence[Batch]) -> list[bytes]:
        """Encode the outputs of the taken texts."""
        return list(map(encode, outputs))

    def joined(self, units: Sequence[Batch], *, writable: bool = True) -> list[Batch]:
        """Return the outputs of each text, copied if they must be writable."""
        return list(map(_owned, units)) if writable else list(units)


class Units:
    """The units of several parts, numbered consecutively.

    Units are created before parts are joined, so that keys do not depend on padding.

    `keys` contains one key per unit.

    Args:
        parts: checked batches, each with rows of equal length.
        keys: keys of the model.
        signature: signature of the model; if its batching is `alone`, each part is one unit.
    """

    def __init__(self, parts: Sequence[Batch], keys: Keys, signature: Signature) -> None:
        self._parts = parts
        self._signature = signature
        self._by_row = signature.batching != "alone"
        if self._by_row:
            by_part = [keys.of_rows(part) for part in parts]
            self.keys: list[bytes] = by_part[0] if len(by_part) == 1 else [key for some in by_part for key in some]
        else:
            self.keys = [keys.of_batch(part) for part in parts]

    def fits(self, position: int, outputs: Batch) -> bool:
        """Return whether arrays can be the outputs of the unit at a position."""
        if self._by_row:
            part = self._parts[bisect_right(list(accumulate(map(num_rows, self._parts))), position)]
        else:
            part = self._parts[position]
        sizes = dict(zip(self._signature.lengths, self._signature.sizes_of(part), strict=True))
        return fits_outputs(outputs, self._signature, rows=1 if self._by_row else num_rows(part), sizes=sizes)

    def take(self, positions: Sequence[int]) -> list[Batch]:
        """Return the units at some positions, grouped by part; `positions` are ascending."""
        if not self._by_row:
            return [self._parts[position] for position in positions]
        if len(positions) == len(self.keys):
            return list(self._parts)
        ends = list(accumulate(map(num_rows, self._parts)))
        rows: dict[int, list[int]] = {}
        for position in positions:
            part = bisect_right(ends, position)
            rows.setdefault(part, []).append(position - (ends[part - 1] if part else 0))
        return [{name: array[chosen] for name, array in self._parts[part].items()} for part, chosen in rows.items()]

    def values(self, outputs: Sequence[Batch]) -> list[bytes]:
        """Encode the outputs of the taken units."""
        if not self._by_row:
            return list(map(encode, outputs))
        return [encode(row) for output in outputs for row in split(output, [1] * num_rows(output))]

    def joined(self, units: Sequence[Batch], *, writable: bool = True) -> list[Batch]:
        """Return the outputs of each part, copied if they must be writable."""
        if not self._by_row or len(units) == 1:
            return list(map(_owned, units)) if writable else list(units)
        found: list[Batch] = []
        start = 0
        for part in self._parts:
            some = units[start : start + num_rows(part)]
            start += len(some)
            found.append({name: join_arrays([unit[name] for unit in some]) for name in some[0]})
        return found


def _owned(outputs: Batch) -> Batch:
    """Return writable copies: cached arrays are read-only."""
    return {name: array.copy() for name, array in outputs.items()}
