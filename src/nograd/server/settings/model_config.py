"""Settings of one served model: its source, its name, and the limits that differ from the server's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from nograd.errors import ConfigError
from nograd.server.settings.definition import ServeConfig

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor

__all__ = ["HELP", "ModelConfig", "name_of", "open_model", "parse_model"]

DEMO = "minilm"

LIMITS = (
    "max_batch_size", "max_wait_ms", "max_queue_rows", "preprocess_threads", "timeout_s", "device", "trusted",
    "accept_coupled_rows",
)  # fmt: skip
"""Settings of the server that a model may override."""

HELP = {
    "model": "Source: a bundle, a transformers folder, a model file, package.module:factory, or minilm.",
    "name": "Name in URLs; unset: the bundle's name, or one derived from the source.",
    "version": "Version in URLs; of several versions of one name, the last one listed is the newest.",
    "load": "Load the model at start; false: load it when a client requests that (needs the repository).",
    "cache": "Cache responses of this model, if the server has a cache.",
}
"""Help texts of the fields that the server does not have."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One version of one model. None means the server's value; `HELP` explains the other fields."""

    model: str
    name: str = ""
    version: str = "1"
    load: bool = True
    max_batch_size: int | None = None
    max_wait_ms: float | None = None
    max_queue_rows: int | None = None
    preprocess_threads: int | None = None
    timeout_s: float | None = None
    cache: bool = True
    device: str | None = None
    trusted: bool | None = None
    accept_coupled_rows: bool | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model is ''; it must name a model, such as 'minilm.bundle' or 'package.module:factory'")
        if not self.version or "/" in self.version:
            raise ConfigError(f"version is {self.version!r}; it must be text without '/', such as '2'")
        if not self.load and not self.name:
            raise ConfigError(f"load is false for {self.model}, which has no name: no request could load it; give it a name")
        self.settings(ServeConfig())

    def settings(self, server: ServeConfig) -> ServeConfig:
        """Return the server's settings with the overrides of this model.

        Raises:
            ConfigError: a limit is out of its range.
        """
        own = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        if not self.cache:
            own |= {"cache_mb": 0.0, "cache_url": ""}
        return replace(server, **own) if own else server


def parse_model(text: str) -> ModelConfig:
    """Parse a model argument of the command line: `MODEL`, `NAME=MODEL` or `NAME:VERSION=MODEL`.

    NAME may contain slashes, as in `org/model`. The path of an existing file or folder is always a MODEL.

    Raises:
        ConfigError: a name, a version or the model is empty.
    """
    given, sign, model = text.partition("=")
    if not sign or Path(text).exists() or ("/" in given and (given[0] in "/.~" or not _names_model(model))):
        return ModelConfig(text)
    name, colon, version = given.partition(":")
    if not name or not model or (colon and not version):
        raise ConfigError(f"a model is {text!r}; it must be MODEL, NAME=MODEL or NAME:VERSION=MODEL")
    return ModelConfig(model, name, version or "1")


def _names_model(text: str) -> bool:
    """Return whether a text can be a MODEL: a factory, a file or folder, or the demo. If not, a slash before it belongs to
    a path.
    """
    return ":" in text or "/" in text or text == DEMO or bool(PurePath(text).suffix) or Path(text).exists()


def name_of(model: str) -> str:
    """Return the default name of a model in URLs: that of the factory or the folder."""
    return PurePath(model.rpartition(":")[2]).name.removesuffix(".zip") or "model"


def open_model(model: ModelConfig, server: ServeConfig) -> Predictor:
    """Load the model; blocking.

    Raises:
        NogradError: as for `nograd.load`.
    """
    from nograd.sources import load

    settings = model.settings(server)
    return load(
        model.model,
        device=settings.device,
        trusted=settings.trusted,
        accept_coupled_rows=settings.accept_coupled_rows,
    )
