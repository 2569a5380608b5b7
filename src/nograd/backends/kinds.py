"""Kind: a description of a backend, with its name, files and functions. It imports no package that a backend needs.

`registry` holds nograd's own kinds and finds those of other packages; `opening` calls their functions.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from nograd.errors import ConfigError

__all__ = ["FLOAT_PRECISIONS", "PRECISIONS", "Kind", "LoadOptions"]

FLOAT_PRECISIONS = ("float32", "bfloat16", "float16")

PRECISIONS = (*FLOAT_PRECISIONS, "int8-dynamic", "int8-static")
"""Simplest first."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_SUFFIX = re.compile(r"\.[A-Za-z0-9_]+")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a backend runs a file or a module. A backend ignores options that do not apply to it."""

    device: str = "auto"
    """`auto`, or a device of the backend."""

    lanes: int = 1
    """Number of calls to `run` that may run at the same time."""

    num_threads: int | None = None
    """Threads per run; None: the backend's default."""

    trusted: bool = False
    """Whether the caller trusts the file's source; required for a file that contains code."""

    spins: bool | None = None
    """Whether waiting threads spin; None: the backend decides."""

    max_batch_size: int | None = None
    """Largest number of rows in one run; None: unknown."""

    digest: str = ""
    """Digest of the file and its companions; empty: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of backend: one that runs a file (`suffix`, `load`, `export`), or one that runs a torch module (`wrap`).

    Functions are named as `package.module:function` and imported at their first call, so that a list of kinds costs nothing.

    >>> kind = Kind(name="mine", suffix=".mine", load="mine.backend:load", export="mine.backend:export")
    >>> [path.name for path in kind.files(Path("model.mine"))]
    ['model.mine']

    Raises:
        ConfigError: a field is outside what is allowed.
    """

    name: str
    """Name by which users select it, such as `onnx`; also the `name` of its backends."""

    suffix: str = ""
    """File extension, such as `.onnx`; empty: it runs a torch module."""

    companions: tuple[str, ...] = ()
    """Extensions of further files of a model, such as `.bin`; they replace `suffix`."""

    load: str = ""
    """`(path: Path, options: LoadOptions) -> Backend`: opens a file."""

    export: str = ""
    """`(reference: ModuleBackend, path: Path) -> Export`: writes a file and compares it with the module (`write_verified`)."""

    wrap: str = ""
    """`(module: ModuleBackend, options: LoadOptions) -> Backend`: runs a module instead of a file."""

    pack: str = ""
    """`(source: Path, target: Path) -> bool`: writes a file in the form that bundles contain; False: the file is copied."""

    export_name: str = ""
    """Value of `nograd export --to`; empty: `name`."""

    precisions: tuple[str, ...] = ("float32",)
    """Precisions that `nograd tune` builds, a subset of `PRECISIONS`."""

    has_lanes: bool = False
    """Whether `nograd tune` measures it with several lanes (concurrent calls to `run`)."""

    fixes_threads: bool = False
    """Whether it is compiled for the number of threads at build time."""

    build_s: float = 0.0
    """Seconds to build a model of MiniLM's size, if builds are slow. `nograd tune` skips the build if less time is left."""

    requires: str = ""
    """Module that it needs besides torch; empty: none."""

    extra: str = ""
    """Extra of nograd that installs `requires`, such as `onnx`."""

    libraries: tuple[str, ...] = ("torch",)
    """Package that computes; speed and answers depend on its version. Further entries: other packages with the same library."""

    code: str = ""
    """Kind of code in its files, such as `native code`; opening one needs trust. Empty: files contain only data."""

    distribution: str = ""
    """Installed distribution that provides it; empty: nograd. The registry sets it."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"the backend's name is {self.name!r}; it must be lower-case letters, digits, '-' and '_'")
        if self.suffix and not _SUFFIX.fullmatch(self.suffix):
            raise ConfigError(f"suffix is {self.suffix!r}; it must be a dot and letters or digits, such as '.onnx'")
        needed, unused = (("load", "export"), ("wrap",)) if self.suffix else (("wrap",), ("load", "export", "pack"))
        for field in needed:
            if not _FUNCTION.fullmatch(getattr(self, field)):
                raise ConfigError(f"{field} is {getattr(self, field)!r}; it must be 'package.module:function'")
        for field in unused:
            if getattr(self, field):
                raise ConfigError(f"{field} is {getattr(self, field)!r}; a backend has a suffix, load and export, or wrap")
        if unknown := [each for each in self.precisions if each not in PRECISIONS]:
            raise ConfigError(f"precisions contains {unknown[0]!r}; it must contain some of {', '.join(PRECISIONS)}")
        if not self.libraries:
            raise ConfigError("libraries is empty; it must name the package that computes, such as 'torch'")

    @property
    def runs_module(self) -> bool:
        """Whether it runs a torch module instead of a file."""
        return not self.suffix

    @property
    def has_int8(self) -> bool:
        """Whether 8-bit integers can be written for it."""
        return any(precision.startswith("int8") for precision in self.precisions)

    @property
    def target(self) -> str:
        """Value of `nograd export --to`."""
        return self.export_name or self.name

    @property
    def source(self) -> str:
        """Provider of the backend, for messages."""
        return f"the package {self.distribution}" if self.distribution else "nograd"

    def files(self, path: Path) -> list[Path]:
        """Return the names of all files of a model whose file is `path`; companions need not exist."""
        return [path, *(path.with_name(f"{path.stem}{end}") for end in self.companions)]

    def why_missing(self) -> str:
        """Return why it cannot run here, in one sentence; empty if its requirements are installed."""
        if not self.requires or importlib.util.find_spec(self.requires) is not None:
            return ""
        if self.distribution:
            return f"{self.requires} is not installed, which {self.source} needs"
        return f"{self.requires} is not installed; run: pip install 'nograd[{self.extra}]'"
