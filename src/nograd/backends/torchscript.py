"""The torchscript backend: files that older code bases hold. torch deprecates it; new exports are better `.pt2` or ONNX."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nograd.backends import Backend, FileFingerprint
from nograd.backends.eager import eager_backend, unprobed_backend
from nograd.backends.exporting import (
    Export,
    Flat,
    example_of,
    exporter_errors,
    in_eval_mode,
    manifest_of,
    quiet,
    reference_of,
    verified,
)
from nograd.backends.loaded import check_file, check_trusted, program_backend
from nograd.backends.modules import ModuleBackend
from nograd.errors import ConfigError, ModelLoadError
from nograd.manifest import KEY
from nograd.parity import Tolerance

__all__ = ["export_to_torchscript", "load_torchscript"]

EXTRA_FILE = f"{KEY}.json"

Method = Literal["trace", "script"]


def export_to_torchscript(
    model: nn.Module | Backend,
    sample: Any,
    path: str | os.PathLike[str],
    *,
    method: Method = "trace",
    tolerance: Tolerance | None = None,
) -> Export:
    """Write a model as a TorchScript file, run it against eager, and return where it lies and how closely it agrees.

    A trace records what one input did: a branch on the data becomes the side that the sample took. Inputs of other shapes and
    values are therefore run through the file and through eager, and a difference is an error, not a file.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file.
        method: `trace` records a run; `script` compiles the Python source of `forward`, branches and all.
        tolerance: how closely the file must agree; default: `nograd.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: torch.jit does not take the model, or the file does not answer as the model does.
        SignatureError: the model cannot run the sample.
        ConfigError: the method is neither `trace` nor `script`.
    """
    if method not in ("trace", "script"):
        raise ConfigError(f"method is {method!r}; it must be 'trace' or 'script'")
    target = Path(path)
    check_file(target)
    reference = reference_of(model, sample)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nograd-") as folder:
        written = Path(folder) / target.name
        with exporter_errors(f"torch.jit.{method}"), in_eval_mode(reference):
            program = _traced(reference) if method == "trace" else torch.jit.script(reference.model)
            extra = {EXTRA_FILE: manifest_of(reference).dumps()} if method == "trace" else {}
            torch.jit.save(program, str(written), _extra_files=extra)
        candidate = load_torchscript(written, trusted=True, sample=reference.samples[0], device=reference.device)
        report = verified(candidate, reference, tolerance=tolerance)
        written.replace(target)
    return Export(target, report, (f"written by torch.jit.{method}",))


def _traced(reference: ModuleBackend) -> Any:
    example = example_of(reference)
    inputs = tuple(example[spec.name] for spec in reference.signature.inputs)
    with torch.no_grad():  # not inference mode: constants of the trace would be inference tensors, which cannot be saved
        return torch.jit.trace(Flat(reference), tuple(t.clone() for t in inputs), check_trace=False)  # type: ignore[no-untyped-call]


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
        trusted: that you know where the file comes from; TorchScript is a program.
        sample: inputs that it can run, for a file that nograd did not write: it is probed with them (see `nograd.probe`).
        device: `auto` is the device it was saved on, where torch has that; else a torch device.
        lanes: calls to `run` that may go on side by side.
        num_threads: threads that one of them computes with, on a CPU; default: as torch is set.
        digest: of the file, where it is known; else it is read for the fingerprint.

    Raises:
        ConfigError: the file is not trusted, or torch has no such device.
        ModelLoadError: the file is not there, or is no TorchScript file.
    """
    check_trusted(path, trusted=trusted, what="TorchScript, which is a program")
    file = FileFingerprint(Path(path), known=digest)
    extra = {EXTRA_FILE: ""}
    try:
        with quiet():
            target = None if device == "auto" else torch.device(device)
            program = torch.jit.load(os.fspath(path), map_location=target, _extra_files=extra)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"torch.jit cannot load {path}: {str(error).splitlines()[0]}") from error
    text = extra[EXTRA_FILE]
    if text:
        return program_backend(program, text, name="torchscript", device=None, file=file, lanes=lanes,
                               num_threads=num_threads)  # fmt: skip
    inner = unprobed_backend(program, sample) if sample is None else eager_backend(program, [sample])
    return ModuleBackend(
        inner.model, inner.signature, inner.call, name="torchscript", samples=inner.samples, lanes=lanes,
        num_threads=num_threads, file=file,
    )  # fmt: skip
