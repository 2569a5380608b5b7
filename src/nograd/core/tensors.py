"""Batch, TensorSpec and Signature: the data that layers exchange, and its description.

A Batch is a mapping of host arrays that share dimension 0, the row. A Signature describes names, dtypes and row shapes of a
model's inputs and outputs, their varying dimensions, and how rows of different lengths may share a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from math import prod
from typing import Any, Literal, TypeAlias

import ml_dtypes  # registers bfloat16 with numpy
import numpy as np
import numpy.typing as npt

from nograd.core.independence import Independence
from nograd.errors import SignatureError

Array: TypeAlias = npt.NDArray[Any]
Batch: TypeAlias = Mapping[str, Array]
"""Arrays by name, each `[rows, ...]`, C order, in host memory."""

Layout: TypeAlias = tuple[str, tuple[int, ...]]
"""Dtype name and shape of a tensor."""

Batching: TypeAlias = Literal["pad", "equal_lengths", "alone"]
"""How rows of different requests may share a run: padded to the longest, only at equal lengths, or never."""

__all__ = [
    "Array",
    "Batch",
    "Batching",
    "Layout",
    "Signature",
    "TensorSpec",
    "check_limits",
    "check_range",
    "concat",
    "cut_back",
    "dtype_name",
    "join_arrays",
    "num_rows",
    "split",
    "too_large",
]

TEXT = "bytes"
"""Dtype name of text: one string per row in an object array."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and row shape of a tensor."""

    name: str
    dtype: str
    """numpy's dtype name (`float32`, `int64`, `bfloat16`, `bool`, ...), or `bytes` for text."""

    shape: tuple[int | str, ...] = ()
    """Shape of one row, without dimension 0. A string names a varying dimension, such as `tokens`."""

    pad_value: float = 0
    """Value that pads shorter rows; used only if the signature's batching is `pad`."""

    default: float | None = None
    """Value of the whole input if the caller omits it (1 for a mask); None: the input is required."""

    limits: tuple[int, int] | None = None
    """Smallest and largest value of an integer input, if known, such as the ids of an embedding. On values out of range some
    backends raise, some return zeros, and a GPU context is lost.
    """

    def __post_init__(self) -> None:
        if self.dtype != TEXT:
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)

    @property
    def varying(self) -> tuple[str, ...]:
        """Names of the varying dimensions."""
        return tuple(size for size in self.shape if isinstance(size, str))

    @property
    def row_bytes(self) -> int:
        """Bytes per row, without varying dimensions; for text, the size of a pointer."""
        itemsize = 8 if self.dtype == TEXT else np.dtype(self.dtype).itemsize
        return itemsize * prod(size for size in self.shape if isinstance(size, int))

    def __str__(self) -> str:
        return f"{_word(self.dtype)} [{', '.join(map(str, ('rows', *self.shape)))}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a model, and how its rows may be batched."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    """Empty until the model has run."""

    batching: Batching = "pad"
    reason: str = ""
    """Reason for `batching`, in one sentence."""

    max_sizes: Mapping[str, int] = field(default_factory=dict)
    """Largest size of a varying dimension, if known, such as the number of positions of a transformer."""

    repeatable: bool = True
    """False if equal inputs gave different answers: the model draws random numbers or keeps state."""

    min_sizes: Mapping[str, int] = field(default_factory=dict)
    """Smallest size of a varying dimension, if above 1, such as the kernel size of a convolution."""

    independence: Independence | None = field(default=None, compare=False)
    """How far rows influence each other, measured on this backend and precision; None: not measured."""

    tried_sizes: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Largest size that the model answered in the probe, of a dimension without an entry in `max_sizes`: no limit was found."""

    places: Mapping[str, tuple[str, int]] = field(init=False, repr=False, compare=False)
    """Varying dimensions of the inputs in order of appearance -> first input and axis with that dimension."""

    _plain: tuple[tuple[str, np.dtype[Any], tuple[Any, ...]], ...] | None = field(init=False, repr=False, compare=False)
    """Name, dtype and row shape of every input; None if an input is text, varies, or has limits."""

    def __post_init__(self) -> None:
        places: dict[str, tuple[str, int]] = {}
        for spec in self.inputs:
            for axis, size in enumerate(spec.shape, start=1):
                if isinstance(size, str):
                    places.setdefault(size, (spec.name, axis))
        object.__setattr__(self, "places", places)
        is_plain = not any(spec.dtype == TEXT or spec.varying or spec.limits is not None for spec in self.inputs)
        plain = tuple([(spec.name, _numpy_dtype(spec.dtype), spec.shape) for spec in self.inputs]) if is_plain else None
        object.__setattr__(self, "_plain", plain)

    @property
    def lengths(self) -> tuple[str, ...]:
        """Names of the varying dimensions of the inputs, in order of appearance."""
        return tuple(self.places)

    @property
    def row_bytes(self) -> int:
        """Bytes per row of inputs; 0 if rows differ in size."""
        if self.places or any(spec.dtype == TEXT for spec in self.inputs):
            return 0
        return sum(spec.row_bytes for spec in self.inputs)

    def size_range(self, dim: str) -> tuple[int, int | None]:
        """Return the smallest and largest size of a varying dimension; None if the largest is unknown."""
        return self.min_sizes.get(dim, 1), self.max_sizes.get(dim)

    def allowed_size(self, dim: str, wanted: int) -> int:
        """Return the allowed size that is nearest to `wanted`."""
        smallest, largest = self.size_range(dim)
        return max(smallest, wanted if largest is None else min(wanted, largest))

    def describe_sizes(self) -> str:
        """Describe the limits of varying dimensions, such as `tokens 1 to 512, height at least 3`; empty if unknown."""
        limited = [dim for dim in self.places if dim in self.min_sizes or dim in self.max_sizes]
        return ", ".join(f"{dim} {_range_text(*self.size_range(dim))}" for dim in limited)

    def describe_limits(self) -> str:
        """Return `describe_sizes`, and up to which size no limit was found; empty if neither is known.

        >>> ids = TensorSpec("ids", "int64", ("tokens",))
        >>> Signature((ids,), min_sizes={"tokens": 3}, tried_sizes={"tokens": 1024}).describe_limits()
        'tokens at least 3; tokens: no limit found up to 1024'
        """
        tried = [f"{dim}: no limit found up to {size}" for dim, size in self.tried_sizes.items() if dim not in self.max_sizes]
        return "; ".join(text for text in (self.describe_sizes(), *tried) if text)

    def check(self, batch: Mapping[str, Any]) -> Batch:
        """Convert a batch to the model's inputs.

        Fitting arrays pass through unchanged. Python numbers and lists get the model's dtype. Arrays keep their kind: float64
        becomes float32 for a float32 model, int64 raises. Integers outside of the target's range raise. Missing inputs get
        their default.

        Args:
            batch: one entry per input, each `[rows, ...]`.

        Returns:
            C-contiguous arrays, `[rows, ...]`, in the signature's order.

        Raises:
            SignatureError: a name, dtype, shape or the number of rows does not match the model.
        """
        if self._fits(batch):
            return batch
        self._check_names(batch)
        arrays = {spec.name: _as_array(batch[spec.name], spec) for spec in self.inputs if spec.name in batch}
        sizes = self._check_shapes({name: (dtype_name(array.dtype), array.shape) for name, array in arrays.items()})
        if len(arrays) == len(self.inputs):
            return arrays
        return {spec.name: arrays[spec.name] if spec.name in arrays else _filled(spec, sizes) for spec in self.inputs}

    def _fits(self, batch: Mapping[str, Any]) -> bool:
        """Fast path for typical server requests: all inputs are present, with the right dtype and a fixed shape."""
        plain = self._plain
        if plain is None or len(batch) != len(plain):
            return False
        rows = 0
        for name, dtype, shape in plain:
            array = batch.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or not array.flags.c_contiguous:
                return False
            found = array.shape
            if not found or not found[0] or found[1:] != shape or (rows and found[0] != rows):
                return False
            rows = found[0]
        return True

    def check_layouts(self, layouts: Mapping[str, Layout]) -> dict[str, int]:
        """Check inputs by dtype and shape only, such as tensors on a GPU.

        Returns:
            The size of `rows` and of each varying dimension, by name.

        Raises:
            SignatureError: a name, dtype, shape or the number of rows does not match the model.
        """
        self._check_names(layouts)
        for spec in self.inputs:
            if spec.name in layouts and not _same_kind(layouts[spec.name][0], spec.dtype):
                raise _mismatch(spec, layouts[spec.name])
        return self._check_shapes(layouts)

    def sizes_of(self, batch: Batch) -> tuple[int, ...]:
        """Return the sizes of the varying dimensions of a checked batch, in the order of `lengths`."""
        if not self.places:
            return ()
        return tuple([batch[name].shape[axis] for name, axis in self.places.values()])

    def _check_names(self, batch: Mapping[str, Any]) -> None:
        known = [spec.name for spec in self.inputs]
        for name in batch:
            if name not in known:
                raise SignatureError(f"unknown input {name!r}; the model takes {', '.join(map(repr, known))}")
        for spec in self.inputs:
            if spec.name not in batch and spec.default is None:
                raise SignatureError(f"input {spec.name!r} is missing; the model takes {', '.join(map(repr, known))}")

    def _check_shapes(self, layouts: Mapping[str, Layout]) -> dict[str, int]:
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            if spec.name in layouts:
                self._check_shape(layouts[spec.name], spec, sizes)
        return {name: size for name, (size, _) in sizes.items()}

    def _check_shape(self, layout: Layout, spec: TensorSpec, sizes: dict[str, tuple[int, str]]) -> None:
        """Check a shape against its spec. `sizes` collects the size of each named dimension, and the input that set it."""
        _, shape = layout
        if len(shape) != len(spec.shape) + 1:
            raise _mismatch(spec, layout)
        if shape[0] == 0:
            raise SignatureError(f"input {spec.name!r} has no rows; a batch must have at least 1")
        for size, given in zip(("rows", *spec.shape), shape, strict=True):
            if isinstance(size, int):
                if given != size:
                    raise _mismatch(spec, layout)
                continue
            known, where = sizes.setdefault(size, (given, spec.name))
            if given != known:
                raise SignatureError(f"input {spec.name!r} has {given} {size}, input {where!r} has {known}; they must agree")
            smallest, largest = self.size_range(size)
            if given < smallest or (largest is not None and given > largest):
                allowed = _range_text(smallest, largest)
                raise SignatureError(f"input {spec.name!r} has {given} {size}; the model takes {allowed}")


def _range_text(smallest: int, largest: int | None) -> str:
    return f"at least {smallest}" if largest is None else f"{smallest} to {largest}"


def _mismatch(spec: TensorSpec, layout: Layout) -> SignatureError:
    dtype, shape = layout
    return SignatureError(f"input {spec.name!r} is {_word(dtype)} {list(shape)}; the model takes {spec}")


def _word(dtype: str) -> str:
    """Return the dtype as users know it: `text` for all kinds of strings."""
    return "text" if dtype == TEXT or dtype.startswith("str") else dtype


def _filled(spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    shape = [size if isinstance(size, int) else sizes[size] for size in ("rows", *spec.shape)]
    return np.full(shape, spec.default, dtype=spec.dtype)


@cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return numpy's name of a dtype, `bytes` for objects; cached because `dtype.name` takes 1.5 us each time."""
    return TEXT if dtype.kind == "O" else dtype.name


