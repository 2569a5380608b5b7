"""The model itself: how it gets into a bundle, and how a backend is made of what lies there.

An exported file is copied. A torch module is code, which a bundle does not hold: its weights lie there, and the module is made
by transformers, for a folder of its own, or by a factory of the user's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.backends.coupling import judged
from nograd.backends.kinds import LoadOptions
from nograd.backends.opening import copy_file, open_backend, wrap_module
from nograd.bundle.manifest import Described, FactoryStep, ImportedStep, Settings
from nograd.bundle.naming import find
from nograd.bundle.pipeline import read_step
from nograd.core.tensors import Signature
from nograd.errors import ConfigError, ModelLoadError, NogradError
from nograd.exports import halved
from nograd.predictors.predictor import Predictor
from nograd.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends import Backend
    from nograd.backends.kinds import Kind
    from nograd.backends.modules import ModuleBackend

__all__ = [
    "ExportedFile", "ModelFactory", "ModelFolder", "Opened", "Source", "check_source", "code_in", "model_files", "open_factory",
    "open_model", "write_source",
]  # fmt: skip

FOLDER = "model"
WEIGHTS = "weights.safetensors"

NEEDED = re.compile(
    r"(config|generation_config|modules|sentence_bert_config|config_sentence_transformers|tokenizer|tokenizer_config"
    r"|special_tokens_map|model\.safetensors\.index|1_Pooling/config)\.json|vocab\.txt|model(-\d+-of-\d+)?\.safetensors"
)
"""What loading a transformers folder may read: data in forms that hold no code."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """A file that an exporter wrote: `.onnx`, `.xml`, `.pt2` or `.pt`; with its weights beside it, where they lie there."""

    path: Path


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that transformers saved, with its weights as safetensors."""

    path: Path


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """A function that makes the module, and the module whose weights count."""

    factory: str
    """`package.module:function`; it returns a module or a Predictor."""

    module: nn.Module
    """As the factory makes it: in float32, where half precision is the backend's."""


