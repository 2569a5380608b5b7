"""Conversion of a module, a backend or a Predictor to a Predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nograd.backends import Backend
from nograd.errors import ConfigError
from nograd.predictors.predictor import Predictor

if TYPE_CHECKING:
    import torch

__all__ = ["as_predictor", "parts_of"]


def parts_of(predictor: Predictor) -> dict[str, Any]:
    """Return the arguments that create another Predictor of the same model."""
    source, sample = predictor.source, None
    if isinstance(source, Backend) and (predictor._example is not None or not predictor.has_preprocess):  # noqa: SLF001
        sample = [predictor.example] if predictor.has_preprocess else predictor.example
    return {
        "model": source, "preprocess": predictor.preprocess, "postprocess": predictor.postprocess, "sample": sample,
        "item": predictor.item,
    }  # fmt: skip


def as_predictor(model: Any, device: str | torch.device = "auto", **options: Any) -> Predictor:
    """Return a Predictor unchanged, or create one from a module or a backend.

    Args:
        model: a Predictor, a module or a backend.
        device: device of a module, as for `Predictor`; a Predictor has its own.
        options: options of the Predictor that is created from a module.

    Raises:
        ConfigError: `model` is something else, or the Predictor runs on another device.
    """
    if not isinstance(model, Predictor):
        return Predictor(model, device, **options)
    if device != "auto" and str(device) not in (model.device, model.device.partition(":")[0]):
        raise ConfigError(f"device is {str(device)!r}, and the Predictor runs on {model.device!r}; set the device there")
    return model
