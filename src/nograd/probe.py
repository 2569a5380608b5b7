"""probe: learn a model's Signature by running it, and find out how its rows may be batched.

Nothing is believed that was not run. From one or a few sample inputs the probe finds which dimensions vary (it runs
shorter and longer inputs), which outputs follow them, and whether a row's answer depends on its neighbours, on padding or on
earlier calls. The model is left as it was: modes, buffers and torch's random state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nograd.errors import SignatureError
from nograd.module import Call, EvalMode, is_tensor, to_tensors
from nograd.structure import Restore, flatten
from nograd.tensors import Batching, Signature, TensorSpec

__all__ = ["Probed", "probe"]

Tensors = dict[str, Tensor]
"""Inputs or outputs by name, each `[rows, ...]`."""

TOLERANCE = 1e-4
"""Largest difference, relative to the output's largest value, that float32 arithmetic in another order may cause.
Padding MiniLM to 128 tokens moves its embedding by 7e-8; a real effect of padding or neighbours moves answers by percents."""

HALF_TOLERANCE = 2e-2
"""The same for float16 (10 bits) and bfloat16 (7 bits of mantissa)."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe found."""

    signature: Signature
    call: Call
    restore: Restore
    """Puts outputs by name back into the model's own structure."""

    findings: tuple[str, ...] = ()
    """What limits batching, one sentence each; empty for a model whose rows batch freely."""


def probe(model: nn.Module, *samples: Any) -> Probed:
    """Learn how `model` is called, what it takes and gives, and how its rows may be batched.

    Args:
        model: any module whose inputs share dimension 0, the row.
        samples: one or more inputs the model can run: a tensor or array `[rows, ...]`, a tuple of them in the order
            of `forward`, or a dict by name. Two samples of different lengths are surer than one.

    Returns:
        The signature, the way to call the model, its output structure, and what limits batching.

    Raises:
        SignatureError: the model cannot run a sample, or an output does not have the row as its dimension 0.
    """
    if not samples:
        raise SignatureError("no sample was given; the probe needs at least one input that the model can run")
    call = Call.learn(model, samples[0])
    tensors = [to_tensors(sample, call, model) for sample in samples]
    with _undisturbed(model):
        return _Probe(model, call, tensors).run()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval and inference mode inside; modes, buffers and the random state as before outside."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.random.fork_rng(devices=_cuda_devices(model)), torch.inference_mode(), EvalMode(model)():
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape and not buffer.is_inference():
                    buffer.copy_(buffers[name])


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


@dataclass(frozen=True, slots=True)
class _Dim:
    """A dimension that varies: its name and where it occurs in the inputs."""

    name: str
    places: tuple[tuple[str, int], ...]
    max_size: int | None
    """The sample's size, where the model refused a longer one."""


