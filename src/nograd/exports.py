"""export_model: a model as a file of any kind, at any precision, proven against the float32 model."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from nograd.backends.kinds import LoadOptions
from nograd.backends.opening import open_backend, write_file
from nograd.backends.registry import all_kinds, find_suffix, find_target
from nograd.errors import ConfigError, MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from nograd.backends import Backend
    from nograd.backends.exporting import Export
    from nograd.backends.kinds import Kind
    from nograd.backends.modules import ModuleBackend

__all__ = ["PRECISIONS", "export_model", "files_of", "halved", "open_file"]

Precision = Literal["float32", "float16", "bfloat16", "int8"]

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def export_model(backend: Backend, path: Path, *, to: str, precision: Precision = "float32") -> Export:
    """Write a backend's model as a file, and return where it is and how closely it agrees with the float32 model.

    `int8` means 8-bit weights, with activations scaled at run time; `nograd.quantize_static`, which needs data, does better for
    convolutions.

    Args:
        backend: the eager backend.
        path: the file; its name ends as the kind's files do.
        to: `onnx`, `openvino`, `torchscript`, `pt2`, or the name of an installed backend.
        precision: of the weights and activations in the file.

    Raises:
        ConfigError: the kind, the precision or the file's name is not one of those allowed.
        UnsupportedError: the backend does not run a torch module.
        ExportError: the model cannot be exported, or the file's answers differ from the model's; nothing is written.
    """
    kind = _checked(path, to, precision)
    try:
        from nograd.backends.exporting import verified
        from nograd.backends.modules import ModuleBackend
    except ModuleNotFoundError:
        raise MissingExtraError("torch", "torch") from None
    if not isinstance(backend, ModuleBackend) or backend.name != "eager":
        raise UnsupportedError(f"the model runs on {backend.name!r}; an export starts from a torch module")
    if precision == "float32":
        return write_file(kind, backend, path)
    if precision == "int8":
        return _in_int8(backend, path)
    from nograd.core.parity import HALF

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nograd-") as folder:
        made = write_file(kind, halved(backend, precision), Path(folder) / path.name)
        with open_backend(kind, made.path, LoadOptions(trusted=True)) as candidate:
            report = verified(candidate, backend, tolerance=HALF)
        for file in Path(folder).iterdir():
            file.replace(path.parent / file.name)
    return replace(made, path=path, parity=report)


def _checked(path: Path, to: str, precision: Precision) -> Kind:
    """Return the kind of file; raise ConfigError if no such file can be written."""
    kind = find_target(to)
    if kind is None:
        raise ConfigError(f"the kind is {to!r}; it must be one of {', '.join(each.target for each in _file_kinds())}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if precision == "int8" and not kind.has_int8:
        able = ", ".join(each.target for each in _file_kinds() if each.has_int8)
        raise ConfigError(f"precision is 'int8' and the kind {to!r}; 8-bit integers are written as {able} only")
    if path.suffix != kind.suffix:
        raise ConfigError(f"the file is {str(path)!r}; for {to} it must end in {kind.suffix}")
    if not path.parent.is_dir():
        raise ConfigError(f"the file is {str(path)!r}; the folder {path.parent} does not exist")
    return kind


def _file_kinds() -> list[Kind]:
    return [kind for kind in all_kinds() if not kind.runs_module]


def _in_int8(reference: ModuleBackend, path: Path) -> Export:
    from nograd.backends.exporting import Export
    from nograd.transforms.quantize import quantize_dynamic

    made = quantize_dynamic(reference, path=path)
    notes = [f"{made.chosen.recipe}, {made.speedup:.2f}x the speed of float32 in ONNX Runtime"]
    if made.independence is not None:
        notes.append(f"rows are {made.independence}")
    return Export(path, made.parity, tuple(notes))


def halved(reference: ModuleBackend, precision: str) -> ModuleBackend:
    """Return an eager backend over a copy of the module in `float16` or `bfloat16`, probed with the same samples."""
    from nograd.backends.eager import eager_backend
    from nograd.transforms.precision import HalfDtype, to_half

    return eager_backend(to_half(reference.model, cast("HalfDtype", precision)), reference.samples)


def open_file(
    path: Path, *, device: str = "auto", trusted: bool = False, lanes: int = 1, num_threads: int | None = None
) -> Backend:
    """Return a backend over an exported file, by the end of its name.

    Args:
        path: the file.
        device: `auto`, or a device of the backend. A `.pt2` runs on the device it was compiled for.
        trusted: for files that hold code, such as `.pt2` and `.pt`: whether you know where the file comes from.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads of one run; default: the backend's.

    Raises:
        ConfigError: the file holds a program and is not trusted; or no backend has files with such a name.
        ModelLoadError: it cannot be read.
        MissingExtraError: what the backend needs is not installed.
    """
    kind = find_suffix(path.suffix)
    if kind is None:
        endings = ", ".join(dict.fromkeys(each.suffix for each in _file_kinds()))
        raise ConfigError(f"the file is {str(path)!r}; its name must end in {endings}")
    options = LoadOptions(device=device, trusted=trusted, lanes=lanes, num_threads=num_threads)
    return open_backend(kind, path, options)


def files_of(path: Path) -> list[Path]:
    """Return the names of all files of an exported model: the file, and those next to it that hold its weights."""
    kind = find_suffix(path.suffix)
    return [path] if kind is None else kind.files(path)
