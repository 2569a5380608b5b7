"""Calls of a kind's functions: open a file, wrap a module, write a file. Errors name the package of the backend."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.backends import Backend
from nograd.errors import ConfigError, ExportError, MissingExtraError, ModelLoadError, NogradError
from nograd.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from nograd.backends.exporting import Export
    from nograd.backends.kinds import Kind, LoadOptions
    from nograd.backends.modules import ModuleBackend

__all__ = ["copy_file", "open_backend", "pack_file", "wrap_module", "write_file"]


def open_backend(kind: Kind, path: Path, options: LoadOptions) -> Backend:
    """Return a backend over a file of a kind.

    Raises:
        ConfigError: the file contains code and is not trusted, or an option is not allowed.
        MissingExtraError: a package that the backend needs is not installed.
        ModelLoadError: the file cannot be read.
    """
    if kind.distribution and kind.code and not options.trusted:
        raise ConfigError(
            f"{path} contains {kind.code}, and opening it runs that code; "
            "if you trust its source, open it with trusted=True (--trusted)"
        )
    with _errors_of(kind, f"opening {path}", ModelLoadError):
        return _checked(_function(kind.load)(path, options), kind)


def wrap_module(kind: Kind, module: ModuleBackend, options: LoadOptions) -> Backend:
    """Return a backend of a kind over the torch module of another backend; errors as for `open_backend`."""
    with _errors_of(kind, "running a module", ModelLoadError):
        return _checked(_function(kind.wrap)(module, options), kind)


def write_file(kind: Kind, reference: ModuleBackend, path: Path) -> Export:
    """Write a file of a kind, compare it with eager, and return its path and how closely it agrees.

    Raises:
        ExportError: the model cannot be exported, or the file's answers differ from the model's.
        MissingExtraError: a package that the exporter needs is not installed.
    """
    from nograd.backends.exporting import Export

    with _errors_of(kind, f"writing {path}", ExportError):
        made = _function(kind.export)(reference, path)
    if not isinstance(made, Export):
        raise ExportError(f"{kind.export} of {kind.source} returned {type(made).__name__}; it must return an Export")
    return made


def copy_file(kind: Kind, source: Path, target: Path) -> None:
    """Copy a model's file and its companions, in the form that bundles contain.

    Raises:
        ConfigError: the file cannot be read.
        MissingExtraError: a package that writes this form is not installed.
    """
    if pack_file(kind, source, target):
        return
    for given, written in zip(kind.files(source), kind.files(target), strict=True):
        if given.is_file():
            shutil.copyfile(given, written)


def pack_file(kind: Kind, source: Path, target: Path) -> bool:
    """Write a model's file in the form that bundles contain; return False if it has that form. Errors as for `copy_file`."""
    if not kind.pack:
        return False
    with _errors_of(kind, f"packing {source}", ModelLoadError):
        return bool(_function(kind.pack)(source, target))


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _checked(backend: object, kind: Kind) -> Backend:
    """Return the backend if it is one and has its kind's name, which parity reports, caches and bundles record."""
    if not kind.distribution and isinstance(backend, Backend):
        return backend
    if not isinstance(backend, Backend):
        raise ModelLoadError(f"{kind.source} returned {type(backend).__name__} for {kind.name!r}; it must return a Backend")
    if backend.name != kind.name:
        raise ModelLoadError(f"{kind.source} returned a backend named {backend.name!r}; its name must be {kind.name!r}")
    return backend


@contextmanager
def _errors_of(kind: Kind, work: str, error_type: type[ModelLoadError | ExportError]) -> Iterator[None]:
    """Convert any error of a package's function into one sentence that names the package. Errors of nograd are not changed."""
    try:
        yield
    except NogradError:
        raise
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtraError("torch", "torch") from None
        if not kind.distribution:
            raise
        raise error_type(f"backend {kind.name!r} of {kind.source} needs {error.name}, which is not installed") from error
    except BaseException as error:
        if is_interrupt(error) or not kind.distribution:
            raise
        cause = f"{type(error).__name__}: {error}"
        raise error_type(f"backend {kind.name!r} of {kind.source} raised {cause} while {work}") from error
