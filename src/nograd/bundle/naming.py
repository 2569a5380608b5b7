"""References to callables by import name: `package.module:qualified.name`."""

from __future__ import annotations

import sys
from functools import reduce
from pathlib import Path
from typing import Any, cast

from nograd.bundle.manifest import ImportedStep
from nograd.errors import ConfigError, MissingExtraError, ModelLoadError
from nograd.runtime.fingerprint import of_value
from nograd.runtime.imports import import_module
from nograd.runtime.interrupts import is_interrupt

__all__ = ["find", "import_step"]


def import_step(step: Any, role: str) -> ImportedStep:
    """Return a reference by which another process can import a callable.

    Raises:
        ConfigError: no import name leads to the callable; the message says why and what to do.
    """
    shown = "a lambda" if getattr(step, "__name__", "") == "<lambda>" else repr(step)
    if _is(step, found := _name(step)):
        return ImportedStep(found)
    if not isinstance(step, type) and _is(type(step), found := _name(type(step))) and _is_made_by_its_class(step):
        return ImportedStep(found, is_instance=True)
    raise ConfigError(
        f"{role} is {shown}: {_why_not(step)}; a bundle finds it by module and name: make it a function at the top of a module "
        "that can be imported (def prepare(item): ...), and give that"
    )


def find(step: ImportedStep) -> Any:
    """Import the callable of a reference.

    Raises:
        ModelLoadError: the name does not exist here, or importing or creating the callable raised.
        MissingExtraError: the import needs torch.
    """
    module, _, qualified = step.name.partition(":")
    try:
        found: Any = reduce(getattr, qualified.split("."), cast("Any", import_module(module)))
        found = found() if step.is_instance else found
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtraError("torch", "torch") from error
        raise ModelLoadError(f"{step.name} cannot be imported: there is no module {error.name!r}, from {Path.cwd()}") from error
    except BaseException as error:  # importing runs the user's code
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"{step.name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ModelLoadError(f"{step.name} is {type(found).__name__}; it must be callable")
    return found


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"


def _is(value: Any, name: str) -> bool:
    """Return whether a name leads to this object. Objects of a script (`__main__`) have no name in other processes."""
    module, _, qualified = name.partition(":")
    if module in ("", "__main__") or not qualified or "<" in qualified or module not in sys.modules:
        return False
    try:
        return reduce(getattr, qualified.split("."), sys.modules[module]) is value
    except AttributeError:
        return False


def _is_made_by_its_class(value: Any) -> bool:
    """Return whether the class, called without arguments, creates an equal object."""
    try:
        like = type(value)()
    except Exception:  # noqa: BLE001  the class is the user's code; if it needs arguments, it cannot be recreated
        return False
    return of_value(value).text == of_value(like).text


def _state(value: Any) -> list[str]:
    """Return the names of an object's attributes."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return sorted([*getattr(value, "__dict__", {}), *(name for name in slots if hasattr(value, name))])


def _why_not(step: Any) -> str:
    kind = step if isinstance(step, type) or hasattr(step, "__qualname__") else type(step)
    if getattr(kind, "__module__", "") == "__main__":
        return "it is defined in the script that runs"
    if "<locals>" in getattr(kind, "__qualname__", ""):
        return "it is defined inside of a function"
    if not hasattr(step, "__qualname__") and (state := _state(step)):
        return f"it is an object with the state {', '.join(state)}"
    return "no module has a name for it"
