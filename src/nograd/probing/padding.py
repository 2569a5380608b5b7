"""Whether rows of different lengths may be padded to one, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from torch import nn

from nograd.module import Call
from nograd.probing.dims import Dim
from nograd.probing.runs import Runs
from nograd.probing.samples import Tensors, completed, cut, padded, resized
from nograd.tensors import Signature, TensorSpec

__all__ = ["find_padding"]

GENERATED = (("int64", 1, 0), ("bool", 1, 0), ("bool", 0, 1))
"""Masks worth generating: dtype, value over what is given, value over padding (transformers'; torch's two kinds)."""


def find_padding(
    runs: Runs,
    sample: Tensors,
    base: Tensors,
    dims: Sequence[Dim],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    uncuttable: Mapping[str, str],
) -> tuple[Signature, Call]:
    """Look for pad values that leave every answer unchanged, trying a generated mask where `forward` takes one.

    Args:
        runs: of a model whose rows do not influence each other.
        sample: inputs of two rows or more, and what the model answers to them, `base`.
        dims: the dimensions that vary; `uncuttable` names those that an output follows in another proportion.
        inputs: their specs, and the `outputs`' specs.
    """
    for dim, output in uncuttable.items():
        reason = f"output {output!r} follows {dim} in another proportion and could not be cut back"
        return Signature(inputs, outputs, "equal_lengths", reason), runs.call
    for specs, call in _candidates(runs, sample, inputs):
        given = completed(sample, specs)
        keeps_answers = call is runs.call or runs.same(base, runs.attempt(given, call))
        if keeps_answers and all(_is_harmless(runs, call, given, dim, specs, outputs) for dim in dims):
            values = ", ".join(f"{spec.name} with {spec.pad_value:g}" for spec in specs if spec.varying)
            return Signature(specs, outputs, "pad", f"padding {values} leaves every answer unchanged"), call
    reason = f"padding {' and '.join(dim.name for dim in dims)} changes the answers"
    return Signature(inputs, outputs, "equal_lengths", reason), runs.call


def _candidates(runs: Runs, sample: Tensors, inputs: tuple[TensorSpec, ...]) -> Iterator[tuple[tuple[TensorSpec, ...], Call]]:
    masks = {spec.name for spec in inputs if spec.varying and _is_mask(spec, sample)}
    for mask_value, value in product((0, 1) if masks else (0,), _pad_values(runs.model)):
        yield tuple(_padded_with(spec, mask_value if spec.name in masks else value) for spec in inputs), runs.call
    for mask, value in product(_generated_masks(runs.call, inputs), _pad_values(runs.model)):
        yield (*(_padded_with(spec, value) for spec in inputs), mask), runs.call.with_input(mask.name)


def _is_harmless(
    runs: Runs, call: Call, sample: Tensors, dim: Dim, specs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> bool:
    """Run padded to twice the length and more, or, where the model takes no more, a shortened sample padded back."""
    target, own = dim.far or dim.max_size or dim.size, dim.size
    if target == own:
        own = min(dim.near, max(1, own // 2))
        places = [(spec.name, axis) for spec in specs for axis, size in enumerate(spec.shape, start=1) if size == dim.name]
        sample = resized(sample, places, own)
    expected, given = runs.attempt(sample, call), runs.attempt(padded(sample, specs, dim.name, target), call)
    return given is not None and own < target and runs.same(expected, cut(given, outputs, dim.name, own))


def _padded_with(spec: TensorSpec, value: float) -> TensorSpec:
    """A floating input is padded with 0: ids are what have a value of their own for padding."""
    return replace(spec, pad_value=0 if "float" in spec.dtype else value) if spec.varying else spec


def _is_mask(spec: TensorSpec, sample: Tensors) -> bool:
    """A mask by its name, or because it holds nothing but 0 and 1."""
    tensor = sample[spec.name]
    if "mask" in spec.name or spec.dtype == "bool":
        return True
    return not tensor.is_floating_point() and bool(((tensor == 0) | (tensor == 1)).all())


def _generated_masks(call: Call, inputs: tuple[TensorSpec, ...]) -> Iterator[TensorSpec]:
    """Masks that `forward` takes and the sample left out, one value over what is given, another over padding."""
    length = next((spec.shape[:1] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)), None)
    names = [name for name in call.optional if "mask" in name] if length else []
    for name, (dtype, default, pad_value) in product(names, GENERATED):
        yield TensorSpec(name, dtype, length or (), pad_value, default)


def _pad_values(model: nn.Module) -> list[int]:
    """Values worth trying as padding: the model's own padding index, 0, 1 (RoBERTa's)."""
    configured = getattr(getattr(model, "config", None), "pad_token_id", None)
    own = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    return list(dict.fromkeys(value for value in (configured, *own, 0, 1) if isinstance(value, int)))
