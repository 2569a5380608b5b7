"""The model of a bundle: writing it into the folder, and creating a backend from it.

Exported files are copied. A torch module is code, which a bundle does not contain. The bundle contains its weights, and
transformers (for a saved folder) or a factory of the user creates the module.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.backends.coupling import with_independence
from nograd.backends.kinds import LoadOptions
from nograd.backends.opening import copy_file, open_backend, wrap_module
from nograd.bundle.manifest import BundleDescription, BundleSettings, FactoryStep, ImportedStep
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
    "ExportedFile", "ModelFactory", "ModelFolder", "OpenedModel", "Source", "check_source", "list_code", "model_files",
    "open_factory", "open_model", "write_source",
]  # fmt: skip

FOLDER = "model"
WEIGHTS = "weights.safetensors"

NEEDED = re.compile(
    r"(config|generation_config|modules|sentence_bert_config|config_sentence_transformers|tokenizer|tokenizer_config"
    r"|special_tokens_map|model\.safetensors\.index|1_Pooling/config)\.json|vocab\.txt|model(-\d+-of-\d+)?\.safetensors"
)
"""Files that loading a transformers folder may read. These formats contain data but no code."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """An exported `.onnx`, `.xml`, `.pt2` or `.pt` file, with its external weights if there are any."""

    path: Path


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder saved by transformers, with weights in safetensors format."""

    path: Path


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """A function that creates the module, and a module with the weights to store."""

    factory: str
    """`package.module:function`; it returns a module or a Predictor."""

    module: nn.Module
    """The module as the factory creates it: float32, if the backend converts it to half precision."""


Source = ExportedFile | ModelFolder | ModelFactory


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A backend, and the Predictor if a factory returned one."""

    backend: Backend
    by_factory: Predictor | None = None


# -- writing


def check_source(source: Source, settings: BundleSettings) -> None:
    """Raise ConfigError if the backend cannot run this source."""
    kind = settings.kind
    if kind.runs_module:
        if isinstance(source, ExportedFile):
            raise ConfigError(
                f"backend is {settings.backend!r}; it needs a ModelFolder or a ModelFactory, not an exported file"
            )
        return
    if not isinstance(source, ExportedFile) or source.path.suffix != kind.suffix:
        raise ConfigError(f"backend is {settings.backend!r}; it needs an ExportedFile that ends in {kind.suffix}")


def write_source(source: Source, settings: BundleSettings, folder: Path) -> None:
    """Write the model to a folder.

    Raises:
        ConfigError: a file does not exist, or its content is not allowed in a bundle.
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


def model_files(described: BundleDescription) -> Callable[[str], bool]:
    """Return a predicate: whether a file name belongs to the model of this bundle."""
    kind = described.settings.kind
    if not kind.runs_module:
        return {file.name for file in kind.files(_model_file(kind, Path()))}.__contains__
    if described.factory:
        return {WEIGHTS}.__contains__
    return lambda name: name.startswith(f"{FOLDER}/") and NEEDED.fullmatch(name.removeprefix(f"{FOLDER}/")) is not None


def list_code(described: BundleDescription) -> Iterator[str]:
    """Yield the parts of the model that run code when it is opened, besides nograd and its libraries."""
    kind = described.settings.kind
    if kind.code:
        yield f"{kind.code} ({_model_file(kind, Path()).name})"
    if described.factory:
        yield f"the name of a function to call ({described.factory})"


def open_model(described: BundleDescription, folder: Path, *, device: str, lanes: int, digest: str) -> Backend:
    """Open the backend of an exported file or a transformers folder. The caller has checked trust.

    Raises:
        ModelLoadError: the model cannot be loaded, or differs from the bundle's description.
        MissingExtraError: a package that the backend needs is not installed.
    """
    settings = described.settings
    kind = settings.kind
    if not kind.runs_module:
        options = LoadOptions(
            device=device, lanes=lanes, num_threads=settings.num_threads, trusted=True, spins=False,  # as when it was measured
            max_batch_size=settings.max_batch_size, digest=digest,
        )  # fmt: skip
        return _with_signature(open_backend(kind, _model_file(kind, folder), options), described.signature)
    from nograd.model_folders.transformers import load_folder

    return _in_precision(load_folder(folder / FOLDER, device=device).backend, settings, lanes)


def open_factory(described: BundleDescription, folder: Path, *, device: str, lanes: int, example: Any) -> OpenedModel:
    """Open the backend of a trusted factory's module, loaded with the bundle's weights.

    Args:
        described: content of bundle.json.
        folder: the bundle's folder.
        device: for a bare module; a Predictor has its own.
        lanes: number of concurrent runs.
        example: an item for probing a module without `example_input_array`.

    Raises:
        ModelLoadError: the factory does not exist, returns another type, or its module does not match the weights.
    """
    from nograd.core.inputs import is_module

    made = _call_factory(find(ImportedStep(described.factory)), described.factory)
    predictor = _probe_bare_module(made, described, folder, device, example) if is_module(made) else made
    if not isinstance(predictor, Predictor):
        kind = type(made).__name__
        raise ModelLoadError(f"{described.factory} returned {kind}; it must return a nograd.Predictor or a torch.nn.Module")
    if predictor is made:
        from nograd.backends.weights import load_weights

        load_weights(_module_of(predictor.backend, described.factory).model, folder / WEIGHTS)
    return OpenedModel(_in_precision(predictor.backend, described.settings, lanes), made if predictor is made else None)


def _with_signature(backend: Backend, signature: Signature) -> Backend:
    """Set the bundle's signature on the backend; it records how the rows of a foreign file may be batched.

    If the file declares its rows coupled, that wins unless the bundle says that the user accepted it.
    """
    own, noted = backend.signature.independence, signature.independence
    if noted is not None and noted.backend != backend.name:
        signature, noted = replace(signature, independence=None), None
    if (backend.signature.inputs, backend.signature.outputs) != (signature.inputs, signature.outputs):
        backend.close()
        raise ModelLoadError("inputs and outputs of the model's file differ from bundle.json; write the bundle again")
    if own is not None and (noted is None or (own.is_coupled and not noted.is_accepted)):
        signature = with_independence(signature, own)
    backend.signature = signature
    return backend


def _call_factory(factory: Callable[..., Any], name: str) -> Any:
    try:
        return factory()
    except NogradError:
        raise
    except BaseException as error:  # the factory is the user's code
        if is_interrupt(error):
            raise
        raise ModelLoadError(f"{name} raised {type(error).__name__}: {error}") from error


def _probe_bare_module(module: Any, described: BundleDescription, folder: Path, device: str, example: Any) -> Predictor:
    """Return a Predictor of a factory's bare module, loaded with the bundle's weights and probed."""
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


def _in_precision(backend: Backend, settings: BundleSettings, lanes: int) -> Backend:
    """Return the backend in the precision and layout of the settings, compiled if the settings say so."""
    module = _module_of(backend, "the bundle")
    if settings.precision != "float32":
        module = halved(module, settings.precision)
    options = LoadOptions(lanes=lanes, num_threads=settings.num_threads, max_batch_size=settings.max_batch_size)
    return wrap_module(settings.kind, module, options)
