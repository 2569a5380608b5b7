"""The user's names for inputs, outputs and dynamic axes of an exported graph, as for `torch.onnx.export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from nograd.backends import Backend
from nograd.backends.exporting import manifest_of
from nograd.backends.modules import ModuleBackend
from nograd.backends.onnx.graph import check_graph, finish, load_graph, save_graph
from nograd.core.manifest import Manifest, graph_outputs
from nograd.core.structure import Outline
from nograd.core.tensors import Batch, Signature, TensorSpec
from nograd.errors import ConfigError

__all__ = ["DynamicAxes", "FileNames", "RenamedBackend", "narrowed", "plan_names", "rename_file", "renamed_manifest"]

DynamicAxes: TypeAlias = Mapping[str, Mapping[int, str] | Sequence[int]]
"""Name of an input or output -> its dynamic axes, with or without names."""


@dataclass(frozen=True, slots=True)
class FileNames:
    """Names in the file that replace the signature's."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dims: Mapping[str, str]
    """Dimension of the signature (also `rows`) -> name in the file."""

    fixed: frozenset[str]
    """Dimensions that are fixed in the file, although the model accepts several sizes."""

    axes: Mapping[str, Mapping[int, str]]
    """Input or output of the file -> axis -> its name, as the user gave it."""


def plan_names(
    signature: Signature,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_axes: DynamicAxes | None,
) -> FileNames:
    """Return the names of the file.

    Raises:
        ConfigError: the number of names is wrong, or a name or axis does not exist in the model.
    """
    inputs = _paired("input_names", [spec.name for spec in signature.inputs], input_names)
    outputs = _paired("output_names", [spec.name for spec in signature.outputs], output_names)
    given = [*inputs.values(), *outputs.values()]
    own = 0 if output_names is not None else len(set(inputs.values()) & set(outputs.values()))  # see `graph_outputs`
    if len(set(given)) < len(given) - own:
        raise ConfigError(f"input_names and output_names contain a name twice: {', '.join(given)}")
    if dynamic_axes is None:
        return FileNames(inputs, outputs, {}, frozenset(), {})
    specs = {inputs[spec.name]: spec for spec in signature.inputs}
    for spec in signature.outputs:
        specs.setdefault(outputs[spec.name], spec)
    axes = {_file_name(name, specs, {**inputs, **outputs}): _axes_of(name, given) for name, given in dynamic_axes.items()}
    dims: dict[str, str] = {}
    for name, named in axes.items():
        for axis, text in named.items():
            dims.setdefault(symbol := _symbol(name, specs[name], axis), text or symbol)
    if "rows" not in dims:
        raise ConfigError("dynamic_axes contains axis 0 of no input; a file accepts any number of rows: add {0: 'batch'}")
    varying = {size for spec in signature.inputs for size in spec.varying}
    verbatim = {name: {axis: text for axis, text in named.items() if text} for name, named in axes.items()}
    return FileNames(inputs, outputs, dims, frozenset(varying - set(dims)), verbatim)


def _paired(what: str, names: Sequence[str], given: Sequence[str] | None) -> dict[str, str]:
    if given is None:
        return dict(zip(names, names, strict=True))
    if len(given) != len(names) or not all(given):
        raise ConfigError(f"{what} is {list(given)}; the model has {len(names)}: {', '.join(names)}")
    return dict(zip(names, given, strict=True))


def _file_name(name: str, specs: Mapping[str, TensorSpec], known: Mapping[str, str]) -> str:
    found = name if name in specs else known.get(name)
    if found is None:
        raise ConfigError(f"dynamic_axes contains {name!r}; the file's inputs and outputs are {', '.join(specs)}")
    return found


def _axes_of(name: str, given: Mapping[int, str] | Sequence[int]) -> dict[int, str]:
    found = {int(axis): str(text) for axis, text in given.items()} if isinstance(given, Mapping) else dict.fromkeys(given, "")
    if any(axis < 0 for axis in found):
        raise ConfigError(f"dynamic_axes of {name!r} contains a negative axis; count from 0")
    return found


def _symbol(name: str, spec: TensorSpec, axis: int) -> str:
    """Return the signature's name of an axis."""
    if axis == 0:
        return "rows"
    size = spec.shape[axis - 1] if axis <= len(spec.shape) else None
    if not isinstance(size, str):
        what = f"the model supports only size {size} there" if size is not None else f"it has {len(spec.shape) + 1} axes"
        raise ConfigError(f"dynamic_axes contains axis {axis} of {name!r}; {what}")
    return size


