"""Batches with other values than the sample's, so that findings do not depend on a poor sample.

Two batches have the same rows at some places (the subjects) and different rows around them (the neighbours). A model with
independent rows gives equal answers for the subjects in both. All values come from the probe's own generator; the user's random
state is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nograd.core.tensors import TensorSpec
from nograd.probing.samples import Tensors
from nograd.probing.values import Change, InputValues, neighbour, ordinary

__all__ = ["FLIPPED", "SUBJECTS", "Trial", "inputs_of", "make_trials"]

SUBJECTS = (1, 3)
"""Places of the subjects: the sample's first row, and a quiet one. Neighbours are before, between and after them."""

FLIPPED = 2
"""Place of the sign-flipped row in the second batch, if the model accepts it."""

QUIET = 1e-2
"""Factor of the quiet row's numbers."""

LOUD = ((1e2, -1, -1e4), (1e2, 1, 1e4), (3, 1, 0.3))
"""Factors of three neighbours, strongest first; then for a model that accepts no negative numbers, and no large ones.
Typical couplings, such as decibels below the batch's maximum, end at 80 dB; a quiet row is 120 dB below a neighbour of 1e4.
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """Batches of five rows that differ only in the neighbours."""

    first: Tensors
    """The last row of the sample, its first row, a random row, a quiet row, a random row."""

    seconds: tuple[Tensors, ...]
    """The subjects among other neighbours, strongest first; the first one that runs is sufficient."""

    neighbours: tuple[str, ...]
    """Description of the neighbours for each of `seconds`, such as `rows up to 10000 times as large`."""

    varied: frozenset[str]
    """Inputs whose values in `seconds` are not the sample's."""

    change: Change


def make_trials(inputs: Sequence[InputValues]) -> Iterator[Trial]:
    """Yield trials, with the largest change first; the last two only reorder the sample's own values or rows."""
    kinds = {each.kind for each in inputs}
    if kinds & {"flag", "count"}:
        yield _trial(inputs, "everything")
    if kinds & {"number", "id"}:
        yield _trial(inputs, "values")
    if "id" in kinds:
        yield _trial(inputs, "inner values")
    if {"id", "number"} <= kinds:
        yield _trial(inputs, "numbers")
    yield _trial(inputs, "order")
    yield _trial(inputs, "nothing")


def inputs_of(
    sample: Tensors, samples: Sequence[Tensors], specs: Sequence[TensorSpec], pads: Sequence[int]
) -> list[InputValues]:
    """Return the sample's inputs with the values of all samples."""
    return [
        InputValues.of(spec, sample[spec.name], [other[spec.name] for other in samples], pads)
        for spec in specs
        if spec.name in sample
    ]


def _trial(inputs: Sequence[InputValues], change: Change) -> Trial:
    draw = torch.Generator().manual_seed(0)
    first: Tensors = {}
    seconds: list[Tensors] = [{} for _ in LOUD]
    varied: set[str] = set()
    for each in inputs:
        name, own = each.spec.name, each.rows[:1]
        last = each.rows[-1:] if change in ("everything", "order", "nothing") else own
        random, quiet, more = (ordinary(each, own, change, draw, factor) for factor in (1, QUIET, 1))
        first[name] = torch.cat([last, own, random, quiet, more])
        for second, factors in zip(seconds, LOUD, strict=True):
            before, between, after = (neighbour(each, own, change, draw, factor) for factor in factors)
            second[name] = torch.cat([before, own, between, quiet, after])
        if change not in ("order", "nothing") and any(not torch.equal(row, own[0]) for row in seconds[-1][name]):
            varied.add(name)
    has_numbers = any(each.kind == "number" for each in inputs)
    used = LOUD if has_numbers else LOUD[:1]
    names = tuple(_describe_neighbours(change, factors if has_numbers else ()) for factors in used)
    return Trial(first, tuple(seconds[: len(used)]), names, frozenset(varied), change)


def _describe_neighbours(change: Change, factors: Sequence[float]) -> str:
    if change == "nothing":
        return "other rows of the sample"
    if change == "order":
        return "rows with the values in another order"
    largest = max(map(abs, factors), default=1)
    return f"rows up to {largest:g} times as large" if largest > 1 else "rows of other values"
