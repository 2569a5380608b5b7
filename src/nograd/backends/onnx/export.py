"""export_to_onnx: write a torch module as an ONNX file with the module's answers."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nograd.backends import Backend
from nograd.backends.exporting import (
    Export,
    FlatModule,
    example_of,
    exporter_errors,
    in_eval_mode,
    manifest_of,
    measured_manifest,
    reference_of,
    verified,
)
from nograd.backends.loaded import check_file
from nograd.backends.modules import ModuleBackend
from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx.fusion import fuse_attention
from nograd.backends.onnx.graph import check_graph, finish, load_graph, newest_opset, opset_of, save_graph, write_manifest
from nograd.backends.onnx.naming import DynamicAxes, RenamedBackend, narrowed, plan_names, rename_file, renamed_manifest
from nograd.core.parity import Tolerance
from nograd.core.tensors import TensorSpec
from nograd.errors import ConfigError, ExportError, ModelLoadError

__all__ = ["export_to_onnx"]

Exporter = Literal["auto", "plain", "dynamo", "legacy"]

MIN_OPSET = 7
"""Oldest opset version that torch's exporters write."""

DYNAMO_OPSET = 18
"""Opset version that torch.export's exporter writes. For older versions it converts the graph, or leaves it unchanged."""


def export_to_onnx(  # noqa: PLR0913  torch's names, and nograd's
    model: nn.Module | Backend,
    sample: Any,
    path: str | os.PathLike[str],
    *,
    opset_version: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: DynamicAxes | None = None,
    opset: int | None = None,
    exporter: Exporter = "auto",
    tolerance: Tolerance | None = None,
) -> Export:
    """Write a model as an ONNX file, compare it with eager, and return its path and how closely it agrees.

    Inputs and outputs have the model's names, dimensions that vary have the signature's names, and a manifest in the file
    describes how its rows may be batched. The exporter of torch.export writes the graph if it can. Transformers are written
    by the older exporter with unfused attention, because ONNX Runtime can fuse only that form (measured 2026-11-24, MiniLM,
    one sentence, 2 cores: 5.1 ms instead of 6.2 ms). The older exporter also writes models with `nn.LSTM`, `nn.GRU` or
    `nn.RNN`, in a tenth of the time and with equally fast files (measured 2026-12-01, an LSTM of 64 to 128 over 50 steps:
    2 s of processor time instead of 19 s). An existing file is replaced only if the new one agrees with eager.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file; it must end in `.onnx`. Weights above 1 GiB are written to `<path>.data`.
        opset_version: version of the ONNX operators, 7 or more; default: the exporter's.
        input_names: names of the inputs in the file, in the order of the signature; default: the model's.
        output_names: the same for the outputs. `nograd.load` returns the model's own structure either way.
        dynamic_axes: as for `torch.onnx.export`: `{"x": {0: "batch"}}` or `{"x": [0]}`. Varying axes that are not listed are
            fixed at the sample's size; axis 0 must be listed. Default: every axis that varies according to the probe.
        opset: alias of `opset_version`.
        exporter: `dynamo` (torch.export), `legacy` (the older one), `plain` (both), or `auto`: for a model with attention,
            first a graph with fused attention, then both. Only ONNX Runtime supports its fused operators.
        tolerance: maximum difference from eager; default: `nograd.core.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: no exporter can export the model, or the file's answers differ from the model's.
        SignatureError: the model cannot run the sample.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    target, opset = Path(path), _opset(opset_version, opset)
    check_file(target, ".onnx")
    reference = reference_of(model, sample)
    names = None
    if input_names is not None or output_names is not None or dynamic_axes is not None:
        names = plan_names(reference.signature, input_names, output_names, dynamic_axes)
        reference = narrowed(reference, names.fixed)
    ways = _ways(reference, exporter, opset)
    refused: list[str] = []
    parity = None
    for name, write in ways:
        try:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nograd-") as folder, in_eval_mode(reference):
                written = Path(folder) / target.name
                write(reference, written, opset)
                _check_opset(written, opset)
                if names is not None:
                    rename_file(written, reference, names, weight_bytes=_weight_bytes(reference.model))
                with OnnxBackend(written, device="cpu") as candidate:
                    named = candidate if names is None else RenamedBackend(candidate, reference.signature, names)
                    report = verified(named, reference, tolerance=tolerance)
                    manifest = measured_manifest(named, reference)
                write_manifest(written, manifest if names is None else renamed_manifest(manifest, names))
                for file in Path(folder).iterdir():
                    file.replace(target.parent / file.name)
            return Export(target, report, (*refused, f"written by {name}"))
        except (ExportError, ModelLoadError) as error:
            refused.append(f"{name}: {error}")
            parity = getattr(error, "parity", None) or parity
    raise ExportError("the model cannot be exported to ONNX; " + "; ".join((*refused, *_advice(reference))), parity)


def _advice(reference: ModuleBackend) -> list[str]:
    """Return how to fix the sizes that vary, if the model was only given one size of each: the probe tried the others."""
    places = reference.signature.places.items()
    sizes = {dim: {sample[name].shape[axis] for sample in reference.samples} for dim, (name, axis) in places}
    if not sizes or any(len(found) > 1 for found in sizes.values()):
        return []
    listed = " and ".join(f"{found.pop()} {dim}" for dim, found in sizes.items())
    rows_only = {spec.name: [0] for spec in reference.signature.inputs}
    return [f"if your inputs always have {listed}, as the sample has, export that size: dynamic_axes={rows_only}"]


def write_file(reference: ModuleBackend, path: Path) -> Export:
    """Write an ONNX file; see `export_to_onnx`."""
    return export_to_onnx(reference, None, path)


def _opset(opset_version: int | None, opset: int | None) -> int | None:
    """Return the requested version.

    Raises:
        ConfigError: two different versions were given, or one that no exporter writes.
    """
    if opset_version is not None and opset is not None and opset_version != opset:
        raise ConfigError(f"opset_version is {opset_version} and opset {opset}; give one of them")
    found = opset if opset_version is None else opset_version
    if found is not None and not MIN_OPSET <= found <= newest_opset():
        raise ConfigError(f"opset_version is {found}; it must be from {MIN_OPSET} to {newest_opset()}")
    return found


def _check_opset(path: Path, opset: int | None) -> None:
    """Raise ExportError for another version: torch.export's exporter keeps its own version if it cannot convert the graph."""
    if opset is not None and (found := opset_of(path)) != opset:
        raise ExportError(f"it wrote opset {found}, and opset_version is {opset}")