def narrowed(reference: ModuleBackend, fixed: frozenset[str]) -> ModuleBackend:
    """Return a backend over the same module, with these dimensions fixed at the sample's size."""
    if not fixed:
        return reference
    sample, signature = reference.samples[0], reference.signature
    sizes = {
        size: int(sample[spec.name].shape[axis])
        for spec in signature.inputs
        for axis, size in enumerate(spec.shape, start=1)
        if isinstance(size, str) and size in fixed
    }
    inputs, outputs = (tuple(_resolved(spec, sizes) for spec in specs) for specs in (signature.inputs, signature.outputs))
    known = _with_limits(replace(signature, inputs=inputs, outputs=outputs), lambda dim: None if dim in fixed else dim)
    return ModuleBackend(
        reference.model, known, reference.call, reference.restore, samples=(sample,), num_threads=reference.num_threads
    )


def _with_limits(signature: Signature, name_of: Callable[[str], str | None]) -> Signature:
    """Return the signature with size limits under other names of dimensions; None removes a dimension."""

    def renamed(sizes: Mapping[str, int]) -> dict[str, int]:
        return {name: size for dim, size in sizes.items() if (name := name_of(dim)) is not None}

    return replace(
        signature, max_sizes=renamed(signature.max_sizes), min_sizes=renamed(signature.min_sizes),
        tried_sizes=renamed(signature.tried_sizes),
    )  # fmt: skip


def _resolved(spec: TensorSpec, sizes: Mapping[str, int | str]) -> TensorSpec:
    return replace(spec, shape=tuple(sizes.get(size, size) if isinstance(size, str) else size for size in spec.shape))


def rename_file(path: Path, reference: ModuleBackend, names: FileNames, *, weight_bytes: int) -> None:
    """Replace the signature's names in a graph and in its manifest."""
    graph = load_graph(path)
    manifest = manifest_of(reference)
    outputs = {in_graph: names.outputs[name] for name, in_graph in graph_outputs(reference.signature).items()}
    finish(graph, names.inputs, outputs, renamed_manifest(manifest, names))
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if dim.HasField("dim_param"):
                dim.dim_param = names.axes.get(value.name, {}).get(axis) or names.dims.get(dim.dim_param, dim.dim_param)
    save_graph(graph, path, weight_bytes=weight_bytes)
    check_graph(path)


def renamed_manifest(manifest: Manifest, names: FileNames) -> Manifest:
    """Return the manifest with the file's names."""
    signature = manifest.signature
    inputs = tuple(replace(_resolved(spec, names.dims), name=names.inputs[spec.name]) for spec in signature.inputs)
    outputs = tuple(replace(_resolved(spec, names.dims), name=names.outputs[spec.name]) for spec in signature.outputs)
    changed = _with_limits(replace(signature, inputs=inputs, outputs=outputs), lambda dim: names.dims.get(dim, dim))
    return replace(manifest, signature=changed, outline=_renamed_outline(manifest.outline, names.outputs))


def _renamed_outline(plan: Outline, names: Mapping[str, str]) -> Outline:
    """Return the outline with the file's names as leaves; keys of dicts remain the model's."""
    if plan is None or isinstance(plan, str):
        return names.get(plan, plan) if plan is not None else None
    ((kind, children),) = plan.items()
    if kind == "dict":
        return {"dict": [[key, _renamed_outline(child, names)] for key, child in children]}
    return {kind: [_renamed_outline(child, names) for child in children]}


class RenamedBackend(Backend):
    """A backend over a renamed file, with the signature's names, for the comparison with eager."""

    def __init__(self, inner: Backend, signature: Signature, names: FileNames) -> None:
        self.name, self.device, self.signature = inner.name, inner.device, signature
        self._inner, self._names = inner, names

    @property
    def problem_type(self) -> str:
        return self._inner.problem_type

    def run(self, batch: Batch) -> Batch:
        found = self._inner.run({self._names.inputs[name]: array for name, array in batch.items()})
        return {name: found[given] for name, given in self._names.outputs.items()}

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._inner.restore({self._names.outputs[name]: value for name, value in outputs.items()})
