"""The registry of backends: nograd's own, and those of other packages (entry points of the group `nograd.backends`).

The entry points of installed packages are read only for an unknown name or suffix, and for a list of all backends.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata

from nograd.backends.kinds import FLOAT_PRECISIONS, Kind
from nograd.runtime.interrupts import is_interrupt

__all__ = ["BUILT_IN", "GROUP", "all_kinds", "find_kind", "find_suffix", "find_target", "rank", "runtimes", "why_unknown"]

GROUP = "nograd.backends"
"""Group of entry points: name of the backend = `package.module:KIND`, a `Kind` of that name."""

INDUCTOR_BUILD_S = 60.0
"""Approximate seconds that Inductor takes to compile a model of MiniLM's size (measured: 37 to 85 s of CPU)."""

BUILT_IN = (
    Kind(name="eager", wrap="nograd.backends.eager:in_layout", precisions=FLOAT_PRECISIONS, has_lanes=True),
    Kind(
        name="onnx", suffix=".onnx", companions=(".onnx.data",), load="nograd.backends.onnx:load_file",
        export="nograd.backends.onnx.export:write_file", pack="nograd.backends.onnx_data:pack",
        precisions=("float32", "int8-static", "int8-dynamic"), has_lanes=True, requires="onnxruntime", extra="onnx",
        libraries=("onnxruntime", "onnxruntime-gpu"),
    ),
    Kind(
        name="openvino", suffix=".xml", companions=(".bin",), load="nograd.backends.openvino:load_file",
        export="nograd.backends.openvino:write_file", has_lanes=True, requires="openvino", extra="openvino",
        libraries=("openvino",),
    ),
    Kind(
        name="torchscript", suffix=".pt", load="nograd.backends.torchscript:load_file",
        export="nograd.backends.torchscript:write_file", code="a TorchScript program",
    ),
    Kind(
        name="aot", suffix=".pt2", export_name="pt2", load="nograd.backends.aot:load_file",
        export="nograd.backends.aot:write_file", fixes_threads=True, build_s=INDUCTOR_BUILD_S, code="native code",
    ),
    Kind(name="compiled", wrap="nograd.backends.compiled:compiled_backend", fixes_threads=True, build_s=INDUCTOR_BUILD_S),
)  # fmt: skip
"""nograd's kinds, simplest first: among equally good candidates, `nograd tune` chooses the first of these."""

_BY_NAME = {kind.name: kind for kind in BUILT_IN}


@dataclass(frozen=True, slots=True)
class _Plugins:
    """Backends of other packages."""

    kinds: tuple[Kind, ...]
    """By name."""

    faults: Mapping[str, str]
    """Name of a backend -> reason why it cannot be used, in one sentence."""


def all_kinds() -> tuple[Kind, ...]:
    """Return all kinds, nograd's own first. A plug-in that cannot be used is skipped, with one warning."""
    return (*BUILT_IN, *_plugins().kinds)


def find_kind(name: str) -> Kind | None:
    """Return the kind with a name; None if there is none: `why_unknown` then returns the reason."""
    return _BY_NAME.get(name) or next((kind for kind in _plugins().kinds if kind.name == name), None)


def find_suffix(suffix: str) -> Kind | None:
    """Return the first kind whose files end in a suffix; None if there is none."""
    if not suffix:
        return None
    return _with_suffix(suffix, BUILT_IN) or _with_suffix(suffix, _plugins().kinds)


def _with_suffix(suffix: str, kinds: Iterable[Kind]) -> Kind | None:
    return next((kind for kind in kinds if kind.suffix == suffix), None)


def find_target(target: str) -> Kind | None:
    """Return the kind for a value of `nograd export --to`; None if there is none."""
    return _with_target(target, BUILT_IN) or _with_target(target, _plugins().kinds)


def _with_target(target: str, kinds: Iterable[Kind]) -> Kind | None:
    return next((kind for kind in kinds if kind.suffix and kind.target == target), None)


def rank(name: str) -> int:
    """Return the rank of a backend among all, simplest first."""
    names = [kind.name for kind in (BUILT_IN if name in _BY_NAME else all_kinds())]
    return names.index(name) if name in names else len(names)


def why_unknown(name: str, distribution: str = "") -> str:
    """Return why a backend is unknown, and what to do.

    Args:
        name: name of the backend.
        distribution: package that provides it, if known.
    """
    if fault := _plugins().faults.get(name):
        return fault
    if distribution:
        return f"backend is {name!r}, of the package {distribution}, which is not installed; run: pip install {distribution}"
    return f"backend is {name!r}; it must be one of {', '.join(kind.name for kind in all_kinds())}"


def runtimes(*kinds: Kind) -> list[tuple[str, ...]]:
    """Return the packages that backends compute with, each with its other names, for nograd's kinds and `kinds`."""
    found = [kind.libraries for kind in (*BUILT_IN, *kinds)]
    found += [(kind.distribution,) for kind in kinds if kind.distribution]
    return list(dict.fromkeys(found))


def _plugins() -> _Plugins:
    return _scanned(tuple(sys.path))


@lru_cache(maxsize=1)
def _scanned(path: tuple[str, ...]) -> _Plugins:  # noqa: ARG001  packages come from there: another path, another result
    kinds: dict[str, Kind] = {}
    faults: dict[str, str] = {}
    for entry in sorted(metadata.entry_points(group=GROUP), key=_distribution):
        found = _load_kind(entry, {**_BY_NAME, **kinds})
        if isinstance(found, Kind):
            kinds[found.name] = found
            continue
        warnings.warn(found, stacklevel=2)
        if entry.name not in _BY_NAME:
            faults[entry.name] = found
    return _Plugins(tuple(kinds[name] for name in sorted(kinds)), faults)


def _distribution(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module


def _load_kind(entry: metadata.EntryPoint, taken: Mapping[str, Kind]) -> Kind | str:
    """Return the kind of an entry point, or the reason why it cannot be used."""
    distribution = _distribution(entry)
    said = f"backend {entry.name!r} of the package {distribution} cannot be used"
    if entry.name in taken:
        return f"{said}: {taken[entry.name].source} has a backend of this name already"
    try:
        found = entry.load()
    except BaseException as error:  # importing runs the package's code
        if is_interrupt(error):
            raise
        return f"{said}: {entry.value} raised {type(error).__name__}: {error}"
    if not isinstance(found, Kind):
        return f"{said}: {entry.value} is {type(found).__name__}; it must be a nograd.backends.kinds.Kind"
    if found.name != entry.name:
        return f"{said}: {entry.value} is named {found.name!r}; the entry point must have the same name"
    if unknown := [each for each in found.precisions if each not in FLOAT_PRECISIONS]:
        return f"{said}: precisions contains {unknown[0]!r}; those of a package may be {', '.join(FLOAT_PRECISIONS)}"
    return replace(found, distribution=distribution)
