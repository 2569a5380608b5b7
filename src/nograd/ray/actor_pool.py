"""Run windows on the actors of a cluster: the same windows, in the same order, with the same batches as in one process."""

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
from nograd.datasets.trial import ExecutorFactory
from nograd.errors import ConfigError, DeviceLostError, ItemError, JobError
from nograd.predictors.bulk import BatchPredictor, WindowAnswers
from nograd.ray.actors import RESTARTS, ActorRecipe
from nograd.ray.session import cluster, ray, room_for

__all__ = ["actor_pool_of"]

WINDOWS_EACH = 2
"""Windows assigned to an actor: one that runs, and one that waits, so that the actor is never idle."""


class _ActorWorker:
    """The content of an actor: a predictor and its batching."""

    def __init__(self, recipe: ActorRecipe, max_batch_size: int, overhead: float, learned_from: Sequence[Any]) -> None:
        predictor = recipe.predictor()
        if learned_from:
            predictor.learn_from(_writable_items(learned_from))
        self._bulk = BatchPredictor(predictor, max_batch_size=max_batch_size, overhead=overhead)

    def version(self) -> str:
        """Return the actor's version of nograd."""
        return __version__

    def run(self, items: Sequence[Any]) -> WindowAnswers:
        """Return the answers of one window.

        Raises:
            ModelError: the answers cannot be assigned to their rows.
        """
        try:
            return next(self._bulk.run_windows([_writable_items(items)]))
        except DeviceLostError:
            os._exit(1)  # a new process reopens the device: Ray starts one, and gives it the window


class ActorPool:
    """A pool of actors, with their in-flight windows; see `trial.Executor`."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._busy: dict[Any, int] = {}
        """In-flight windows, each with its actor's position."""

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield the answers of each window, in order.

        Up to three windows per actor are read ahead. If a process dies, its windows run again.

        Raises:
            JobError: a window ends every process that runs it, or no process starts any more.
        """
        sent: deque[Any] = deque()
        most = (WINDOWS_EACH + 1) * len(self._actors)
        for items in windows:
            if len(sent) == most:
                yield _receive(sent.popleft())
            position = self._free()
            sent.append(self._actors[position].run.remote(items))
            self._busy[sent[-1]] = position
        while sent:
            yield _receive(sent.popleft())
        self._busy.clear()

    def _free(self) -> int:
        """Return the position of the actor with the fewest windows, once it can take another one."""
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
def actor_pool_of(recipe: ActorRecipe, *, actors: int | None = None, address: str = "") -> Iterator[ExecutorFactory]:
    """Return a factory of actor pools on a cluster; on exit, kill the actors.

    Args:
        recipe: the recipe of each actor.
        actors: number of actors; None: as many as the cluster has room for.
        address: address of the cluster; see `session.cluster`.

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
        )(_ActorWorker)  # fmt: skip
        made: list[Any] = []

        def over(bulk: BatchPredictor, learned_from: Sequence[Any]) -> ActorPool:
            made.extend(
                kind.remote(recipe, bulk.max_batch_size, bulk.overhead, list(learned_from)) for _ in range(actors or room)
            )
            _check(made)
            return ActorPool(made)

        try:
            yield over
        finally:
            for actor in made:
                ray.kill(actor)


def _check(actors: Sequence[Any]) -> None:
    """Raise ConfigError if an actor does not start, or has another version of nograd."""
    try:
        versions = set(ray.get([actor.version.remote() for actor in actors]))
    except ray.exceptions.RayError as error:
        raise ConfigError(f"an actor does not come up: {_reason(error)}") from error
    if others := versions - {__version__}:
        raise ConfigError(f"the cluster runs nograd {', '.join(sorted(others))}, and this machine runs {__version__}")


def _receive(window: Any) -> WindowAnswers:
    try:
        answered: WindowAnswers = ray.get(window)
    except ray.exceptions.RayError as error:
        reason = _reason(error)
        raise JobError(f"a window could not be run: {reason}; finished work is kept; rerun the command to resume") from error
    rows: list[Batch | ItemError] = [row if isinstance(row, ItemError) else _writable_batch(row) for row in answered.rows]
    return replace(answered, rows=rows)


def _reason(error: Exception) -> str:
    """Return the last line of Ray's message, which is the error itself after a traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _writable_items(items: Sequence[Any]) -> list[Any]:
    """Copy arrays, because arrays from Ray's memory are read-only."""
    return [_writable_batch(item) if isinstance(item, Mapping) else _writable_value(item) for item in items]


def _writable_batch(batch: Batch) -> dict[str, Any]:
    return {name: _writable_value(value) for name, value in batch.items()}


def _writable_value(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
