"""The torchscript backend, for existing files. torch deprecates TorchScript; prefer `.pt2` or ONNX for new exports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from nograd.backends import Backend, FileFingerprint
from nograd.backends.eager import eager_backend, unprobed_backend
from nograd.backends.exporting import (
    Export,
    FlatModule,
    example_of,
    exporter_errors,
    in_eval_mode,
    quiet,
    reference_of,
    write_verified,
)
from nograd.backends.loaded import check_file, check_trusted, program_backend
from nograd.backends.modules import ModuleBackend
from nograd.core.manifest import KEY, Manifest
from nograd.core.module import ModuleCall
from nograd.core.parity import Tolerance
from nograd.core.tensors import Signature
from nograd.errors import ConfigError, ModelLoadError

if TYPE_CHECKING:
    from nograd.backends.kinds import LoadOptions

__all__ = ["export_to_torchscript", "load_file", "load_torchscript", "write_file"]

EXTRA_FILE = f"{KEY}.json"
"""Name of the manifest within the file."""

CALL_FILE = f"{KEY}-call.json"
"""Name of the file's call description: names and style of the inputs. Absent if the file returns a flat tuple."""

Method = Literal["trace", "script"]


def export_to_torchscript(
    model: nn.Module | Backend,
    sample: Any,
    path: str | os.PathLike[str],
    *,
    method: Method = "trace",
    tolerance: Tolerance | None = None,
) -> Export:
    """Write a model as a TorchScript file, compare it with eager, and return its path and how closely it agrees.

    `torch.jit.load(path)` returns a module that takes and returns what the model does: a tensor for a tensor, a tuple for a
    tuple, a dict for a dict. TorchScript has no type for some structures, such as a dict that contains a tuple; the file then
    returns the leaves as a flat tuple, and `notes` says so. `nograd.load` returns the model's own structure either way.

    A trace records the operations of one input: a branch on the data becomes the side that the sample took. Other shapes and
    values are therefore run through the file and through eager; if the answers differ, no file is written.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file.
        method: `trace` records a run; `script` compiles the Python source of `forward`, branches and all.
        tolerance: maximum difference from eager; default: `nograd.core.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: torch.jit cannot export the model, or the file's answers differ from the model's.
        SignatureError: the model cannot run the sample.
        ConfigError: the method is neither `trace` nor `script`, the model is not a module, or the path cannot be written.
    """
    if method not in ("trace", "script"):
        raise ConfigError(f"method is {method!r}; it must be 'trace' or 'script'")
    target = Path(path)
    check_file(target)
    reference = reference_of(model, sample)
    with exporter_errors(f"torch.jit.{method}"), in_eval_mode(reference):
        program, call = _traced(reference) if method == "trace" else _scripted(reference)
    flat = () if call is not None else ("TorchScript has no type for the model's outputs: the file returns a flat tuple",)

    def write(file: Path, manifest: Manifest) -> None:
        with exporter_errors(f"torch.jit.{method}"), quiet():
            torch.jit.save(program, str(file), _extra_files=_extra(manifest, call))

    return write_verified(
        reference, target, write=write, load=lambda file: load_torchscript(file, trusted=True, device=reference.device),
        tolerance=tolerance, notes=(*flat, f"written by torch.jit.{method}"),
    )  # fmt: skip


def _traced(reference: ModuleBackend) -> tuple[Any, ModuleCall | None]:
    """Return the traced model and how it is called; None: its outputs are a flat tuple."""
    call = reference.call
    example = {name: tensor.clone() for name, tensor in example_of(reference).items()}
    inputs: dict[str, Any] = {"example_kwarg_inputs": example}
    if call.style != "keywords":
        inputs = {"example_inputs": (example,) if call.style == "mapping" else tuple(example[name] for name in call.names)}
    with torch.no_grad():  # not inference mode: constants of the trace would be inference tensors, which cannot be saved
        try:
            traced = torch.jit.trace(reference.model, **inputs, check_trace=False, strict=False)  # type: ignore[no-untyped-call]
            return _with_defaults(traced, reference.signature), call
        except RuntimeError as error:
            if "traced" not in str(
                error
            ):  # torch: "Only tensors, lists, tuples of tensors, or dictionary of tensors can be ..."
                raise
        ordered = tuple(example[spec.name] for spec in reference.signature.inputs)
        return torch.jit.trace(FlatModule(reference), ordered, check_trace=False), None  # type: ignore[no-untyped-call]


