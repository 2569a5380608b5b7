"""Checks of model arguments, and the error for objects that are not models."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from nograd.core.inputs import is_module
from nograd.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_module", "is_predictor", "not_a_model"]

MODULE = "a torch.nn.Module or a nograd Backend"


def is_predictor(model: object) -> bool:
    """Return whether an object is a `nograd.Predictor`, which lower layers cannot import."""
    module = sys.modules.get("nograd.predictors.predictor")
    return module is not None and isinstance(model, module.Predictor)


def check_module(model: Any, *, wanted: str = MODULE) -> TypeGuard[nn.Module]:
    """Return True for a torch module.

    Raises:
        ConfigError: `model` is not a torch module; `wanted` describes the allowed types in the message.
    """
    if is_module(model):
        return True
    raise not_a_model(model, wanted=wanted)


def not_a_model(model: Any, *, wanted: str = MODULE) -> ConfigError:
    """Return the error for an unusable model: what was given, what is allowed, what to do."""
    what, remedy = _describe(model)
    return ConfigError(f"model is {what}; it must be {wanted}{remedy}")


def _describe(model: Any) -> tuple[str, str]:
    """Describe the given object, and what to do about it."""
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        return repr(name), f": open files and names with nograd.load({name!r})"
    if is_predictor(model):
        return f"a {type(model).__name__}", ": call a Predictor directly, or pass the module that it was created from"
    if isinstance(model, type):
        return f"the class {model.__name__}", f": pass an instance, {model.__name__}(...)"
    if isinstance(model, Mapping):
        return type(model).__name__, ": load weights into their module with load_state_dict, and pass the module"
    return type(model).__name__, ""
