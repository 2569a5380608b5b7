"""The contract of `postprocess` over a whole data set: all actors use the keys, types and ranks of one first answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from nograd.core.tensors import Batch
from nograd.errors import ItemError
from nograd.jobs.answers import fields_of
from nograd.predictors.postprocessed import AnswerFields
from nograd.predictors.predictor import Predictor
from nograd.ray.session import ray

__all__ = ["FirstFields", "Settle", "SharedFields", "first_fields"]

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


@dataclass(frozen=True, slots=True)
class SharedFields:
    """`FirstFields` in an actor without a processor, which ends with the data set that it belongs to."""

    actor: Any

    @classmethod
    def create(cls) -> Self:
        """Start the actor."""
        return cls(ray.remote(num_cpus=0)(FirstFields).remote())

    def settle(self, fields: AnswerFields) -> AnswerFields:
        """Return the fields that were settled first, by any actor."""
        settled: AnswerFields = ray.get(self.actor.settle.remote(fields))
        return settled


def first_fields(predictor: Predictor, rows: Iterable[Batch | ItemError]) -> AnswerFields | None:
    """Return the fields of the first row that has an answer; None without `postprocess`, or if no row has one.

    Args:
        predictor: whose `postprocess` answers.
        rows: outputs of the model, `[1, ...]` each, or the errors of rows.
    """
    found = (fields_of(predictor, row) for row in rows if not isinstance(row, ItemError))
    return next((fields for fields in found if fields is not None), None)
