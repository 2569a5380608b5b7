"""Windows of a run, on the actors of a cluster: the same windows, in the same order, each batched as it would be here."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from nograd import __version__
from nograd.core.tensors import Batch
from nograd.errors import ConfigError, DeviceLostError, ItemError, JobError
from nograd.jobs.trial import Over
from nograd.predictors.bulk import BatchPredictor, WindowAnswers
from nograd.ray.actors import RESTARTS, Recipe
from nograd.ray.session import cluster, ray, room_for

__all__ = ["crew_of"]

WINDOWS_EACH = 2
"""Windows that an actor has: one that it runs, one that waits, so that it never does."""


class _Worker:
    """Lives in an actor: a predictor, and what batches for it."""

    def __init__(self, recipe: Recipe, max_batch_size: int, overhead: float, taught: Sequence[Any]) -> None:
        predictor = recipe.predictor()
        if taught:
            predictor.learn_from(_own(taught))
        self._bulk = BatchPredictor(predictor, max_batch_size=max_batch_size, overhead=overhead)

    def version(self) -> str:
        """Return nograd's version there."""
        return __version__

    def run(self, items: Sequence[Any]) -> WindowAnswers:
        """Return what became of one window.

        Raises:
            ModelError: an answer cannot be told apart from the others.
        """
        try:
            return next(self._bulk.run_windows([_own(items)]))
        except DeviceLostError:
            os._exit(1)  # a new process gets the device anew: Ray starts one, and hands it the window


class _Crew:
    """Actors, and the windows that they have; see `trial.Runs`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._busy: dict[Any, int] = {}
        """Windows that are not done, each with its actor's position."""

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield what became of each window, in order.

        Twice as many windows as there are actors, and one more for each, are read ahead. A process that dies costs time only.

        Raises:
            JobError: a window ends every process that runs it, or no process comes up any more.
        """
        sent: deque[Any] = deque()
        most = (WINDOWS_EACH + 1) * len(self._actors)
        for items in windows:
            if len(sent) == most:
                yield _taken(sent.popleft())
            position = self._free()
            sent.append(self._actors[position].run.remote(items))
            self._busy[sent[-1]] = position
        while sent:
            yield _taken(sent.popleft())
        self._busy.clear()

    def _free(self) -> int:
        """Return the position of the actor that has the fewest windows, once it has room for another."""
        while True:
            held = [0] * len(self._actors)
            for position in self._busy.values():
                held[position] += 1
            has_room = min(held) < WINDOWS_EACH
            done = ray.wait(list(self._busy), num_returns=1, timeout=0 if has_room else None)[0] if self._busy else []
            for window in done:
                del self._busy[window]
            if has_room and not done:
                return held.index(min(held))


@contextmanager
def crew_of(recipe: Recipe, *, actors: int | None = None, address: str = "") -> Iterator[Over]:
    """Give what runs windows on a cluster, for as long as the context lasts.

    Args:
        recipe: of each actor.
        actors: how many; None: as many as the cluster has room for.
        address: of the cluster; see `session.cluster`.

    Raises:
        ConfigError: no cluster answers, or it has no room.
    """
    if actors is not None and actors < 1:
        raise ConfigError(f"actors is {actors}; it must be at least 1")
    with cluster(address):
        room = room_for(recipe.cores, recipe.gpus)
        if actors is not None and actors > room:
            raise ConfigError(f"actors is {actors}; with {recipe.cores} cores each, the cluster has room for {room}")
        kind = ray.remote(
            num_cpus=recipe.cores, num_gpus=recipe.gpus, max_restarts=-1, max_task_retries=RESTARTS
        )(_Worker)  # fmt: skip
        made: list[Any] = []

        def over(bulk: BatchPredictor, taught: Sequence[Any]) -> _Crew:
            made.extend(kind.remote(recipe, bulk.max_batch_size, bulk.overhead, list(taught)) for _ in range(actors or room))
            _check(made)
            return _Crew(made)

        try:
            yield over
        finally:
            for actor in made:
                ray.kill(actor)


def _check(actors: Sequence[Any]) -> None:
    """Raise ConfigError where an actor does not come up, or has another nograd."""
    try:
        versions = set(ray.get([actor.version.remote() for actor in actors]))
    except ray.exceptions.RayError as error:
        raise ConfigError(f"an actor does not come up: {_reason(error)}") from error
    if others := versions - {__version__}:
        raise ConfigError(f"the cluster has nograd {', '.join(sorted(others))}, and here it is {__version__}")


def _taken(window: Any) -> WindowAnswers:
    try:
        answered: WindowAnswers = ray.get(window)
    except ray.exceptions.RayError as error:
        reason = _reason(error)
        raise JobError(f"a window could not be run: {reason}; what is done is kept: the same command goes on") from error
    rows: list[Batch | ItemError] = [row if isinstance(row, ItemError) else _own_batch(row) for row in answered.rows]
    return replace(answered, rows=rows)


def _reason(error: Exception) -> str:
    """Return the last line of what Ray says, which is the error itself, behind a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _own(items: Sequence[Any]) -> list[Any]:
    """Return items whose arrays may be written to, as they may where they did not come through Ray's memory."""
    return [_own_batch(item) if isinstance(item, Mapping) else _own_value(item) for item in items]


def _own_batch(batch: Batch) -> dict[str, Any]:
    return {name: _own_value(value) for name, value in batch.items()}


def _own_value(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
