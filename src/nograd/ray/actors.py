"""The recipe of an actor, which is sent to every process of the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nograd.bundle import Bundle, is_bundle
from nograd.errors import ConfigError
from nograd.predictors.predictor import Predictor
from nograd.runtime.cores import bound_threads, processors
from nograd.runtime.openmp import spin_briefly
from nograd.runtime.threads import in_own_thread
from nograd.sources import load

__all__ = ["RESTARTS", "ActorRecipe", "carried_environment", "cores_of", "device_in_actor", "recipe_of", "reserved_gpus"]

CARRIED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables that affect how a model is found and run. Ray itself sets OMP_NUM_THREADS to an actor's cores."""

RESTARTS = 3
"""Number of times that a piece of work may end its process. After that, the work is at fault."""


@dataclass(frozen=True, slots=True)
class ActorRecipe:
    """The recipe of an actor's predictor."""

    model: str
    """Argument of `nograd.load`. It must denote the same model on every machine of the cluster."""

    device: str = "auto"
    trusted: bool = False
    accept_coupled_rows: bool = False
    cores: int = 1
    """Cores of one actor: the threads of its model."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ConfigError(f"cores is {self.cores}; it must be at least 1")

    @property
    def gpus(self) -> int:
        """GPUs that one actor reserves: one for `cuda`."""
        return reserved_gpus(self.device)

    def predictor(self) -> Predictor:
        """Return the predictor, in the process that will run it. Call this before torch is loaded there."""
        os.environ.update(self.environment)
        spin_briefly(os.environ)
        bound_threads(os.environ)
        return in_own_thread(
            lambda: load(
                self.model,
                device=device_in_actor(self.device),
                trusted=self.trusted,
                accept_coupled_rows=self.accept_coupled_rows,
            )
        ).result()


def reserved_gpus(device: str) -> int:
    """Return the GPUs that an actor reserves. `auto` reserves none: the number of actors that fit on a GPU is unknown."""
    return int(device.startswith("cuda"))


def device_in_actor(device: str) -> str:
    """Return the device in the process of an actor.

    Ray shows an actor the GPU that it reserved, as `cuda:0`. Newer versions show all GPUs to an actor that reserved none, so
    that `auto` would place every actor on the first one.
    """
    if device.startswith("cuda"):
        return "cuda:0"
    return "cpu" if device == "auto" else device


def recipe_of(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    trusted: bool = False,
    cores: int | None = None,
    accept_coupled_rows: bool = False,
) -> ActorRecipe:
    """Return the recipe for a model.

    Args:
        model: as `nograd.load` takes it.
        device: `auto`, or a torch device.
        trusted: for models that contain or name code.
        cores: cores of one actor; None: as many as the bundle was tuned for, 1 without a bundle.
        accept_coupled_rows: whether rows that influence each other are batched.

    Raises:
        ConfigError: `cores` is below 1.
        ModelLoadError: the bundle is damaged.
    """
    name = os.fspath(model)
    cores = cores_of(name) if cores is None else cores
    path = str(Path(name).absolute()) if Path(name).exists() else name
    return ActorRecipe(path, device, trusted, accept_coupled_rows, cores, carried_environment())


def carried_environment() -> dict[str, str]:
    """Return the environment variables that other processes of the cluster need."""
    return {each: os.environ[each] for each in CARRIED if each in os.environ}


def cores_of(model: str, most: Callable[[], int] = processors) -> int:
    """Return the cores that a bundle was tuned for, at most those of this machine; 1 without a bundle.

    Args:
        model: as `nograd.load` takes it.
        most: returns the number of processors.
    """
    if not is_bundle(Path(model)):
        return 1
    with Bundle.read(model) as bundle:
        return min(bundle.settings.lanes * bundle.settings.num_threads, most())
