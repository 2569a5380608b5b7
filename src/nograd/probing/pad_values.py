"""Candidate padding values: stated by the user, read from padded rows of the samples, the model's own, 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from torch import Tensor, nn

from nograd.core.module import ModuleCall
from nograd.core.tensors import TensorSpec
from nograd.errors import SignatureError
from nograd.probing.samples import Tensors
from nograd.probing.values import is_mask

__all__ = ["Padding", "candidates", "check_stated", "model_pads", "read_padding", "stated_ids"]

Padding = Mapping[str, float]

GENERATED = (("int64", 1, 0), ("bool", 1, 0), ("bool", 0, 1))
"""Masks to generate: dtype, value over the row, value over padding (transformers'; both kinds of torch)."""

MAX_READ = 3
"""Maximum combinations of values from padded rows to try, those of the longest padding first."""


def model_pads(model: nn.Module) -> list[int]:
    """Return the model's padding index, 0, and 1 (RoBERTa's)."""
    configured = getattr(getattr(model, "config", None), "pad_token_id", None)
    own = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    return list(dict.fromkeys(value for value in (configured, *own, 0, 1) if isinstance(value, int)))


def stated_ids(stated: Padding) -> list[int]:
    """Return the stated values that may be ids."""
    return [int(value) for value in stated.values() if float(value).is_integer()]


def check_stated(stated: Padding, specs: Sequence[TensorSpec]) -> None:
    """Raise SignatureError for a stated name that is not an input, and for a value that the input cannot have."""
    known = {spec.name: spec for spec in specs}
    for name, value in stated.items():
        if name not in known:
            raise SignatureError(f"padding names the input {name!r}; the model takes {', '.join(map(repr, known))}")
        if not isinstance(value, int | float | np.number | np.bool_):
            raise SignatureError(f"padding of input {name!r} is a {type(value).__name__}; it must be one number")
        _check_value(known[name], float(value))


def _check_value(spec: TensorSpec, value: float) -> None:
    low, high = _range(spec)
    if not low <= value <= high or ("float" not in spec.dtype and value != int(value)):
        allowed = f"{low:g} to {high:g}" if "float" in spec.dtype else f"the integers {low} to {high}"
        raise SignatureError(f"padding of input {spec.name!r} is {value:g}; the model takes {allowed}")


def _range(spec: TensorSpec) -> tuple[float, float]:
    if spec.limits is not None:
        return spec.limits
    if spec.dtype == "bool":
        return 0, 1
    if "float" in spec.dtype or "complex" in spec.dtype:
        return float("-inf"), float("inf")
    limits = np.iinfo(spec.dtype)
    return int(limits.min), int(limits.max)


def read_padding(samples: Sequence[Tensors], specs: Sequence[TensorSpec]) -> list[dict[str, float]]:
    """Return the values that fill the ends of the samples' rows, jointly for all integer inputs of one length.

    An end has two or more places, or starts where a mask changes. The probe decides by running whether it is padding.
    """
    found: list[tuple[int, dict[str, float]]] = []
    for dim in dict.fromkeys(spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], str)):
        names = [spec.name for spec in specs if spec.shape == (dim,) and "float" not in spec.dtype]
        for sample in samples:
            found += _ends({name: sample[name] for name in names if name in sample})
    found.sort(key=lambda each: -each[0])
    unique: list[dict[str, float]] = []
    for _, values in found:
        if values not in unique:
            unique.append(values)
    return unique[:MAX_READ]


def _ends(inputs: Tensors) -> list[tuple[int, dict[str, float]]]:
    """Return for each row the number of trailing places with one value in every input, and these values."""
    if not inputs:
        return []
    each = {name: _end_lengths(tensor) for name, tensor in inputs.items()}
    width = next(iter(inputs.values())).shape[1]
    found: list[tuple[int, dict[str, float]]] = []
    for row, lengths in enumerate(zip(*each.values(), strict=True)):
        length = min(lengths)
        starts_with_mask = any(
            lengths[index] == length and _holds_flags(tensor[row]) for index, tensor in enumerate(inputs.values())
        )
        if length < width and (length > 1 or starts_with_mask):
            found.append((length, {name: float(int(tensor[row, -1])) for name, tensor in inputs.items()}))
    return found


def _end_lengths(tensor: Tensor) -> list[int]:
    """Return for each row the number of trailing places with one value."""
    wide = tensor.long()
    lengths: list[int] = (wide == wide[:, -1:]).long().fliplr().cumprod(1).sum(1).tolist()
    return lengths


def _holds_flags(row: Tensor) -> bool:
    wide = row.long()
    return bool(((wide == 0) | (wide == 1)).all())


def candidates(
    model: nn.Module,
    call: ModuleCall,
    sample: Tensors,
    inputs: tuple[TensorSpec, ...],
    read: Sequence[Padding],
    stated: Padding,
) -> Iterator[tuple[tuple[TensorSpec, ...], ModuleCall]]:
    """Yield specs with padding values and their call, each once; those with a generated mask come last."""
    seen: list[tuple[TensorSpec, ...]] = []
    for specs, way in _candidates(model, call, sample, inputs, read):
        fixed = tuple(replace(spec, pad_value=stated.get(spec.name, spec.pad_value)) for spec in specs)
        if fixed not in seen:
            seen.append(fixed)
            yield fixed, way


def _candidates(
    model: nn.Module, call: ModuleCall, sample: Tensors, inputs: tuple[TensorSpec, ...], read: Sequence[Padding]
) -> Iterator[tuple[tuple[TensorSpec, ...], ModuleCall]]:
    masks = {spec.name for spec in inputs if spec.varying and is_mask(spec, sample[spec.name])}
    own = model_pads(model)
    for mask_value, value in product((0, 1) if masks else (0,), own):
        yield tuple(_padded_with(spec, mask_value if spec.name in masks else value) for spec in inputs), call
    for values in read:
        yield tuple(_padded_with(spec, values.get(spec.name, 0)) for spec in inputs), call
    ids = [*({spec.name: value for spec in inputs} for value in own), *read]
    for mask, pads in product(_generated_masks(call, inputs), ids):
        yield (*(_padded_with(spec, pads.get(spec.name, 0)) for spec in inputs), mask), call.with_input(mask.name)


def _padded_with(spec: TensorSpec, value: float) -> TensorSpec:
    """Return the spec with a padding value. Floating inputs get 0 unless the user states a value; ids out of range are not
    tried.
    """
    if not spec.varying:
        return spec
    low, high = _range(spec)
    return replace(spec, pad_value=0 if "float" in spec.dtype or not low <= value <= high else value)


def _generated_masks(call: ModuleCall, inputs: tuple[TensorSpec, ...]) -> Iterator[TensorSpec]:
    """Yield masks that `forward` takes and the sample omits, with one value over the row and another over padding."""
    length = next((spec.shape[:1] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)), None)
    names = [name for name in call.optional if "mask" in name] if length else []
    for name, (dtype, default, pad_value) in product(names, GENERATED):
        yield TensorSpec(name, dtype, length or (), pad_value, default)
