"""export_to_onnx: a torch module as an ONNX file that answers as the module does."""

from __future__ import annotations

import copy
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nograd.backends import Backend
from nograd.backends.exporting import (
    Export,
    Flat,
    example_of,
    exporter_errors,
    in_eval_mode,
    manifest_of,
    measured_manifest,
    reference_of,
    verified,
)
from nograd.backends.modules import ModuleBackend
from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx.fusion import fuse_attention
from nograd.backends.onnx.graph import check_graph, finish, load_graph, save_graph, write_manifest
from nograd.errors import ConfigError, ExportError, ModelLoadError
from nograd.parity import Tolerance
from nograd.tensors import TensorSpec

__all__ = ["export_to_onnx"]

Exporter = Literal["auto", "plain", "dynamo", "legacy"]


def export_to_onnx(
    model: nn.Module | Backend,
    sample: Any,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    exporter: Exporter = "auto",
    tolerance: Tolerance | None = None,
) -> Export:
    """Write a model as an ONNX file, run it against eager, and return where it lies and how closely it agrees.

    Inputs and outputs have the model's own names, the dimensions that vary the signature's, and the file says of itself how
    its rows may be batched. Where it can, the exporter of torch.export writes the graph; a transformer is written by the older
    one with attention spelled out, because only that graph's attention ONNX Runtime can fuse (measured 2026-11-24, MiniLM,
    one sentence, 2 cores: 5.1 ms against 6.2 ms). A file that exists is replaced when, and only when, the new one agrees.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file; it must end in `.onnx`. Weights above 1 GiB lie beside it, in `<path>.data`.
        opset: version of the ONNX operators; default: the exporter's own.
        exporter: `dynamo` (torch.export) or `legacy` (the older one) only; `plain` tries both; `auto` tries with attention
            fused before, where there is attention. Other runtimes know none of ONNX Runtime's fused operators.
        tolerance: how closely the file must agree; default: `nograd.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: no exporter takes the model, or the file does not answer as the model does.
        SignatureError: the model cannot run the sample.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ConfigError(f"path is {str(target)!r}; it must end in .onnx")
    reference = reference_of(model, sample)
    ways = _ways(reference, exporter)
    refused: list[str] = []
    parity = None
    for name, write in ways:
        try:
            with tempfile.TemporaryDirectory(dir=_folder(target), prefix=".nograd-") as folder, in_eval_mode(reference):
                written = Path(folder) / target.name
                write(reference, written, opset)
                with OnnxBackend(written, device="cpu") as candidate:
                    report = verified(candidate, reference, tolerance=tolerance)
                    manifest = measured_manifest(candidate, reference)
                write_manifest(written, manifest)
                for file in Path(folder).iterdir():
                    file.replace(target.parent / file.name)
            return Export(target, report, (*refused, f"written by {name}"))
        except (ExportError, ModelLoadError) as error:
            refused.append(f"{name}: {error}")
            parity = getattr(error, "parity", None) or parity
    raise ExportError("the model cannot be exported to ONNX; " + "; ".join(refused), parity)


def _folder(target: Path) -> Path:
    if not target.parent.is_dir():
        raise ConfigError(f"path is {str(target)!r}; the folder {target.parent} does not exist")
    return target.parent


Way = Callable[[ModuleBackend, Path, int | None], None]


def _ways(reference: ModuleBackend, exporter: Exporter) -> list[tuple[str, Way]]:
    """Return the ways to try, best first."""
    dynamo: tuple[str, Way] = ("torch.onnx.export(dynamo=True)", _by_dynamo)
    legacy: tuple[str, Way] = ("torch.onnx.export(dynamo=False)", _by_legacy)
    fused: tuple[str, Way] = ("torch.onnx.export(dynamo=False), attention fused", _fused)
    if exporter == "auto" and _transformers_in(reference.model):
        return [fused, dynamo, legacy]
    return {"auto": [dynamo, legacy], "plain": [dynamo, legacy], "dynamo": [dynamo], "legacy": [legacy]}[exporter]


def _by_dynamo(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    axes = tuple(_axes(spec) for spec in reference.signature.inputs)
    _write(reference, Flat(reference), path, opset_version=opset, dynamo=True, dynamic_shapes=(axes,), verbose=False)


def _by_legacy(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    _write_legacy(reference, Flat(reference), path, opset)


def _fused(reference: ModuleBackend, path: Path, opset: int | None) -> None:
    model = copy.deepcopy(reference.model)
    encoders = _transformers_in(model)
    for encoder in encoders:
        encoder.set_attn_implementation("eager")
    _write_legacy(reference, Flat(reference, model), path, opset)
    config = encoders[0].config
    with exporter_errors("onnxruntime.transformers"):
        fused = fuse_attention(path, model_type=str(config.model_type), num_heads=_number(config, "num_attention_heads"),
                               hidden_size=_number(config, "hidden_size"))  # fmt: skip
        save_graph(fused, path, weight_bytes=_weight_bytes(reference.model))


def _transformers_in(model: nn.Module) -> list[Any]:
    """Return the outermost transformers models; one can only be inside where transformers was imported."""
    transformers = sys.modules.get("transformers")
    kind = getattr(transformers, "PreTrainedModel", None)
    return [module for module in model.modules() if kind is not None and isinstance(module, kind)]


def _number(config: Any, name: str) -> int:
    """0 lets ONNX Runtime find it in the graph."""
    return int(getattr(config, name, 0) or 0)


def _write_legacy(reference: ModuleBackend, flat: Flat, path: Path, opset: int | None) -> None:
    signature = reference.signature
    axes = {f"in_{i}": _axes(spec) for i, spec in enumerate(signature.inputs)}
    axes |= {f"out_{i}": _axes(spec) for i, spec in enumerate(signature.outputs)}
    _write(reference, flat, path, opset_version=opset or 17, dynamo=False, dynamic_axes=axes)


def _write(reference: ModuleBackend, flat: Flat, path: Path, **options: Any) -> None:
    """Export under names that no graph uses, then give the signature's."""
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
