"""Build batches with the same rows among different other rows: from the probe for a torch module, from changed values
otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nograd.checks.arrays import changed, row
from nograd.checks.subject import ModelSubject, module_backend
from nograd.core.inputs import to_host
from nograd.core.tensors import Batch, num_rows
from nograd.errors import ModelError

__all__ = ["BatchPair", "attempt", "pairs", "various_rows"]


@dataclass(frozen=True, slots=True)
class BatchPair:
    """Two batches of one size that are equal at `places`, with the answers to them."""

    first: Batch
    answer: Batch
    other: Batch
    places: tuple[int, ...]


def attempt(subject: ModelSubject, batch: Batch) -> Batch | None:
    """Return the answer; None if the model does not take the changed values (ids without an embedding)."""
    try:
        return subject.run(batch)
    except ModelError:
        return None


def pairs(subject: ModelSubject) -> list[BatchPair]:
    """Return pairs that the model runs: the probe's strongest, and the sample's rows among changed ones."""
    found = next(_of_probe(subject), None)
    return [*([found] if found else []), *_of_sample(subject)]


def various_rows(subject: ModelSubject) -> tuple[Batch, Batch]:
    """Return rows of several values (the sample's, random, quiet) with their answers; otherwise the sample's first row."""
    for first, _, _ in _trials(subject):
        if (answer := attempt(subject, first)) is not None:
            return first, answer
    one = row(subject.rows, 0)
    return one, subject.run(one)


def _trials(subject: ModelSubject) -> Iterator[tuple[Batch, list[Batch], tuple[int, ...]]]:
    """Yield the probe's trials as arrays; none for a model that is not a torch module."""
    backend = module_backend(subject.predictor)
    if backend is None or not backend.samples:
        return
    from nograd.probing.pad_values import model_pads
    from nograd.probing.samples import with_rows
    from nograd.probing.trials import SUBJECTS, inputs_of, make_trials

    samples = [dict(sample) for sample in backend.samples]
    inputs = inputs_of(with_rows(samples[0], 2), samples, subject.signature.inputs, model_pads(backend.model))
    for trial in make_trials(inputs):
        yield to_host(trial.first), [to_host(second) for second in trial.seconds], SUBJECTS


def _of_probe(subject: ModelSubject) -> Iterator[BatchPair]:
    for first, seconds, places in _trials(subject):
        answer = attempt(subject, first)
        others = (attempt(subject, second) for second in seconds) if answer is not None else ()
        other = next((other for other in others if other is not None), None)
        if answer is not None and other is not None:
            yield BatchPair(first, answer, other, places)


def _of_sample(subject: ModelSubject) -> Iterator[BatchPair]:
    rows = subject.rows
    for index in sorted({0, num_rows(rows) - 1}):
        among = attempt(subject, _with_row(changed(rows), rows, index))
        if among is not None:
            yield BatchPair(rows, subject.answer, among, (index,))


def _with_row(batch: Batch, source: Batch, index: int) -> Batch:
    result = {name: array.copy() for name, array in batch.items()}
    for name, array in result.items():
        array[index] = source[name][index]
    return result
