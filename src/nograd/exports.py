"""export_model: a model as a file of any kind, at any precision, proven against the float32 model."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nograd.errors import ConfigError, MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from nograd.backends import Backend
    from nograd.backends.exporting import Export
    from nograd.backends.modules import ModuleBackend

__all__ = ["KINDS", "PRECISIONS", "export_model", "open_file"]

Kind = Literal["onnx", "torchscript", "pt2", "openvino"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]

KINDS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "openvino": ".xml"}
"""Kind of file -> how its name ends."""

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def export_model(backend: Backend, path: Path, *, to: Kind, precision: Precision = "float32") -> Export:
    """Write a backend's model as a file, and return where it lies and how closely it agrees with the float32 model.

    `int8` means 8-bit weights, with activations scaled at run time; `nograd.quantize_static`, which needs data, does better for
    convolutions.

    Raises:
        ConfigError: the kind, the precision or the file's name is not one of those allowed.
        UnsupportedError: the backend does not run a torch module.
        ExportError: the model cannot be exported so, or the file does not answer as the model does; nothing is written.
    """
    _check(path, to, precision)
    try:
        from nograd.backends.exporting import verified
        from nograd.backends.modules import ModuleBackend
    except ModuleNotFoundError:
        raise MissingExtraError("torch", "torch") from None
    if not isinstance(backend, ModuleBackend) or backend.name != "eager":
        raise UnsupportedError(f"the model runs on {backend.name!r}; an export starts from a torch module")
    if precision == "float32":
        return _written(backend, path, to)
    if precision == "int8":
        return _in_int8(backend, path)
    from nograd.parity import HALF

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nograd-") as folder:
        made = _written(_halved(backend, precision), Path(folder) / path.name, to)
        candidate = open_file(made.path, trusted=True)
        report = verified(candidate, backend, tolerance=HALF)
        candidate.close()
        for file in Path(folder).iterdir():
            file.replace(path.parent / file.name)
    return replace(made, path=path, parity=report)


def _check(path: Path, to: Kind, precision: Precision) -> None:
    """Raise where no such file can be written."""
    if to not in KINDS:
        raise ConfigError(f"the kind is {to!r}; it must be one of {', '.join(KINDS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if precision == "int8" and to != "onnx":
        raise ConfigError(f"precision is 'int8' and the kind {to!r}; 8-bit integers are written as onnx only")
    if path.suffix != KINDS[to]:
        raise ConfigError(f"the file is {str(path)!r}; for {to} it must end in {KINDS[to]}")
    if not path.parent.is_dir():
        raise ConfigError(f"the file is {str(path)!r}; the folder {path.parent} does not exist")


def _in_int8(reference: ModuleBackend, path: Path) -> Export:
    from nograd.backends.exporting import Export
    from nograd.transforms.quantize import quantize_dynamic

    made = quantize_dynamic(reference, path=path)
    notes = [f"{made.chosen.recipe}, {made.speedup:.2f}x the speed of float32 in ONNX Runtime"]
    if made.independence is not None:
        notes.append(f"rows are {made.independence}")
    return Export(path, made.parity, tuple(notes))


def _halved(reference: ModuleBackend, precision: Literal["float16", "bfloat16"]) -> ModuleBackend:
    from nograd.backends.eager import eager_backend
    from nograd.transforms.precision import to_half

    return eager_backend(to_half(reference.model, precision), reference.samples)


def _written(reference: ModuleBackend, path: Path, to: Kind) -> Export:
    if to == "onnx":
        from nograd.backends.onnx.export import export_to_onnx

        return export_to_onnx(reference, None, path)
    if to == "torchscript":
        from nograd.backends.torchscript import export_to_torchscript

        return export_to_torchscript(reference, None, path)
    if to == "pt2":
        from nograd.backends.aot import export_to_pt2

        return export_to_pt2(reference, None, path)
    from nograd.backends.openvino import export_to_openvino

    return export_to_openvino(reference, None, path)


def open_file(
    path: Path,
    *,
    device: str = "auto",
    trusted: bool = False,
    lanes: int = 1,
    num_threads: int | None = None,
    spins: bool | None = None,
    digest: str = "",
) -> Backend:
    """Return a backend over an exported file, by the end of its name.

    Args:
        path: the file.
        device: `auto`, or one that the backend knows. A `.pt2` runs on the device it was compiled for.
        trusted: for `.pt2` and `.pt`: that you know where the file comes from.
        lanes: calls to `run` that may go on side by side.
        num_threads: threads of one run; default: the backend's.
        spins: for `.onnx`: see `OnnxBackend`.
        digest: of the file and its weights, where it is known; else they are read for the fingerprint.

    Raises:
        ConfigError: it holds a program, and nobody said that it is trusted; or its name ends in nothing known.
        ModelLoadError: it cannot be read.
    """
    if path.suffix == ".onnx":
        from nograd.backends.onnx import OnnxBackend

        return OnnxBackend(path, device=device, lanes=lanes, num_threads=num_threads, spins=spins, digest=digest)
    if path.suffix == ".xml":
        from nograd.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, device=device, lanes=lanes, num_threads=num_threads, digest=digest)
    if path.suffix == ".pt2":
        from nograd.backends.aot import load_pt2

        return load_pt2(path, trusted=trusted, lanes=lanes, num_threads=num_threads, digest=digest)
    if path.suffix == ".pt":
        from nograd.backends.torchscript import load_torchscript

        return load_torchscript(path, trusted=trusted, device=device, lanes=lanes, num_threads=num_threads, digest=digest)
    raise ConfigError(f"the file is {str(path)!r}; its name must end in {', '.join(KINDS.values())}")
