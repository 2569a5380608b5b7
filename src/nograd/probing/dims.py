"""Varying dimensions: which dimensions of the inputs vary, how far, and which output dimensions follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nograd.core.module import dtype_name
from nograd.core.tensors import TensorSpec
from nograd.probing.runs import ProbeRuns
from nograd.probing.samples import Place, Tensors, differing, groups, resized

__all__ = ["Dim", "find_dims", "input_specs", "output_specs"]


@dataclass(frozen=True, slots=True)
class Dim:
    """A varying dimension."""

    name: str
    places: tuple[Place, ...]
    """Its places in the inputs."""

    size: int
    """Its size in the sample."""

    near: int
    """Another size that the model ran."""

    far: int | None
    """A size of at least twice the sample's that the model ran, if any."""

    max_size: int | None
    """The largest size that the model runs, if known."""

    seen: tuple[int, ...] = ()
    """Its sizes in the other samples."""

    answers: Mapping[int, Tensors] = field(default_factory=dict, compare=False, repr=False)
    """Answers at other sizes."""

    @property
    def is_proven_by_samples(self) -> bool:
        """Whether only the samples show that it varies: the model does not run a cut or repeated sample."""
        return self.near not in self.answers

    @property
    def known(self) -> list[int]:
        """Other sizes that the model is known to run, not far above the sample's, ascending."""
        sizes = {self.near, self.far or self.max_size, *self.seen} - {self.size, None}
        return sorted(size for size in sizes if size is not None)


class _Resizer:
    """Runs the sample with some dimensions at other sizes, each size once."""

    def __init__(self, runs: ProbeRuns, sample: Tensors, samples: Sequence[Tensors], group: tuple[Place, ...]) -> None:
        self._runs, self._sample, self.group = runs, sample, group
        name, axis = group[0]
        self.size = sample[name].shape[axis]
        self.seen = tuple(dict.fromkeys(size for other in samples if (size := other[name].shape[axis]) != self.size))
        self.answers: dict[int, Tensors] = {}
        self._failed: set[int] = set()

    def can_run(self, size: int) -> bool:
        """Return whether the model runs the sample at this size."""
        if size == self.size or size in self.answers:
            return True
        if size in self._failed:
            return False
        answer = self._runs.attempt(resized(self._sample, self.group, size))
        if answer is None:
            self._failed.add(size)
            return False
        self.answers[size] = answer
        return True


def find_dims(runs: ProbeRuns, sample: Tensors, samples: Sequence[Tensors]) -> list[Dim]:
    """Return the varying dimensions: those in which the samples differ, and those that the model ran at another size.

    Differing samples are sufficient proof, because the model ran them. It may not run a cut or repeated sample, if another
    input contains its length or a token at its end has a meaning.
    """
    found: list[Dim] = []
    taken: set[Place] = set()
    together: set[Place] = set()
    for group in groups(sample, samples):
        if taken.isdisjoint(group) and not (len(group) == 1 and group[0] in together):
            resizer = _Resizer(runs, sample, samples, group)
            near = next(filter(resizer.can_run, _near_sizes(resizer)), None)
            if near is not None:
                taken.update(group)
                found.append(_measured(resizer, near, _dim_name(sample, group, [dim.name for dim in found])))
            elif resizer.seen and len(group) > 1:
                together.update(group)  # otherwise a mask of ones seems to vary independently of its ids
    for group in differing(sample, samples):
        rest = tuple(place for place in group if place not in taken)
        if rest:
            resizer = _Resizer(runs, sample, samples, rest)
            found.append(_measured(resizer, resizer.seen[0], _dim_name(sample, rest, [dim.name for dim in found])))
    return found


def _near_sizes(resizer: _Resizer) -> tuple[int, ...]:
    """Return the sizes to try: another sample's, or adjacent sizes, because the sample may have the smallest or largest
    size.
    """
    size = resizer.size
    return resizer.seen[:1] or ((size - 1, size + 1) if size > 2 else (size + 1,))


def _measured(resizer: _Resizer, near: int, name: str) -> Dim:
    """Find the range of a dimension: more than twice the sample's size, or else the largest size that runs, by bisection.

    Bisection needs sizes in steps of one. A model that takes only multiples of 8, or does not run repeated samples, gets no
    maximum.
    """
    size, can_run = resizer.size, resizer.can_run
    beyond = 2 * size + 3
    far = next((new for new in (beyond, 2 * size) if can_run(new)), None)
    max_size = None
    steps_of_one = can_run(near) and (abs(near - size) == 1 or can_run(size + 1) or can_run(size - 1))
    if far != beyond and steps_of_one:
        low, high = max(far or size, *resizer.seen, size), beyond
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if can_run(middle) else (low, middle)
        max_size = low
    return Dim(name, resizer.group, size, near, far, max_size, resizer.seen, resizer.answers)


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
    """Return the specs of the inputs, with names for varying sizes."""
    names = {place: dim.name for dim in dims for place in dim.places}
    return tuple(
        TensorSpec(
            name, dtype_name(tensor), tuple(names.get((name, axis), tensor.shape[axis]) for axis in range(1, tensor.ndim))
        )
        for name, tensor in sample.items()
    )


def output_specs(
    base: Tensors, dims: Sequence[Dim], samples: Sequence[tuple[Tensors, Tensors]]
) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """Return the specs of the outputs, and for each dimension that an output follows in another proportion, that output.

    Args:
        base: answers to the sample.
        dims: the varying dimensions.
        samples: all samples with their answers. If they differ in a dimension, they determine which outputs follow it;
            otherwise runs of the sample at other sizes do.
    """
    shapes: dict[str, list[int | str]] = {name: list(tensor.shape[1:]) for name, tensor in base.items()}
    uncuttable: dict[str, str] = {}
    for dim in dims:
        answers = _answers(dim, samples)
        for name, tensor in base.items():
            for axis, before in enumerate(tensor.shape[1:], start=1):
                if before == dim.size and all(size == outputs[name].shape[axis] for size, outputs in answers):
                    shapes[name][axis - 1] = dim.name
                elif any(outputs[name].shape[axis] != before for _, outputs in answers) and not (
                    dim.is_proven_by_samples and _follows_another(dims, dim, samples, (name, axis), before)
                ):  # such as a strided layer, or "length minus two"
                    shapes[name][axis - 1] = f"{name}_{axis}"
                    uncuttable[dim.name] = name
    return tuple(TensorSpec(name, _host_dtype(base[name]), tuple(shape)) for name, shape in shapes.items()), uncuttable


def _answers(dim: Dim, samples: Sequence[tuple[Tensors, Tensors]]) -> list[tuple[int, Tensors]]:
    """Return answers at other sizes: of the resized sample, or if it does not run, of the other samples."""
    if not dim.is_proven_by_samples:
        return list(dim.answers.items())
    name, axis = dim.places[0]
    return [(size, answer) for given, answer in samples if (size := given[name].shape[axis]) != dim.size]


def _follows_another(
    dims: Sequence[Dim], dim: Dim, samples: Sequence[tuple[Tensors, Tensors]], place: Place, before: int
) -> bool:
    """Return whether an output axis has the size of another dimension in every sample."""
    name, axis = place
    return any(
        other is not dim
        and other.size == before
        and all(size == leaves[name].shape[axis] for size, leaves in _answers(other, samples))
        for other in dims
    )


def _host_dtype(tensor: Tensor) -> str:
    """Return the dtype on the host: half precision becomes float32 (see `Backend.run`)."""
    return "float32" if tensor.dtype in (torch.float16, torch.bfloat16) else dtype_name(tensor)
