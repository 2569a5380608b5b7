"""Importing the user's modules, and reimporting them after an edit.

Python runs a module's code once. A server that reloads a model within `fresh_imports` runs the same code as after a restart,
while older objects keep their modules.
"""

from __future__ import annotations

import importlib
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.machinery import ExtensionFileLoader, PathFinder, SourceFileLoader
from pathlib import Path

from nograd.errors import ModelLoadError
from nograd.runtime.fingerprint import is_library

__all__ = ["fresh_imports", "import_module"]

_Modules = dict[str, types.ModuleType]

_local = threading.local()

_stamps: dict[str, tuple[int, int]] = {}
"""Module that cannot be reimported -> modification time and size of its file at the first import."""


def import_module(name: str) -> types.ModuleType:
    """Import a module, also from the current folder, like `python -m`.

    Within `fresh_imports`, code that was imported before the context runs again: the module, the user's modules in its folder
    that it imports, and modules in other folders that it used before. Installed libraries and native modules are not
    reimported.

    Raises:
        ModelLoadError: within `fresh_imports`, the module was edited and cannot be reimported.
        Exception: any error that the module raises while it is imported.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    fresh: _FreshImports | None = getattr(_local, "fresh", None)
    if fresh is not None:
        importlib.invalidate_caches()
        fresh.hide(name)
    module = importlib.import_module(name)
    _require_current(module)
    return module


@contextmanager
def fresh_imports() -> Iterator[None]:
    """Make `import_module` run edited code again, within this context and thread.

    If the block raises, all modules are restored. If it succeeds, later imports return the new modules; functions and classes
    of the old modules keep the old code.
    """
    fresh = _local.fresh = _FreshImports(dict(sys.modules))
    try:
        yield
    except BaseException:
        fresh.undo()
        raise
    else:
        fresh.finish()
    finally:
        _local.fresh = None


class _FreshImports:
    """Modules hidden from Python, so that it imports them again.

    Args:
        before: `sys.modules` at the start of the context.
    """

    def __init__(self, before: _Modules) -> None:
        self._before = before
        self._hidden: _Modules = {}

    def hide(self, name: str) -> None:
        """Hide the user's modules that importing `name` may run again."""
        for found, module in _related(name, sys.modules.copy()).items():
            if module is self._before.get(found):
                self._hidden[found] = sys.modules.pop(found)
                _forget_bytecode(module)

    def undo(self) -> None:
        for name, module in list(sys.modules.items()):
            if module is not self._before.get(name) and _can_run_again(name, module):
                del sys.modules[name]
        sys.modules.update(self._hidden)

    def finish(self) -> None:
        """Restore modules that were not reimported, except parts of a reimported package, which would not match it."""
        for name, module in sorted(self._hidden.items(), key=lambda item: item[0].count(".")):
            parent = name.rpartition(".")[0]
            if not parent or sys.modules.get(parent) is self._before.get(parent):
                sys.modules.setdefault(name, module)


def _related(name: str, modules: Mapping[str, types.ModuleType]) -> _Modules:
    """Return the user's loaded modules in the folder of a module, and modules in other folders that it uses, by name."""
    folder = _folder_of(name.partition(".")[0])
    users = {found: module for found, module in modules.items() if _can_run_again(found, module)}
    within = {found for found, module in users.items() if folder is not None and _path(module).is_relative_to(folder)}
    used: set[str] = set()
    left = [name] if name in users else []
    while left:
        found = left.pop()
        if found in users and found not in used:
            used.add(found)
            parents = [found.rpartition(".")[0]] if "." in found else []
            left += [*parents, *_names_in(users[found])]
    return {found: users[found] for found in within | used}


def _names_in(module: types.ModuleType) -> set[str]:
    """Return the names of the modules that define a module's global variables."""
    values = list(vars(module).values())
    return {
        value.__name__ if isinstance(value, types.ModuleType) else str(getattr(kind, "__module__", ""))
        for value in values
        for kind in [value if isinstance(value, type | types.FunctionType) else type(value)]
    }


def _folder_of(top: str) -> Path | None:
    """Return the folder on the path that contains a module or package; None if there is none, or it belongs to a library."""
    spec = PathFinder.find_spec(top)
    if spec is None or (top in sys.modules and is_library(top)):
        return None
    places = [Path(spec.origin)] if spec.origin else list(map(Path, spec.submodule_search_locations or ()))
    if not places:
        return None
    place = places[0].resolve()
    return place.parent.parent if place.name == "__init__.py" else place.parent


def _path(module: types.ModuleType) -> Path:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    return Path(file).resolve()


def _can_run_again(name: str, module: object) -> bool:
    """Return whether a module is the user's own, with Python source or as a package without `__init__.py`."""
    if name == "__main__" or not isinstance(module, types.ModuleType) or _is_library(name):
        return False
    is_namespace = getattr(module, "__file__", None) is None and bool(list(getattr(module, "__path__", [])))
    if not isinstance(getattr(module, "__loader__", None), SourceFileLoader) and not is_namespace:
        return False
    return not any(map(_has_distributions, _path(module).parents))


def _is_library(name: str) -> bool:
    top = name.partition(".")[0]
    return top not in sys.modules or is_library(top)


@cache
def _has_distributions(folder: Path) -> bool:
    """Return whether pip installed packages into a folder, such as the user's site or the target of `pip install --target`."""
    return next(folder.glob("*.dist-info"), None) is not None


def _forget_bytecode(module: types.ModuleType) -> None:
    """Remove compiled code: Python compares its age in whole seconds, so it misses an edit within one second."""
    cached = getattr(module, "__cached__", None)
    if cached:
        with suppress(OSError):
            Path(cached).unlink(missing_ok=True)


def _require_current(module: types.ModuleType) -> None:
    """Raise ModelLoadError if a module that cannot be reimported has a different file than at its first import."""
    name, file = module.__name__, getattr(module, "__file__", None)
    if file is None or _can_run_again(name, module):
        return
    try:
        status = Path(file).stat()
    except OSError:
        return
    stamp = status.st_mtime_ns, status.st_size
    if _stamps.setdefault(name, stamp) != stamp:
        is_native = isinstance(getattr(module, "__loader__", None), ExtensionFileLoader)
        kind = "is native code" if is_native else "is not imported again"
        raise ModelLoadError(f"module {name} was edited after it was imported, and {kind}; restart the server to load it")
