"""What is said of one model that a server has: where it comes from, and in what its limits differ from the server's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from nograd.errors import ConfigError
from nograd.server.config import ServeConfig

if TYPE_CHECKING:
    from nograd.predictor import Predictor

__all__ = ["ModelConfig", "name_of", "open_model", "parse_model"]

LIMITS = ("max_batch_size", "max_wait_ms", "max_queue_rows", "timeout_s", "device", "trusted")
"""Settings of the server that a model may have otherwise."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One version of one model. What is None here is as the server has it."""

    model: str
    """As on the command line: a bundle, a folder, a file, `package.module:factory` or `minilm`."""

    name: str = ""
    """In URLs; empty: the bundle's own, or made of `model`."""

    version: str = "1"
    """Of several with one name, the last that is listed is the newest."""

    load: bool = True
    """Whether it is there when the server begins; false: only once it is asked for (the repository extension)."""

    max_batch_size: int | None = None
    max_wait_ms: float | None = None
    max_queue_rows: int | None = None
    timeout_s: float | None = None

    cache: bool = True
    """Whether its answers are kept, where the server keeps any."""

    device: str | None = None
    trusted: bool | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model is ''; it must name a model, such as 'minilm.bundle' or 'package.module:factory'")
        if not self.version or "/" in self.version:
            raise ConfigError(f"version is {self.version!r}; it must be text without '/', such as '2'")
        if not self.load and not self.name:
            raise ConfigError(f"load is false for {self.model}, which has no name: nobody could ask for it; give it a name")
        self.settings(ServeConfig())

    def settings(self, server: ServeConfig) -> ServeConfig:
        """Return the server's settings as they are for this model.

        Raises:
            ConfigError: a limit is out of its range.
        """
        own = {name: getattr(self, name) for name in LIMITS if getattr(self, name) is not None}
        if not self.cache:
            own |= {"cache_mb": 0.0, "cache_url": ""}
        return replace(server, **own) if own else server


def parse_model(text: str) -> ModelConfig:
    """Return the model that an argument of the command names: `MODEL`, `NAME=MODEL` or `NAME:VERSION=MODEL`.

    A text that is the path of something is a MODEL, whatever is in it.

    Raises:
        ConfigError: a name, a version or the model is empty.
    """
    told, sign, model = text.partition("=")
    if not sign or "/" in told or Path(text).exists():
        return ModelConfig(text)
    name, colon, version = told.partition(":")
    if not name or not model or (colon and not version):
        raise ConfigError(f"a model is {text!r}; it must be MODEL, NAME=MODEL or NAME:VERSION=MODEL")
    return ModelConfig(model, name, version or "1")


def name_of(model: str) -> str:
    """Return the name in the URL of a model that has none of its own: the factory's, or the folder's."""
    return PurePath(model.rpartition(":")[2]).name.removesuffix(".zip") or "model"


def open_model(model: ModelConfig, server: ServeConfig) -> Predictor:
    """Return the model, loaded; blocking.

    Raises:
        NogradError: as `nograd.load`.
    """
    from nograd.sources import load

    settings = model.settings(server)
    return load(model.model, device=settings.device, trusted=settings.trusted)
