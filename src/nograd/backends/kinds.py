"""Kind: a backend as a value, with its name, its files and its functions. Nothing here imports what a backend needs.

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
    """How a backend runs a file or a module. A backend ignores the options that it has no use for."""

    device: str = "auto"
    """`auto`, or a device of the backend."""

    lanes: int = 1
    """Number of calls to `run` that may run at the same time."""

    num_threads: int | None = None
    """Threads of one run; None: the backend's default."""

    trusted: bool = False
    """Whether the caller knows where the file comes from; a file that holds code needs it."""

    spins: bool | None = None
    """Whether threads that wait keep their processor busy; None: the backend decides."""

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
    """The word that users select it by, such as `onnx`; the `name` of its backends."""

    suffix: str = ""
    """End of its files' names, such as `.onnx`; empty: it runs a torch module."""

    companions: tuple[str, ...] = ()
    """Ends of the names of further files of a model, in place of `suffix`, such as `.bin`."""

    load: str = ""
    """`(path: Path, options: LoadOptions) -> Backend`: opens a file."""

    export: str = ""
    """`(reference: ModuleBackend, path: Path) -> Export`: writes a file and compares it with the module (`write_verified`)."""

    wrap: str = ""
    """`(module: ModuleBackend, options: LoadOptions) -> Backend`: runs a module instead of a file."""

    pack: str = ""
    """`(source: Path, target: Path) -> bool`: writes a file as bundles hold it; False: the file is copied as it is."""

    export_name: str = ""
    """The word for `nograd export --to`; empty: `name`."""

    precisions: tuple[str, ...] = ("float32",)
    """Precisions that `nograd tune` builds, of `PRECISIONS`."""

    has_lanes: bool = False
    """Whether `nograd tune` measures it in several lanes: calls to `run` at the same time."""

    fixes_threads: bool = False
    """Whether it is compiled for the number of threads that it sees while it is built."""

    build_s: float = 0.0
    """Seconds to build a model of the size of MiniLM, if that is long; `nograd tune` starts no build with less time left."""

    requires: str = ""
    """The module to import that it needs besides torch; empty: none."""

    extra: str = ""
    """The extra of nograd that installs `requires`, such as `onnx`."""

    libraries: tuple[str, ...] = ("torch",)
    """Package that computes; its version decides speed and answers. Further entries: other packages with the same library."""

    code: str = ""
    """The kind of code in its files, such as `native code`; opening one needs trust. Empty: files hold data only."""

    distribution: str = ""
    """The installed distribution that it comes from; empty: nograd. The registry sets it."""

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
            raise ConfigError(f"precisions holds {unknown[0]!r}; it must hold some of {', '.join(PRECISIONS)}")
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
        """The word for `nograd export --to`."""
        return self.export_name or self.name

    @property
    def source(self) -> str:
        """Who offers it, for messages."""
        return f"the package {self.distribution}" if self.distribution else "nograd"

    def files(self, path: Path) -> list[Path]:
        """Return the names of all files of a model whose file is `path`; companions need not exist."""
        return [path, *(path.with_name(f"{path.stem}{end}") for end in self.companions)]

    def why_missing(self) -> str:
        """Return why it cannot run here, in one sentence; empty if what it needs is installed."""
        if not self.requires or importlib.util.find_spec(self.requires) is not None:
            return ""
        if self.distribution:
            return f"{self.requires} is not installed, which {self.source} needs"
        return f"{self.requires} is not installed; run: pip install 'nograd[{self.extra}]'"
