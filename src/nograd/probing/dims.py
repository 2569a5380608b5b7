"""Which dimensions of a model's inputs vary, how far, and which dimensions of its outputs follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nograd.module import dtype_name
from nograd.probing.runs import Runs
from nograd.probing.samples import Place, Tensors, groups, resized
from nograd.tensors import TensorSpec

__all__ = ["Dim", "find_dims", "input_specs", "output_specs"]


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension that varies."""

    name: str
    places: tuple[Place, ...]
    """Where it occurs in the inputs."""

    size: int
    """Its size in the sample."""

    near: int
    """Another size that the model ran."""

    far: int | None
    """A size of twice the sample's or more that the model ran, if any."""

    max_size: int | None
    """The largest size that the model runs, where that is known."""


def find_dims(runs: Runs, sample: Tensors, samples: Sequence[Tensors]) -> list[Dim]:
    """Return the dimensions that vary: those in which the samples differ, and those that the model ran at another size."""
    found: list[Dim] = []
    taken: set[Place] = set()
    for group in groups(sample, samples):
        if taken.isdisjoint(group) and (near := _other_size(runs, sample, samples, group)):
            taken.update(group)
            found.append(_measured(runs, sample, samples, group, near, [dim.name for dim in found]))
    return found


def _other_size(runs: Runs, sample: Tensors, samples: Sequence[Tensors], group: Sequence[Place]) -> int | None:
    name, axis = group[0]
    size = sample[name].shape[axis]
    seen = [other[name].shape[axis] for other in samples if other[name].shape[axis] != size]
    near = seen[0] if seen else size - 1 if size > 2 else size + 1
    return near if runs.attempt(resized(sample, group, near)) is not None else None


def _measured(
    runs: Runs, sample: Tensors, samples: Sequence[Tensors], group: tuple[Place, ...], near: int, taken: Sequence[str]
) -> Dim:
    """Find how far the dimension goes: twice the sample's size and more, or else the largest that runs, by halving.

    Halving is right where sizes go in steps of one; a model that takes multiples of 8 only has no maximum to be found so.
    """
    name, axis = group[0]
    size = sample[name].shape[axis]

    def can_run(new: int) -> bool:
        return runs.attempt(resized(sample, group, new)) is not None

    beyond = 2 * size + 3
    far = next((new for new in (beyond, 2 * size) if can_run(new)), None)
    low, high = max(far or size, *(other[name].shape[axis] for other in samples)), beyond
    if far == beyond or not (abs(near - size) == 1 or can_run(size + 1) or can_run(size - 1)):
        return Dim(_dim_name(sample, group, taken), group, size, near, far, None)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if can_run(middle) else (low, middle)
    return Dim(_dim_name(sample, group, taken), group, size, near, far, low)


def _dim_name(sample: Tensors, group: Sequence[Place], taken: Sequence[str]) -> str:
    name, axis = group[0]
    tensor = sample[name]
    if tensor.ndim == 4 and axis in (2, 3):
        word = "height" if axis == 2 else "width"
    elif axis == 1 and tensor.ndim == 2 and not tensor.is_floating_point():
        word = "tokens"
    else:
        word = "length" if axis == 1 else f"size_{axis}"
    return word if word not in taken else f"{name}_{word}"


def input_specs(sample: Tensors, dims: Sequence[Dim]) -> tuple[TensorSpec, ...]:
    """Return the inputs' specs; sizes that vary by name."""
    names = {place: dim.name for dim in dims for place in dim.places}
    return tuple(
        TensorSpec(
            name, dtype_name(tensor), tuple(names.get((name, axis), tensor.shape[axis]) for axis in range(1, tensor.ndim))
        )
        for name, tensor in sample.items()
    )


def output_specs(
    runs: Runs, sample: Tensors, base: Tensors, dims: Sequence[Dim]
) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """Return the outputs' specs, and for each dimension that an output follows in another proportion, that output."""
    shapes: dict[str, list[int | str]] = {name: list(tensor.shape[1:]) for name, tensor in base.items()}
    uncuttable: dict[str, str] = {}
    for dim in dims:
        sizes = [size for size in (dim.near, dim.far or dim.max_size) if size is not None and size != dim.size]
        moved = [(size, runs.attempt(resized(sample, dim.places, size))) for size in sizes]
        for name, tensor in base.items():
            for axis, before in enumerate(tensor.shape[1:]):
                after = [(size, outputs[name].shape[axis + 1]) for size, outputs in moved if outputs is not None]
                if before == dim.size and all(size == seen for size, seen in after):
                    shapes[name][axis] = dim.name
                elif any(seen != before for _, seen in after):  # a strided layer, or "length minus two"
                    shapes[name][axis] = f"{name}_{axis + 1}"
                    uncuttable[dim.name] = name
    return tuple(TensorSpec(name, _host_dtype(base[name]), tuple(shape)) for name, shape in shapes.items()), uncuttable


def _host_dtype(tensor: Tensor) -> str:
    """Half precision comes to the host as float32 (see `Backend.run`)."""
    return "float32" if tensor.dtype in (torch.float16, torch.bfloat16) else dtype_name(tensor)