Source = ExportedFile | ModelFolder | ModelFactory


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend, and the Predictor that a factory returned with it."""

    backend: Backend
    by_factory: Predictor | None = None


# -- writing


def check_source(source: Source, settings: Settings) -> None:
    """Raise ConfigError where a backend cannot be made of such a source."""
    kind = settings.kind
    if kind.runs_module:
        if isinstance(source, ExportedFile):
            raise ConfigError(
                f"backend is {settings.backend!r}; it needs a ModelFolder or a ModelFactory, not an exported file"
            )
        return
    if not isinstance(source, ExportedFile) or source.path.suffix != kind.suffix:
        raise ConfigError(f"backend is {settings.backend!r}; it needs an ExportedFile that ends in {kind.suffix}")


def write_source(source: Source, settings: Settings, folder: Path) -> None:
    """Write the model into a folder.

    Raises:
        ConfigError: a file is not there, or holds what a bundle does not take.
    """
    if isinstance(source, ModelFactory):
        from nograd.backends.weights import save_weights

        save_weights(source.module, folder / WEIGHTS)
    elif isinstance(source, ModelFolder):
        _copy_folder(source.path, folder / FOLDER)
    else:
        if not source.path.is_file():
            raise ConfigError(f"there is no file {source.path}")
        copy_file(settings.kind, source.path, _model_file(settings.kind, folder))


def _model_file(kind: Kind, folder: Path) -> Path:
    return folder / f"model{kind.suffix}"


def _copy_folder(source: Path, target: Path) -> None:
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    wanted = [name for name in names if NEEDED.fullmatch(name)]
    if "config.json" not in wanted or not any(name.endswith(".safetensors") for name in wanted):
        raise ConfigError(
            f"{source} is not a transformers folder with config.json and safetensors; save the model with save_pretrained"
        )
    for name in wanted:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


# -- reading


def model_files(described: Described) -> Callable[[str], bool]:
    """Return whether a name is one that a bundle of this kind has for its model."""
    kind = described.settings.kind
    if not kind.runs_module:
        return {file.name for file in kind.files(_model_file(kind, Path()))}.__contains__
    if described.factory:
        return {WEIGHTS}.__contains__
    return lambda name: name.startswith(f"{FOLDER}/") and NEEDED.fullmatch(name.removeprefix(f"{FOLDER}/")) is not None


def code_in(described: Described) -> Iterator[str]:
    """Yield what runs when the model is opened, beside nograd and the libraries."""
    kind = described.settings.kind
    if kind.code:
        yield f"{kind.code} ({_model_file(kind, Path()).name})"
    if described.factory:
        yield f"the name of a function to call ({described.factory})"


def open_model(described: Described, folder: Path, *, device: str, lanes: int, digest: str) -> Backend:
    """Return the backend over an exported file, or a transformers folder. Whether it is trusted was asked before.

    Raises:
        ModelLoadError: what lies there cannot be loaded, or is not the model that the bundle describes.
        MissingExtraError: what the backend needs is not installed.
    """
    settings = described.settings
    kind = settings.kind
    if not kind.runs_module:
        options = LoadOptions(
            device=device, lanes=lanes, num_threads=settings.num_threads, trusted=True, spins=False,  # as it was measured
            max_batch_size=settings.max_batch_size, digest=digest,
        )  # fmt: skip
        return _as_described(open_backend(kind, _model_file(kind, folder), options), described.signature)
    from nograd.model_folders.transformers import load_folder

    return _in_precision(load_folder(folder / FOLDER, device=device).backend, settings, lanes)


def open_factory(described: Described, folder: Path, *, device: str, lanes: int, example: Any) -> Opened:
    """Return the backend over the module that a factory makes, with the bundle's weights in it. It is trusted.

    Args:
        described: the bundle.
        folder: of the bundle.
        device: for a module; a Predictor has its own.
        lanes: runs side by side.
        example: an item, for a module that does not say itself what it takes.

    Raises:
        ModelLoadError: the factory is not there, makes something else, or its module is of another kind than the weights.
    """
    from nograd.core.inputs import is_module

    made = _called(find(ImportedStep(described.factory)), described.factory)
    predictor = _over(made, described, folder, device, example) if is_module(made) else made
    if not isinstance(predictor, Predictor):
        told = type(made).__name__
        raise ModelLoadError(f"{described.factory} returned {told}; it must return a nograd.Predictor or a torch.nn.Module")
    if predictor is made:
        from nograd.backends.weights import load_weights

        load_weights(_module_of(predictor.backend, described.factory).model, folder / WEIGHTS)
    return Opened(_in_precision(predictor.backend, described.settings, lanes), made if predictor is made else None)


def _as_described(backend: Backend, signature: Signature) -> Backend:
    """Give the backend the bundle's signature: a sample has shown how rows of a foreign file may be batched.

    A file that says itself that its rows are coupled is believed, unless the bundle says that its user accepted that.
    """
    own, noted = backend.signature.independence, signature.independence
    if noted is not None and noted.backend != backend.name:
        signature, noted = replace(signature, independence=None), None
    if (backend.signature.inputs, backend.signature.outputs) != (signature.inputs, signature.outputs):
        backend.close()
        raise ModelLoadError("the model's file takes and gives other tensors than bundle.json says: write the bundle anew")
    if own is not None and (noted is None or (own.is_coupled and not noted.is_accepted)):
        signature = judged(signature, own)
    backend.signature = signature
    return backend


def _called(factory: Callable[..., Any], name: str) -> Any:
    try:
        return factory()
    except NogradError:
        raise
    except BaseException as error:  # the factory is the user's code
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"{name} raised {type(error).__name__}: {error}") from error


def _over(module: Any, described: Described, folder: Path, device: str, example: Any) -> Predictor:
    """Return a Predictor over a factory's bare module, with the bundle's weights in it, probed."""
    from nograd.backends.weights import load_weights

    load_weights(module, folder / WEIGHTS)
    preprocess = None if isinstance(described.preprocess, FactoryStep) else read_step(described.preprocess, folder, None)
    own = getattr(module, "example_input_array", None)
    if own is None and example is None:
        raise ModelLoadError(f"{described.factory} returned a bare module, and the bundle has no example to probe it with")
    if own is not None or preprocess is None:
        return Predictor(module, device=device, sample=example if own is None else own)
    return Predictor(module, device=device, preprocess=preprocess, sample=[example])


def _module_of(backend: Backend, what: str) -> ModuleBackend:
    from nograd.backends.modules import ModuleBackend

    if not isinstance(backend, ModuleBackend) or not backend.samples:
        raise ModelLoadError(
            f"{what} makes a Predictor on {backend.name!r} without a sample; it must be a probed torch module's"
        )
    return backend


def _in_precision(backend: Backend, settings: Settings, lanes: int) -> Backend:
    """Return the backend in the precision and the layout of the settings; compiled, where they say so."""
    module = _module_of(backend, "the bundle")
    if settings.precision != "float32":
        module = halved(module, settings.precision)
    options = LoadOptions(lanes=lanes, num_threads=settings.num_threads, max_batch_size=settings.max_batch_size)
    return wrap_module(settings.kind, module, options)