Way = Callable[[ModuleBackend, Path, int | None], None]


def _ways(reference: ModuleBackend, exporter: Exporter, opset: int | None) -> list[tuple[str, Way]]:
    """Return the exporters to try, best first."""
    dynamo: tuple[str, Way] = ("torch.onnx.export(dynamo=True)", _by_dynamo)
    legacy: tuple[str, Way] = ("torch.onnx.export(dynamo=False)", _by_legacy)
    fused: tuple[str, Way] = ("torch.onnx.export(dynamo=False), attention fused", _fused)
    if exporter == "auto" and _transformers_in(reference.model):
        return [fused, dynamo, legacy]
    is_old = opset is not None and opset < DYNAMO_OPSET
    if exporter in ("auto", "plain") and (is_old or _is_recurrent(reference.model)):
        return [legacy, dynamo]
    return {"auto": [dynamo, legacy], "plain": [dynamo, legacy], "dynamo": [dynamo], "legacy": [legacy]}[exporter]


def _by_dynamo(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    axes = tuple(_axes(spec) for spec in reference.signature.inputs)
    _write(reference, FlatModule(reference), path, opset_version=opset, dynamo=True, dynamic_shapes=(axes,), verbose=False)


def _by_legacy(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    _write_legacy(reference, FlatModule(reference), path, opset)


def _fused(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    model = copy.deepcopy(reference.model)
    encoders = _transformers_in(model)
    for encoder in encoders:
        encoder.set_attn_implementation("eager")
    _write_legacy(reference, FlatModule(reference, model), path, opset)
    config = encoders[0].config
    with exporter_errors("onnxruntime.transformers"):
        fused = fuse_attention(path, model_type=str(config.model_type), num_heads=_number(config, "num_attention_heads"),
                               hidden_size=_number(config, "hidden_size"))  # fmt: skip
        save_graph(fused, path, weight_bytes=_weight_bytes(reference.model))


def _transformers_in(model: nn.Module) -> list[Any]:
    """Return the outermost transformers models; there are none if transformers was not imported."""
    transformers = sys.modules.get("transformers")
    kind = getattr(transformers, "PreTrainedModel", None)
    return [module for module in model.modules() if kind is not None and isinstance(module, kind)]


def _is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def _number(config: Any, name: str) -> int:
    """Return a number from the configuration; 0 lets ONNX Runtime find it in the graph."""
    return int(getattr(config, name, 0) or 0)


def _write_legacy(reference: ModuleBackend, flat: FlatModule, path: Path, opset: int | None) -> None:
    signature = reference.signature
    axes = {f"in_{i}": _axes(spec) for i, spec in enumerate(signature.inputs)}
    axes |= {f"out_{i}": _axes(spec) for i, spec in enumerate(signature.outputs)}
    _write(reference, flat, path, opset_version=opset or 17, dynamo=False, dynamic_axes=axes)


def _write(reference: ModuleBackend, flat: FlatModule, path: Path, **options: Any) -> None:
    """Export with names that no graph uses, then rename to the signature's names."""
    signature = reference.signature
    inputs = {f"in_{i}": spec.name for i, spec in enumerate(signature.inputs)}
    outputs = {f"out_{i}": spec.name for i, spec in enumerate(signature.outputs)}
    weight_bytes = _weight_bytes(reference.model)
    with exporter_errors("the exporter"):
        torch.onnx.export(
            flat, tuple(example_of(reference)[spec.name] for spec in signature.inputs), str(path),
            input_names=list(inputs), output_names=list(outputs), **options,
        )  # fmt: skip
        graph = load_graph(path)
        for leftover in path.parent.glob(f"{path.name}.*"):
            leftover.unlink()
        finish(graph, inputs, outputs, manifest_of(reference))
        save_graph(graph, path, weight_bytes=weight_bytes)
        check_graph(path)


def _axes(spec: TensorSpec) -> dict[int, str]:
    return {0: "rows", **{axis: size for axis, size in enumerate(spec.shape, start=1) if isinstance(size, str)}}


def _weight_bytes(model: nn.Module) -> int:
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
