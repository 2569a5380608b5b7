"""export_model: write a model as a file of any kind and precision, verified against the float32 model."""

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


def export_model(
    backend: Backend, path: Path, *, to: str, precision: Precision = "float32", accept_coupled_rows: bool = False
) -> Export:
    """Write a backend's model as a file. Return the path and the comparison with the float32 model.

    `int8` stores 8-bit weights and scales activations at run time. For convolutions, `nograd.quantize_static`, which needs
    calibration data, is more accurate and faster.

    Args:
        backend: the eager backend.
        path: target file, with the file extension of the kind.
        to: `onnx`, `openvino`, `torchscript`, `pt2`, or the name of an installed backend.
        precision: precision of weights and activations in the file.
        accept_coupled_rows: whether the file declares that rows may be batched although they influence each other.

    Raises:
        ConfigError: the kind, precision or file name is not allowed.
        UnsupportedError: the backend does not run a torch module.
        ExportError: the model cannot be exported, or the file's answers differ from the model's; no file is written.
    """
    kind = _checked(path, to, precision)
    try:
        from nograd.backends.exporting import verified
        from nograd.backends.modules import ModuleBackend
    except ModuleNotFoundError:
        raise MissingExtraError("torch", "torch") from None
    if not isinstance(backend, ModuleBackend) or backend.name != "eager":
        raise UnsupportedError(f"the model runs on {backend.name!r}; an export starts from a torch module")
    if precision == "int8":
        return _in_int8(backend, path, accept_coupled_rows=accept_coupled_rows)
    source = backend.in_layout(1, None) if precision == "float32" else halved(backend, precision)
    source.accepts_coupled_rows = accept_coupled_rows
    if precision == "float32":
        return write_file(kind, source, path)
    from nograd.core.parity import HALF

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".nograd-") as folder:
        made = write_file(kind, source, Path(folder) / path.name)
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


def _in_int8(reference: ModuleBackend, path: Path, *, accept_coupled_rows: bool) -> Export:
    from nograd.backends.exporting import Export
    from nograd.transforms.quantize import quantize_dynamic

    made = quantize_dynamic(reference, path=path, accept_coupled_rows=accept_coupled_rows)
    notes = [f"{made.chosen.recipe}, {made.speedup:.2f}x the speed of float32 in ONNX Runtime"]
    if made.independence is not None:
        notes.append(f"rows are {made.independence}")
    return Export(path, made.parity, tuple(notes))


def halved(reference: ModuleBackend, precision: str) -> ModuleBackend:
    """Return an eager backend with a copy of the module in `float16` or `bfloat16`, probed with the same samples."""
    from nograd.backends.eager import eager_backend
    from nograd.transforms.precision import HalfDtype, to_half

    return eager_backend(to_half(reference.model, cast("HalfDtype", precision)), reference.samples)


def open_file(
    path: Path, *, device: str = "auto", trusted: bool = False, lanes: int = 1, num_threads: int | None = None
) -> Backend:
    """Open an exported file. Its file extension selects the backend.

    Args:
        path: the file.
        device: `auto`, or a device of the backend. A `.pt2` file runs on the device that it was compiled for.
        trusted: for files that contain code, such as `.pt2` and `.pt`: True confirms that you trust their source.
        lanes: maximum number of concurrent calls to `run`.
        num_threads: threads per run; default: the backend's.

    Raises:
        ConfigError: the file contains code and is not trusted, or no backend has this file extension.
        ModelLoadError: the file cannot be read.
        MissingExtraError: a package that the backend needs is not installed.
    """
    kind = find_suffix(path.suffix)
    if kind is None:
        endings = ", ".join(dict.fromkeys(each.suffix for each in _file_kinds()))
        raise ConfigError(f"the file is {str(path)!r}; its name must end in {endings}")
    options = LoadOptions(device=device, trusted=trusted, lanes=lanes, num_threads=num_threads)
    return open_backend(kind, path, options)


def files_of(path: Path) -> list[Path]:
    """Return all files of an exported model: the file itself and its external weights."""
    kind = find_suffix(path.suffix)
    return [path] if kind is None else kind.files(path)