def _as_array(value: Any, spec: TensorSpec) -> Array:
    array = _in_dtype(value, spec)
    if spec.limits is not None and array.size:
        check_limits(int(array.min()), int(array.max()), spec)
    return array


def check_limits(low: int, high: int, spec: TensorSpec) -> None:
    """Raise SignatureError if integers from `low` to `high` exceed the spec's limits."""
    if spec.limits is not None and (low < spec.limits[0] or high > spec.limits[1]):
        worst = low if low < spec.limits[0] else high
        raise SignatureError(f"input {spec.name!r} contains {worst}; the model takes {spec.limits[0]} to {spec.limits[1]}")


def _in_dtype(value: Any, spec: TensorSpec) -> Array:
    if spec.dtype == TEXT:
        return _as_text(value, spec)
    if isinstance(value, np.ndarray) and dtype_name(value.dtype) == spec.dtype and value.dtype.isnative:
        return value if value.flags.c_contiguous else np.ascontiguousarray(value)
    if isinstance(value, np.ndarray | np.generic):
        return _cast(np.asarray(value), spec)
    return _from_python(value, spec)


def _as_text(value: Any, spec: TensorSpec) -> Array:
    if isinstance(value, np.ndarray):
        array = value.astype(object, copy=False)
    else:  # numpy would convert numbers in a list of strings to strings
        array = np.empty(_uniform(value, spec).shape, dtype=object)
        array[...] = value
    for item in array.flat:
        if not isinstance(item, str):
            raise SignatureError(f"input {spec.name!r} contains {type(item).__name__}; the model takes text")
    return array


