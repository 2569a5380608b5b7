"""The model, the sample and the source that `tune` works with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.bundle import ModelFactory, ModelFolder, check_target
from nograd.predictors.predictor import Predictor
from nograd.runtime.threads import in_own_thread
from nograd.sources import folder_of, load
from nograd.tuning.data import Sample, check_data, read_sample, sample_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_files", "load_on_cpu", "name_of", "predictor_of", "rows_of", "source_of"]

FEW_ROWS = 8
"""With fewer rows than this, parity proves little about other rows."""


def predictor_of(model: nn.Module | Predictor | str, sample: Any) -> Predictor:
    """Return the predictor to tune: over the module, or loaded by its name."""
    if isinstance(model, Predictor):
        return model
    if isinstance(model, str):
        return load_on_cpu(model)
    return in_own_thread(lambda: Predictor(model, device="cpu", sample=sample)).result()


def load_on_cpu(model: str) -> Predictor:
    """Return the Predictor with this name; on the CPU unless the name specifies a device."""
    device = "auto" if folder_of(model) is None else "cpu"  # a factory's Predictor has its own device
    return in_own_thread(lambda: load(model, device=device)).result()


def check_files(target: Path | None, sample: Any) -> None:
    """Raise ConfigError if no bundle can be written to a path, or the sample is a file that cannot be read."""
    if target is not None:
        check_target(target)
    if isinstance(sample, Path):
        check_data(sample)


def rows_of(predictor: Predictor, sample: Any) -> Sample:
    """Return the rows to tune with; warn if they are few."""
    if isinstance(sample, Path):
        return read_sample(sample, predictor)
    rows = sample_of(predictor, sample)
    if len(rows.parts) < FEW_ROWS:
        warnings.warn(
            f"{rows.description}: too few to compare answers reliably; give at least {FEW_ROWS} rows, better 50 to 200",
            stacklevel=3,
        )
    return rows


def name_of(model: nn.Module | Predictor | str, predictor: Predictor) -> str:
    """Return the model's name: the name that it was loaded by, or the module's class."""
    if isinstance(model, str):
        return Path(model.rpartition(":")[2]).name
    return predictor.name or type(getattr(predictor.backend, "model", model)).__name__


def source_of(model: Any, predictor: Predictor, factory: str | None) -> ModelFactory | ModelFolder | None:
    """Return the source that rebuilds the module; None if no source is known."""
    from nograd.backends.modules import ModuleBackend  # imports torch, which takes seconds

    if isinstance(model, str) and (folder := folder_of(model)) is not None:
        return ModelFolder(folder)
    named = factory if factory is not None else model if isinstance(model, str) and ":" in model else None
    if named is None or not isinstance(predictor.backend, ModuleBackend):
        return None
    return ModelFactory(named, predictor.backend.model)