class _Holder(nn.Module):
    """Holds a traced module; `_with_defaults` gives it a forward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


def _with_defaults(traced: nn.Module, signature: Signature) -> nn.Module:
    """Return the traced module with its optional inputs, such as a mask, optional again: a trace requires each of them."""
    required = [spec.name for spec in signature.inputs if spec.default is None]
    optional = [spec for spec in signature.inputs if spec.default is not None]
    if not optional:
        return traced
    sizes = {"rows": f"{required[0]}.size(0)"}
    for spec in signature.inputs:
        if spec.default is None:
            sizes |= {size: f"{spec.name}.size({axis})" for axis, size in enumerate(spec.shape, 1) if isinstance(size, str)}
    lines = [f"def forward(self, {', '.join([*required, *(f'{spec.name}: Optional[Tensor] = None' for spec in optional)])}):"]
    for spec in optional:
        shape = ", ".join(sizes[size] if isinstance(size, str) else str(size) for size in ("rows", *spec.shape))
        filled = f"torch.full([{shape}], {spec.default!r}, dtype=torch.{spec.dtype}, device={required[0]}.device)"
        lines += [f"    if {spec.name} is None:", f"        {spec.name} = {filled}"]
    given = ", ".join(f"{spec.name}={spec.name}" for spec in signature.inputs)
    holder = torch.jit.script(_Holder(traced))
    holder.define("\n".join([*lines, f"    return self.inner({given})", ""]))
    return cast("nn.Module", holder)


def _scripted(reference: ModuleBackend) -> tuple[Any, ModuleCall]:
    return torch.jit.script(reference.model), reference.call


def _extra(manifest: Manifest, call: ModuleCall | None) -> dict[str, str]:
    """Return the file's metadata: its manifest and its call."""
    extra = {EXTRA_FILE: manifest.dumps()}
    if call is not None:
        extra[CALL_FILE] = json.dumps({"names": call.names, "style": call.style})
    return extra


def load_torchscript(
    path: str | os.PathLike[str],
    *,
    trusted: bool,
    sample: Any = None,
    device: str = "auto",
    lanes: int = 1,
    num_threads: int | None = None,
    digest: str = "",
) -> ModuleBackend:
    """Return a backend over a TorchScript file: nograd's own, or any other.

    Args:
        path: the file.
        trusted: True confirms that you trust the file's source; TorchScript is a program.
        sample: inputs that it can run; a file that nograd did not write is probed with them (see `nograd.probe`).
        device: a torch device, or `auto`: the device it was saved on, if available.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads per call on a CPU; default: torch's setting.
        digest: digest of the file, if known; otherwise the file is read for the fingerprint.

    Raises:
        ConfigError: the file is not trusted, or torch has no such device.
        ModelLoadError: the file does not exist, or is not a TorchScript file.
    """
    check_trusted(path, trusted=trusted, what="TorchScript, which is a program")
    file = FileFingerprint(Path(path), known=digest)
    extra = {EXTRA_FILE: "", CALL_FILE: ""}
    try:
        with quiet():
            target = None if device == "auto" else torch.device(device)
            program = torch.jit.load(os.fspath(path), map_location=target, _extra_files=extra)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"torch.jit cannot load {path}: {str(error).splitlines()[0]}") from error
    text = extra[EXTRA_FILE]
    if text:
        return program_backend(program, text, name="torchscript", device=None, file=file, lanes=lanes,
                               num_threads=num_threads, native=_call_from(extra[CALL_FILE]))  # fmt: skip
    inner = unprobed_backend(program, sample) if sample is None else eager_backend(program, [sample])
    return ModuleBackend(
        inner.model, inner.signature, inner.call, name="torchscript", samples=inner.samples, lanes=lanes,
        num_threads=num_threads, file=file,
    )  # fmt: skip


def _call_from(text: str | bytes) -> ModuleCall | None:
    """Return how the file is called; None for a file that takes tensors in order and returns a flat tuple."""
    if not text:
        return None
    found = json.loads(text)
    return ModuleCall(tuple(found["names"]), found["style"])


def load_file(path: Path, options: LoadOptions) -> ModuleBackend:
    """Return a backend over a TorchScript file; see `load_torchscript`."""
    return load_torchscript(
        path, trusted=options.trusted, device=options.device, lanes=options.lanes, num_threads=options.num_threads,
        digest=options.digest,
    )  # fmt: skip


def write_file(reference: ModuleBackend, path: Path) -> Export:
    """Write a traced TorchScript file; see `export_to_torchscript`."""
    return export_to_torchscript(reference, None, path)