def _from_python(value: Any, spec: TensorSpec) -> Array:
    """Convert lists and numbers, which have no dtype, to the model's dtype if no value changes its kind."""
    array = _uniform(value, spec)
    if array.size == 0:
        return array.astype(spec.dtype)
    if array.dtype.kind in "iu" and _kind(spec.dtype) == "floating":
        return _narrowed(array, spec)
    return _cast(array, spec)


def _uniform(value: Any, spec: TensorSpec) -> Array:
    try:
        return np.asarray(value)
    except ValueError:
        raise SignatureError(
            f"input {spec.name!r} is a ragged list: its rows differ in length; give rows of equal length"
        ) from None


def _kind(dtype: str) -> str:
    """Return `floating`, `integer`, or the dtype itself: casts may change the width of a number, but not its kind."""
    if "float" in dtype:
        return "floating"
    return "integer" if "int" in dtype else dtype


def _same_kind(given: str, wanted: str) -> bool:
    return given == wanted or _kind(given) == _kind(wanted)


def _cast(array: Array, spec: TensorSpec) -> Array:
    """Change the width of numbers, but not their kind."""
    target = np.dtype(spec.dtype)
    if not _same_kind(array.dtype.name, spec.dtype):
        raise _mismatch(spec, (array.dtype.name, array.shape))
    if target.kind in "iu" and array.size:
        check_range(int(array.min()), int(array.max()), spec)
    return _narrowed(array, spec)


