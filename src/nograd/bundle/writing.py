"""write_bundle: write to a temporary folder, flush, verify, then rename. A failed write leaves the old bundle in place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from nograd import __version__
from nograd.backends.registry import runtimes
from nograd.bundle import archive
from nograd.bundle.digests import verify_files, write_sums
from nograd.bundle.manifest import MANIFEST, BundleDescription, BundleSettings, dumps
from nograd.bundle.pipeline import Pipeline
from nograd.bundle.source import ModelFactory, Source, check_source, write_source
from nograd.core.tensors import Signature
from nograd.errors import ConfigError
from nograd.runtime.machine import this_machine

__all__ = ["REPORTS", "check_target", "is_zip", "write_bundle"]

REPORTS = ("report.json", "report.html")

NO_FRONT = Pipeline()


def is_zip(path: Path) -> bool:
    """Return whether a path names a bundle in a single file."""
    return path.suffix == ".zip"


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise if a bundle cannot be written to a path. Call it before expensive work.

    Args:
        path: a folder, or a file that ends in `.zip`.

    Raises:
        ConfigError: the path holds something other than a bundle, or its parent folder does not exist.
    """
    target = _resolve_links(path)
    if not target.parent.is_dir():
        raise ConfigError(f"the bundle is {str(path)!r}; the folder {target.parent} does not exist")
    if not target.exists():
        return
    if target.is_dir() and not is_zip(target):
        if any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise ConfigError(f"{path} is a folder with something else than a bundle in it; choose another, or empty it")
        return
    if not is_zip(target) or target.is_dir() or not archive.has_entry(target, MANIFEST):
        raise ConfigError(f"{path} exists and is not a bundle; choose another name, or remove it")


def write_bundle(
    path: str | os.PathLike[str],
    *,
    model: Source,
    signature: Signature,
    settings: BundleSettings,
    front: Pipeline = NO_FRONT,
    reports: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a bundle and return its path. An existing bundle is replaced in one step at the end.

    Args:
        path: a folder, or a file that ends in `.zip`.
        model: an exported file, a transformers folder, or a factory with its module.
        signature: inputs and outputs of the backend.
        settings: how the model runs, and what was measured.
        front: pre- and postprocessing.
        reports: content of `report.json` and `report.html`.

    Raises:
        ConfigError: `path` holds something other than a bundle, the backend cannot run the model, `preprocess` has no import
            name, or the unit of the curve does not match the model.
    """
    check_target(path)
    check_source(model, settings)
    check_curve(settings, signature)
    reports = reports or {}
    for name in reports:
        if name not in REPORTS:
            raise ConfigError(f"the report is named {name!r}; it must be {' or '.join(REPORTS)}")
    target = _resolve_links(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nograd-") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        _fill(folder, model, signature, settings, front, reports)
        write_sums(folder)
        if is_zip(target):
            archive.pack(folder, Path(scratch) / "bundle.zip")
            _flush(Path(scratch) / "bundle.zip")
            os.replace(Path(scratch) / "bundle.zip", target)  # noqa: PTH105  as `rename` below
        else:
            for file in verify_files(folder, str(folder)):
                _flush(folder / file.name)
            _move_in(folder, target, Path(scratch) / "old")
        _flush(target.parent)
    return Path(path)


def check_curve(settings: BundleSettings, signature: Signature) -> None:
    """Raise ConfigError if the unit of the curve is not rows (rows of equal size) or tokens (rows of different lengths)."""
    varies = bool(signature.lengths) and signature.batching != "alone"
    unit = "tokens" if varies else "rows"
    if settings.curve is not None and signature.batching != "alone" and settings.curve.unit != unit:
        raise ConfigError(f"the curve counts {settings.curve.unit}; this model's must count {unit} (see measure_cost)")


def _fill(
    folder: Path, model: Source, signature: Signature, settings: BundleSettings, front: Pipeline, reports: Mapping[str, bytes]
) -> None:
    is_made = isinstance(model, ModelFactory)
    described = front.write(folder, by_factory=is_made)
    write_source(model, settings, folder)
    for name, content in reports.items():
        (folder / name).write_bytes(content)
    kind = settings.kind
    complete = msgspec.structs.replace(
        settings,
        distribution=kind.distribution or msgspec.UNSET,
        machine=settings.machine or this_machine(runtimes=runtimes(kind)),
        when=settings.when or datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        nograd=settings.nograd or __version__,
    )
    factory = model.factory if isinstance(model, ModelFactory) else ""
    (folder / MANIFEST).write_bytes(
        dumps(BundleDescription(settings=complete, signature=signature, factory=factory, **described))
    )
    mode = (folder / MANIFEST).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # some writers create files that only the owner can read


def _resolve_links(path: str | os.PathLike[str]) -> Path:
    """Resolve symbolic links: a link to a bundle is kept, and its target is replaced."""
    return Path(os.path.realpath(path))


def _move_in(folder: Path, target: Path, old: Path) -> None:
    """Rename a new folder to its target. The old folder is moved away first, and restored on failure."""
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Write a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
