"""What an actor is made of: everything that is said once, and goes to every process of the cluster."""

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

__all__ = ["RESTARTS", "Recipe", "carried", "cores_of", "recipe_of"]

CARRIED = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Of the environment: what says how a model is found and run. Ray itself sets OMP_NUM_THREADS, to an actor's cores."""

RESTARTS = 3
"""Times that one piece of work may end the process that runs it: then it is the work's fault."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an actor comes to its predictor."""

    model: str
    """What `nograd.load` takes; on every machine of the cluster it must stand for the same."""

    device: str = "auto"
    trusted: bool = False
    accept_coupled_rows: bool = False
    cores: int = 1
    """Of one actor: the threads that its model computes with."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ConfigError(f"cores is {self.cores}; it must be at least 1")

    @property
    def gpus(self) -> int:
        """Of one actor. A model on `auto` takes none: how many actors a GPU has room for, nobody knows."""
        return int(self.device.startswith("cuda"))

    def predictor(self) -> Predictor:
        """Return the predictor, in the process that is to run it; before torch is loaded there."""
        os.environ.update(self.environment)
        spin_briefly(os.environ)
        bound_threads(os.environ)
        return in_own_thread(
            lambda: load(self.model, device=self.device, trusted=self.trusted, accept_coupled_rows=self.accept_coupled_rows)
        ).result()


def recipe_of(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    trusted: bool = False,
    cores: int | None = None,
    accept_coupled_rows: bool = False,
) -> Recipe:
    """Return the recipe for what a user names here.

    Args:
        model: as `nograd.load` takes it.
        device: `auto`, or a torch device.
        trusted: for models that hold or name code.
        cores: of one actor; None: as many as the bundle was tuned for, 1 for other models.
        accept_coupled_rows: whether rows that influence each other are batched.

    Raises:
        ConfigError: `cores` is below 1.
        ModelLoadError: the bundle is damaged.
    """
    name = os.fspath(model)
    cores = cores_of(name) if cores is None else cores
    path = str(Path(name).absolute()) if Path(name).exists() else name
    return Recipe(path, device, trusted, accept_coupled_rows, cores, carried())


def carried() -> dict[str, str]:
    """Return what other processes of the cluster need of this one's environment."""
    return {each: os.environ[each] for each in CARRIED if each in os.environ}


def cores_of(model: str, most: Callable[[], int] = processors) -> int:
    """Return the cores that a model was tuned for: a bundle says it; no more than there are here.

    Args:
        model: as `nograd.load` takes it.
        most: tells how many there are.
    """
    if not is_bundle(Path(model)):
        return 1
    with Bundle.read(model) as bundle:
        return min(bundle.settings.lanes * bundle.settings.num_threads, most())