def check_range(low: int, high: int, spec: TensorSpec) -> None:
    """Raise SignatureError if integers from `low` to `high` exceed the range of the spec's dtype."""
    limits = np.iinfo(spec.dtype)
    if low < limits.min or high > limits.max:
        worst = low if low < limits.min else high
        raise SignatureError(f"input {spec.name!r} contains {worst}; {spec.dtype} goes from {limits.min} to {limits.max}")


def _narrowed(array: Array, spec: TensorSpec) -> Array:
    try:
        with np.errstate(over="raise"):
            return array.astype(spec.dtype, order="C")
    except FloatingPointError:
        raise too_large(float(abs(array).max()), spec) from None


def too_large(value: float, spec: TensorSpec) -> SignatureError:
    """Return the error for a floating value that overflows the spec's dtype."""
    limit = float(ml_dtypes.finfo(spec.dtype).max)  # type: ignore[no-untyped-call]
    return SignatureError(f"input {spec.name!r} contains {value:g}; {spec.dtype} goes to {limit:g}")


def num_rows(batch: Batch) -> int:
    """Return the size of dimension 0."""
    for array in batch.values():
        return len(array)
    raise SignatureError("the batch contains no arrays")


def concat(batches: Sequence[Batch], specs: Iterable[TensorSpec]) -> Batch:
    """Concatenate batches; shorter rows are padded to the longest.

    Args:
        batches: checked batches; at least one.
        specs: one spec per array, with its padding value.

    Returns:
        For each spec an array `[sum of rows, ...]`; varying dimensions have the largest size of all batches.
    """
    if len(batches) == 1:
        return batches[0]
    return {spec.name: _joined([batch[spec.name] for batch in batches], spec) for spec in specs}


def _joined(arrays: Sequence[Array], spec: TensorSpec) -> Array:
    """Join arrays; rows of fixed shape, the usual case, skip the comparison of shapes."""
    return join_arrays(arrays, spec.pad_value) if spec.varying else np.concatenate(arrays)


def join_arrays(arrays: Sequence[Array], pad_value: float = 0) -> Array:
    """Concatenate arrays along the rows; dimensions of different sizes are padded with `pad_value`."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    row_shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    joined = np.full((sum(len(array) for array in arrays), *row_shape), pad_value, dtype=arrays[0].dtype)
    start = 0
    for array in arrays:
        joined[(slice(start, start + len(array)), *(slice(size) for size in array.shape[1:]))] = array
        start += len(array)
    return joined


def split(batch: Batch, rows: Sequence[int]) -> list[Batch]:
    """Split a batch into parts of `rows[i]` rows each, as views."""
    if len(rows) == 1:
        return [batch]
    ends = list(accumulate(rows))
    if len(batch) == 1:  # fast path: most models have one output, and this runs per request
        ((name, array),) = batch.items()
        if ends[-1] == len(rows) == len(array) and min(rows) == 1:
            return [{name: row} for row in array[:, None]]
        return [{name: array[end - count : end]} for end, count in zip(ends, rows, strict=True)]
    return [{name: array[end - count : end] for name, array in batch.items()} for end, count in zip(ends, rows, strict=True)]


def cut_back(batch: Batch, specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> Batch:
    """Remove the padding from outputs.

    Args:
        batch: outputs of a padded run, `[rows, ...]`.
        specs: specs of the outputs; dimensions in `sizes` are cut.
        sizes: size of each varying dimension before padding.
    """
    result = dict(batch)
    for spec in specs:
        if spec.varying:
            cuts = tuple(slice(sizes.get(size)) if isinstance(size, str) else slice(None) for size in spec.shape)
            result[spec.name] = batch[spec.name][(slice(None), *cuts)]
    return result
