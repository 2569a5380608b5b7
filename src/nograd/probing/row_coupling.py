"""Rows of several values with their answers, and whether the rows of a batch influence each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from nograd.core.differences import LargestDifference
from nograd.core.independence import Independence
from nograd.core.inputs import to_host
from nograd.errors import SignatureError
from nograd.probing.runs import ProbeRuns
from nograd.probing.samples import Tensors, only_row
from nograd.probing.trials import FLIPPED, SUBJECTS, Trial, make_trials
from nograd.probing.values import InputValues

__all__ = ["RowFindings", "RowPanel", "compare_rows"]

COUPLED = "a row's answer depends on the other rows of its batch"


@dataclass(frozen=True, slots=True)
class RowPanel:
    """Rows that the model ran, and their answers."""

    rows: Tensors
    answers: Tensors

    scales: Mapping[str, float] = field(default_factory=dict)
    """Largest absolute value of each output for rows of ordinary magnitude; rounding is relative to it."""


@dataclass(frozen=True, slots=True)
class RowFindings:
    """The result of comparing rows among different neighbours."""

    limit: str = ""
    """Why rows may not share a batch, in one sentence; empty if they may."""

    panel: RowPanel | None = None
    """The sample's rows and others that the model ran; None if `limit` says why not."""

    varied: frozenset[str] = frozenset()
    """Inputs that the model ran with other values than the sample's."""

    independence: Independence | None = None
    """The comparison as figures; None if rows could not be compared."""


def compare_rows(runs: ProbeRuns, sample: Tensors, base: Tensors, inputs: Sequence[InputValues]) -> RowFindings:
    """Compare rows with themselves among other neighbours in batches of equal size, and alone.

    Args:
        runs: runs the model.
        sample: two or more rows.
        base: the answers to the sample.
        inputs: the sample's values, and their kinds.
    """
    try:
        alone = runs.outputs(only_row(sample, 0))
    except SignatureError as error:
        return RowFindings(f"one row alone does not run: {error}")
    found = _first_that_runs(runs, inputs)
    if found is None:
        return RowFindings(f"runs of 1 and {_count(base)} rows work, and one of 5 rows does not")
    trial, neighbours, (rows, first), (others, second) = found
    if not _holds_something(first):
        return RowFindings("no output holds a finite number for the sample, so that nothing could be compared")
    scales = {name: _largest(leaf) for name, leaf in first.items() if _is_inexact(leaf)}
    among = {5: only_row(first, SUBJECTS[0]), _count(base): only_row(base, 0)}
    pairs = [(only_row(first, place), only_row(second, place)) for place in SUBJECTS]
    figures = _figures(pairs, neighbours, alone, among)
    if not all(runs.same(one, other, scales) for one, other in pairs):
        return RowFindings(COUPLED, independence=figures)
    limit = _size_effect(runs, alone, among, scales)
    return RowFindings(limit, _panel((rows, first), (others, second), scales), trial.varied, figures)


def _figures(
    pairs: Sequence[tuple[Tensors, Tensors]], neighbours: str, alone: Tensors, among: Mapping[int, Tensors]
) -> Independence:
    """Return the largest influence of other neighbours, and of the batch size."""
    bound, size_effect = LargestDifference(), LargestDifference()
    for one, other in pairs:
        bound.note(to_host(one), to_host(other), neighbours)
    for own in among.values():
        size_effect.note(to_host(alone), to_host(own))
    return Independence(
        bound=bound.relative(), size_effect=size_effect.relative(), num_batches=1, max_rows=max(among), companions=bound.label()
    )  # fmt: skip


def _count(batch: Tensors) -> int:
    return len(next(iter(batch.values())))


def _first_that_runs(
    runs: ProbeRuns, inputs: Sequence[InputValues]
) -> tuple[Trial, str, tuple[Tensors, Tensors], tuple[Tensors, Tensors]] | None:
    """Return the trial with the largest change that the model runs, its neighbours, and two batches with their answers."""
    for trial in make_trials(inputs):
        first = runs.attempt(trial.first)
        for rows, neighbours in zip(trial.seconds, trial.neighbours, strict=True) if first is not None else ():
            second = runs.attempt(rows)
            if first is not None and second is not None:
                return trial, neighbours, (trial.first, first), (rows, second)
    return None


def _size_effect(runs: ProbeRuns, alone: Tensors, among: Mapping[int, Tensors], scales: Mapping[str, float]) -> str:
    """Compare the first row alone with itself in larger batches, whose other rows are known not to influence it."""
    for rows, own in among.items():
        if not runs.same(own, alone, scales):
            return (
                f"a row's answer depends on the number of rows in its batch: it differs between a batch of 1 row and one of "
                f"{rows} rows, whatever the other rows hold"
            )
    return ""


def _panel(first: tuple[Tensors, Tensors], second: tuple[Tensors, Tensors], scales: Mapping[str, float]) -> RowPanel:
    """Return the sample's two rows, a random, a quiet, and a sign-flipped row, without rows whose answers overflow."""
    rows, answers = (
        {name: torch.cat([each[:4], b[name][FLIPPED, None]]) for name, each in a.items()}
        for a, b in zip(first, second, strict=True)
    )
    kept = [row for row in range(5) if row == SUBJECTS[0] or _is_finite(only_row(answers, row))]
    return RowPanel(
        {name: each[kept] for name, each in rows.items()}, {name: each[kept] for name, each in answers.items()}, scales
    )


def _is_inexact(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _is_finite(answer: Tensors) -> bool:
    return all(bool(leaf.isfinite().all()) for leaf in answer.values() if _is_inexact(leaf))


def _holds_something(answers: Tensors) -> bool:
    """Return whether each output has a finite value: NaN equals NaN for any input, so such answers prove nothing."""
    return all(bool(leaf.isfinite().any()) for leaf in answers.values() if _is_inexact(leaf) and leaf.numel())


def _largest(leaf: Tensor) -> float:
    """Return the largest finite absolute value."""
    if not leaf.numel():
        return 0.0
    if isfinite(largest := float(leaf.abs().max())):
        return largest
    finite = leaf[leaf.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
