"""The aot backend: a model compiled ahead of time into a `.pt2` package of native code (AOTInductor)."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nograd.backends import Backend, FileFingerprint
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
from nograd.backends.loaded import check_file, check_trusted, program_backend
from nograd.backends.modules import ModuleBackend
from nograd.core.manifest import KEY
from nograd.core.parity import Tolerance
from nograd.core.tensors import TensorSpec
from nograd.errors import ConfigError, ExportError, ModelLoadError

if TYPE_CHECKING:
    from nograd.backends.kinds import LoadOptions

__all__ = ["export_to_pt2", "load_file", "load_pt2", "write_file"]

METADATA = "_metadata.json"
"""Suffix of the package members that hold its metadata."""


def export_to_pt2(
    model: nn.Module | Backend,
    sample: Any,
    path: str | os.PathLike[str],
    *,
    freezing: bool = False,
    tolerance: Tolerance | None = None,
) -> Export:
    """Compile a model ahead of time, compare the package with eager, and return its path and how closely it agrees.

    The package contains native code for this type of processor and this version of torch. Loading compiles nothing. On a CPU a
    C++ compiler is needed to write it, not to run it.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        path: the file; it must end in `.pt2`.
        freezing: whether weights become constants with a new memory layout. For MiniLM it made single rows faster and large
            batches 30 % slower, so measure it.
        tolerance: maximum difference from eager; default: `nograd.core.parity.EXACT`, for half precision `HALF`.

    Raises:
        ExportError: torch.export or the compiler rejects the model, or the package's answers differ from the model's.
        SignatureError: the model cannot run the sample.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise ConfigError(f"path is {str(target)!r}; it must end in .pt2")
    check_file(target)
    reference = reference_of(model, sample)
    if reference.device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ExportError("AOTInductor needs a C++ compiler, and g++ was not found; on Debian: apt-get install g++")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nograd-") as folder:
        written = Path(folder) / target.name
        with in_eval_mode(reference):
            _compile(reference, written, freezing=freezing)
        candidate = load_pt2(written, trusted=True)
        report = verified(candidate, reference, tolerance=tolerance)
        final = Path(folder) / "measured.pt2"
        _copy_with_manifest(written, final, measured_manifest(candidate, reference).dumps())
        final.replace(target)
    return Export(target, report, ("written by torch.export and AOTInductor",))


def _compile(reference: ModuleBackend, written: Path, *, freezing: bool) -> None:
    example = example_of(reference)
    inputs = tuple(example[spec.name].contiguous() for spec in reference.signature.inputs)
    axes = tuple(_axes(spec) for spec in reference.signature.inputs)
    options = {"aot_inductor.metadata": {KEY: manifest_of(reference).dumps()}, "freezing": freezing}
    with torch.no_grad():
        with exporter_errors("torch.export"):
            program = torch.export.export(FlatModule(reference), inputs, dynamic_shapes=(axes,), strict=False)
        with exporter_errors("AOTInductor"):
            torch._inductor.aoti_compile_and_package(program, package_path=str(written), inductor_configs=options)  # noqa: SLF001  torch documents it under this name


def _copy_with_manifest(source: Path, target: Path, manifest: str) -> None:
    """Copy a package and replace its manifest. A second compilation would take minutes."""
    with zipfile.ZipFile(source) as given, zipfile.ZipFile(target, "w") as written:
        for entry in given.infolist():
            content = given.read(entry)
            if entry.filename.endswith(METADATA):
                content = json.dumps({**json.loads(content), KEY: manifest}).encode()
            written.writestr(entry.filename, content)


def _axes(spec: TensorSpec) -> dict[int, Any]:
    """Return the axes as DYNAMIC, which raises if the graph fixes a size; AUTO would fix it silently."""
    varying = [0, *(axis for axis, size in enumerate(spec.shape, start=1) if isinstance(size, str))]
    return dict.fromkeys(varying, torch.export.Dim.DYNAMIC)


def load_pt2(
    path: str | os.PathLike[str], *, trusted: bool, lanes: int = 1, num_threads: int | None = None, digest: str = ""
) -> ModuleBackend:
    """Return a backend over a package that nograd compiled.

    Args:
        path: the file.
        trusted: True confirms that you trust the file's source; the file holds native code, which runs.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads per call on a CPU; default: torch's setting.
        digest: digest of the file, if known; otherwise the file is read for the fingerprint.

    Raises:
        ConfigError: the file is not trusted.
        ModelLoadError: the file does not exist, is not an AOTInductor package, or was not written by nograd.
    """
    check_trusted(path, trusted=trusted, what="native code")
    file = FileFingerprint(Path(path), known=digest)
    from torch._inductor.package import load_package  # type: ignore[attr-defined]  # aoti_load_package's, with its number of runners

    try:
        program = load_package(os.fspath(path), num_runners=lanes)
        metadata = program.loader.get_metadata()
    except Exception as error:  # the loader raises RuntimeError, and any error of unpacking a broken archive
        raise ModelLoadError(f"torch cannot load {os.fspath(path)}: {str(error).splitlines()[0]}") from error
    if KEY not in metadata:
        raise ModelLoadError(f"{os.fspath(path)} has no nograd manifest; write it with nograd.export_to_pt2")
    device = metadata.get("AOTI_DEVICE_KEY", "cpu")
    return program_backend(
        program, metadata[KEY], name="aot", device=torch.device(device), file=file, lanes=lanes, num_threads=num_threads
    )


def load_file(path: Path, options: LoadOptions) -> ModuleBackend:
    """Return a backend over a package; it runs on the device that it was compiled for. See `load_pt2`."""
    return load_pt2(path, trusted=options.trusted, lanes=options.lanes, num_threads=options.num_threads, digest=options.digest)


def write_file(reference: ModuleBackend, path: Path) -> Export:
    """Write a package; see `export_to_pt2`."""
    return export_to_pt2(reference, None, path)