class _Probe:
    """One probing: the runs, in the order in which each builds on what the one before found."""

    def __init__(self, model: nn.Module, call: Call, samples: list[Tensors]) -> None:
        self.model, self.call, self.samples = model, call, samples
        self.sample = _with_rows(samples[0], 2)
        self.restore: Restore

    def run(self) -> Probed:
        for sample in self.samples:
            _check_rows(sample)
            self._outputs(sample)
        base = self._outputs(self.sample)
        dims = self._varying_dims()
        inputs = self._input_specs(dims)
        outputs, uncuttable = self._output_specs(base, dims)
        findings: list[str] = []
        batching: Batching = "pad"
        reason = "rows do not influence each other; all inputs have one fixed shape"
        if not self._repeats(base):
            batching, reason = (
                "alone",
                "the same input gave two different answers: the model keeps state between calls, or draws random numbers",
            )
        elif neighbour := self._row_coupling(base):
            batching, reason = "alone", neighbour
        elif dims:
            inputs, batching, reason = self._padding(base, dims, inputs, outputs, uncuttable)
        if batching != "pad":
            findings.append(reason)
        sizes = {dim.name: dim.max_size for dim in dims if dim.max_size is not None}
        signature = Signature(inputs, outputs, batching, reason, sizes)
        return Probed(signature, self.call, self.restore, tuple(findings))

    # -- running

    def _outputs(self, tensors: Tensors) -> Tensors:
        """Run the model; raises SignatureError when it cannot, or when dimension 0 of an output is not the row."""
        rows = len(next(iter(tensors.values())))
        try:
            leaves, self.restore = flatten(self.call(self.model, tensors), is_tensor)
        except SignatureError:
            raise
        except Exception as error:  # whatever the model raises is reported to the caller as it stands
            given = ", ".join(f"{name} {_describe(tensor)}" for name, tensor in tensors.items())
            raise SignatureError(f"the model cannot run {given}: {type(error).__name__}: {error}") from error
        for name, leaf in leaves.items():
            if leaf.ndim == 0 or leaf.shape[0] != rows:
                raise SignatureError(
                    f"output {name!r} is {_describe(leaf)} for {rows} rows; every output must be [rows, ...]: "
                    "wrap the model in a module that returns only what belongs to a row"
                )
        return leaves

    def _try(self, tensors: Tensors) -> Tensors | None:
        try:
            return self._outputs(tensors)
        except SignatureError:
            return None

    # -- dimensions

    def _varying_dims(self) -> list[_Dim]:
        """Find dimensions that vary: alone first, then together with the others of equal size."""
        places = [(name, axis) for name, tensor in self.sample.items() for axis in range(1, tensor.ndim)]
        found: list[_Dim] = []
        taken: set[tuple[str, int]] = set()
        for group in _groups(places, self.sample, self.samples):
            if taken.isdisjoint(group) and self._can_resize(group):
                taken.update(group)
                found.append(self._named(group, found))
        return found

    def _can_resize(self, group: Sequence[tuple[str, int]]) -> bool:
        size = self.sample[group[0][0]].shape[group[0][1]]
        other = size - 1 if size > 2 else size + 1
        return self._try(_resized(self.sample, group, other)) is not None

    def _named(self, group: tuple[tuple[str, int], ...], found: Sequence[_Dim]) -> _Dim:
        size = self.sample[group[0][0]].shape[group[0][1]]
        grows = self._try(_resized(self.sample, group, size + 1)) is not None
        return _Dim(_dim_name(self.sample, group, [dim.name for dim in found]), group, None if grows else size)

    def _input_specs(self, dims: Sequence[_Dim]) -> tuple[TensorSpec, ...]:
        names = {place: dim.name for dim in dims for place in dim.places}
        return tuple(
            TensorSpec(
                name, _dtype(tensor), tuple(names.get((name, axis), tensor.shape[axis]) for axis in range(1, tensor.ndim))
            )
            for name, tensor in self.sample.items()
        )

    def _output_specs(self, base: Tensors, dims: Sequence[_Dim]) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
        """Return the outputs' specs, and for each dimension that an output follows in another proportion, that output."""
        shapes: dict[str, list[int | str]] = {name: list(tensor.shape[1:]) for name, tensor in base.items()}
        uncuttable: dict[str, str] = {}
        for dim in dims:
            size = self._size(dim)
            near = size - 1 if size > 2 else size + 1
            moved = [(new, self._resized_outputs(dim, new)) for new in (near, 2 * size)]
            for name, tensor in base.items():
                for axis, before in enumerate(tensor.shape[1:]):
                    after = [(new, outputs[name].shape[axis + 1]) for new, outputs in moved if outputs is not None]
                    if before == size and all(new == seen for new, seen in after):
                        shapes[name][axis] = dim.name
                    elif any(seen != before for _, seen in after):  # a strided layer, or "length minus two"
                        shapes[name][axis] = f"{name}_{axis + 1}"
                        uncuttable[dim.name] = name
        return tuple(TensorSpec(name, _host_dtype(base[name]), tuple(shape)) for name, shape in shapes.items()), uncuttable

    def _resized_outputs(self, dim: _Dim, size: int) -> Tensors | None:
        if dim.max_size is not None and size > dim.max_size:
            return None
        return self._try(_resized(self.sample, dim.places, size))

    def _size(self, dim: _Dim) -> int:
        name, axis = dim.places[0]
        return self.sample[name].shape[axis]

    # -- behaviour

    def _repeats(self, base: Tensors) -> bool:
        return self._same(base, self._outputs(self.sample)) and self._same(base, self._outputs(self.sample))

    def _row_coupling(self, base: Tensors) -> str:
        """Compare the first row among changed neighbours, and alone, with itself; returns what was found, or nothing."""
        alone = self._try({name: tensor[:1] for name, tensor in self.sample.items()})
        if alone is None:
            return "the model does not run one row alone"
        first = {name: tensor[:1] for name, tensor in base.items()}
        if not self._same(first, alone):
            return "a row's answer depends on the other rows of its batch"
        changed = self._try(_with_other_neighbours(self.sample))
        if changed is not None and not self._same(first, {name: tensor[:1] for name, tensor in changed.items()}):
            return "a row's answer depends on the other rows of its batch"
        return ""

    def _padding(
        self,
        base: Tensors,
        dims: Sequence[_Dim],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        uncuttable: Mapping[str, str],
    ) -> tuple[tuple[TensorSpec, ...], Batching, str]:
        """Look for pad values that leave every answer unchanged, trying a generated mask where `forward` takes one."""
        for dim in dims:
            if dim.name in uncuttable:
                return (
                    inputs,
                    "equal_lengths",
                    f"output {uncuttable[dim.name]!r} follows {dim.name} in another proportion and could not be cut back",
                )
        for specs in self._pad_candidates(inputs, dims):
            if all(self._pad_is_harmless(dim, specs, outputs) for dim in dims):
                values = ", ".join(f"{spec.name} with {spec.pad_value:g}" for spec in specs if spec.varying)
                return specs, "pad", f"padding {values} leaves every answer unchanged"
        return inputs, "equal_lengths", f"padding {' and '.join(dim.name for dim in dims)} changes the answers"

    def _pad_candidates(self, inputs: tuple[TensorSpec, ...], dims: Sequence[_Dim]) -> Iterator[tuple[TensorSpec, ...]]:
        for value in _pad_values(self.model):
            yield tuple(_padded_with(spec, 0 if _is_mask(spec, self.sample[spec.name]) else value) for spec in inputs)
        for mask in self._generated_mask(inputs):
            self.call = Call((*self.call.names, mask.name), self.call.style, self.call.optional)
            for value in _pad_values(self.model):
                yield (*(_padded_with(spec, value) for spec in inputs), mask)
            self.call = Call(self.call.names[:-1], self.call.style, self.call.optional)

    def _generated_mask(self, inputs: tuple[TensorSpec, ...]) -> Iterator[TensorSpec]:
        """An `attention_mask` that `forward` takes and the sample left out: ones over what is given, zeros over padding."""
        ids = next((spec for spec in inputs if len(spec.shape) == 1 and spec.varying), None)
        if ids is not None and "attention_mask" in self.call.optional:
            yield TensorSpec("attention_mask", "int64", ids.shape, pad_value=0, default=1)

    def _pad_is_harmless(self, dim: _Dim, specs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
        """Run padded to twice the length and more, or, where the model takes no more, a shortened sample padded back."""
        size = self._size(dim)
        target = dim.max_size or 2 * size + 3
        sample = self.sample if target > size else _resized(self.sample, dim.places, max(1, size // 2))
        given = _complete(sample, specs)
        own = sample[dim.places[0][0]].shape[dim.places[0][1]]
        expected, padded = self._try(given), self._try(_pad(given, specs, dim.name, target))
        if expected is None or padded is None or own == target:
            return False
        return self._same(expected, _cut(padded, outputs, dim.name, own))

    def _same(self, expected: Tensors, given: Tensors) -> bool:
        return all(_close(tensor, given[name]) for name, tensor in expected.items())


def _close(expected: Tensor, given: Tensor) -> bool:
    if expected.shape != given.shape:
        return False
    if not expected.is_floating_point():
        return torch.equal(expected, given)
    tolerance = HALF_TOLERANCE if expected.dtype in (torch.float16, torch.bfloat16) else TOLERANCE
    a, b = expected.double(), given.double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = a[a.isfinite()], b[b.isfinite()]
    return a.numel() == 0 or bool((a - b).abs().max() <= tolerance * a.abs().max())


def _describe(tensor: Tensor) -> str:
    return f"{_dtype(tensor)} {list(tensor.shape)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _host_dtype(tensor: Tensor) -> str:
    """Half precision comes to the host as float32 (see `Backend.run`)."""
    return "float32" if tensor.dtype in (torch.float16, torch.bfloat16) else _dtype(tensor)


def _check_rows(sample: Tensors) -> None:
    for name, tensor in sample.items():
        if tensor.ndim == 0:
            raise SignatureError(f"input {name!r} is a single number; every input must be [rows, ...]")
    rows = {name: len(tensor) for name, tensor in sample.items()}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        raise SignatureError(f"the sample's inputs have {rows} rows; all must have the same number, at least 1")


def _with_rows(sample: Tensors, at_least: int) -> Tensors:
    """Return the sample with enough rows; added ones are the first row, its values moved along by one place."""
    _check_rows(sample)
    result: Tensors = {}
    for name, tensor in sample.items():
        rows = [tensor]
        for shift in range(1, at_least - len(tensor) + 1):
            rows.append(tensor[:1].roll(shift, dims=-1) if tensor.ndim > 1 else tensor[:1])
        result[name] = torch.cat(rows)
    return result


def _with_other_neighbours(sample: Tensors) -> Tensors:
    """Return the sample with all rows but the first changed: reversed, and floating values enlarged."""
    changed: Tensors = {}
    for name, tensor in sample.items():
        rest = tensor[1:].flip(-1) if tensor.ndim > 1 else tensor[1:]
        changed[name] = torch.cat([tensor[:1], rest * 3 + 1 if tensor.is_floating_point() else rest])
    return changed


def _groups(
    places: Sequence[tuple[str, int]], sample: Tensors, samples: Sequence[Tensors]
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Yield sets of places that may be one dimension: those of one size on one axis, then each alone, then all of one size.

    Together comes before alone: a transformer whose mask is all ones ignores it, so its ids would seem to vary without it.
    Inputs of one length that vary apart (a query and a document) are told from such by a second sample.
    """
    by_axis: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    by_size: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, axis in places:
        sizes = tuple(other[name].shape[axis] for other in (sample, *samples))
        by_axis.setdefault((axis, *sizes), []).append((name, axis))
        by_size.setdefault(sizes, []).append((name, axis))
    yield from (tuple(group) for group in by_axis.values() if len(group) > 1)
    yield from ((place,) for place in places)
    yield from (tuple(group) for group in by_size.values() if len(group) > 1)


def _resized(sample: Tensors, places: Sequence[tuple[str, int]], size: int) -> Tensors:
    """Return the sample with some dimensions at another size: cut, or repeated from the start."""
    result = dict(sample)
    for name, axis in places:
        tensor = result[name]
        index = torch.arange(size, device=tensor.device) % tensor.shape[axis]
        result[name] = tensor.index_select(axis, index)
    return result


def _dim_name(sample: Tensors, group: Sequence[tuple[str, int]], taken: Sequence[str]) -> str:
    name, axis = group[0]
    tensor = sample[name]
    if tensor.ndim == 4 and axis in (2, 3):
        word = "height" if axis == 2 else "width"
    elif axis == 1 and tensor.ndim == 2 and not tensor.is_floating_point():
        word = "tokens"
    else:
        word = "length" if axis == 1 else f"size_{axis}"
    return word if word not in taken else f"{name}_{word}"


def _is_mask(spec: TensorSpec, tensor: Tensor) -> bool:
    """A mask by its name, or because it holds nothing but 0 and 1."""
    if "mask" in spec.name or tensor.dtype == torch.bool:
        return True
    return not tensor.is_floating_point() and bool(((tensor == 0) | (tensor == 1)).all())


def _pad_values(model: nn.Module) -> list[float]:
    """Values worth trying as padding: the model's own padding index, 0, 1 (RoBERTa's)."""
    found: list[float] = []
    configured = getattr(getattr(model, "config", None), "pad_token_id", None)
    own = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    for value in (configured, *own, 0, 1):
        if isinstance(value, int) and value not in found:
            found.append(value)
    return found


def _padded_with(spec: TensorSpec, value: float) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape, value, spec.default) if spec.varying else spec


def _complete(sample: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """Add the inputs that have a default, shaped like the sample's first input of that row shape."""
    result = dict(sample)
    for spec in specs:
        if spec.name not in result and spec.default is not None:
            like = next(sample[other.name] for other in specs if other.shape == spec.shape and other.name in sample)
            result[spec.name] = torch.full_like(like, int(spec.default), dtype=torch.int64)
    return result


def _pad(sample: Tensors, specs: Sequence[TensorSpec], dim: str, target: int) -> Tensors:
    result = dict(sample)
    for spec in specs:
        for axis, size in enumerate(spec.shape, start=1):
            if size == dim:
                tensor = result[spec.name]
                shape = list(tensor.shape)
                shape[axis] = target - shape[axis]
                fill = torch.full(shape, spec.pad_value, dtype=tensor.dtype, device=tensor.device)
                result[spec.name] = torch.cat([tensor, fill], dim=axis)
    return result


def _cut(outputs: Tensors, specs: Sequence[TensorSpec], dim: str, size: int) -> Tensors:
    result = dict(outputs)
    for spec in specs:
        for axis, name in enumerate(spec.shape, start=1):
            if name == dim:
                result[spec.name] = result[spec.name].narrow(axis, 0, size)
    return result
