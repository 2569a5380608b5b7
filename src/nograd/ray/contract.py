"""The contract of `postprocess` over a whole data set: all actors use the keys, types and ranks of one first answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias
from uuid import uuid4

from nograd.core.tensors import Batch
from nograd.datasets.answers import fields_of
from nograd.errors import ItemError
from nograd.predictors.postprocessed import AnswerFields
from nograd.predictors.predictor import Predictor
from nograd.ray.session import ray

__all__ = ["FirstFields", "Settle", "SharedFields", "first_fields"]

TRIES = 3
"""Times that an actor may be lost between finding it and its answer."""

Settle: TypeAlias = Callable[[AnswerFields], AnswerFields]
"""Takes the fields of one actor's first answer, and returns those that all actors use."""


class FirstFields:
    """Holds the fields of the first answer."""

    def __init__(self) -> None:
        self._fields: AnswerFields | None = None

    def settle(self, fields: AnswerFields) -> AnswerFields:
        """Return the fields that were settled first."""
        self._fields = self._fields or fields
        return self._fields


class SharedFields:
    """`FirstFields` in an actor without a processor. The first predictor that has a `postprocess` starts it, and it ends with
    that predictor's actor; the next one to ask then starts another.
    """

    def __init__(self) -> None:
        self._name = f"nograd-{uuid4().hex}"
        self._actor: Any = None

    def settle(self, fields: AnswerFields) -> AnswerFields:
        """Return the fields that were settled first, by any actor."""
        for _ in range(TRIES):
            with suppress(ray.exceptions.RayActorError):  # its owner has just ended
                return self._settle(fields)
        return self._settle(fields)

    def _settle(self, fields: AnswerFields) -> AnswerFields:
        self._actor = ray.remote(num_cpus=0)(FirstFields).options(name=self._name, get_if_exists=True).remote()
        settled: AnswerFields = ray.get(self._actor.settle.remote(fields))
        return settled


def first_fields(predictor: Predictor, rows: Iterable[Batch | ItemError]) -> AnswerFields | None:
    """Return the fields of the first row that has an answer; None without `postprocess`, or if no row has one.

    Args:
        predictor: whose `postprocess` answers.
        rows: outputs of the model, `[1, ...]` each, or the errors of rows.
    """
    found = (fields_of(predictor, row) for row in rows if not isinstance(row, ItemError))
    return next((fields for fields in found if fields is not None), None)
