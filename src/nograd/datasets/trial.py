"""Run the first rows twice before a run, to learn the predictions' names, row sizes and repeatability."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

from nograd.core.tensors import TEXT, Batch, TensorSpec
from nograd.datasets.answers import fields_of, predictions_of
from nograd.datasets.columns import Columns, RowFaultError, RowInputs
from nograd.datasets.identity import digest
from nograd.datasets.outputs import to_json
from nograd.datasets.records import Record
from nograd.datasets.windows import RowMemory
from nograd.errors import ConfigError, ItemError, NogradError, UnsupportedError
from nograd.predictors.bulk import BatchPredictor, WindowAnswers
from nograd.predictors.postprocessed import AnswerFields
from nograd.predictors.predictor import Predictor

__all__ = ["Executor", "ExecutorFactory", "FirstRowsTrial", "learn", "takes_of", "try_out"]

RECORD_BYTES = 1000
"""Approximate size of a row's Python objects, excluding their content."""


class Executor(Protocol):
    """Executor of windows: a BatchPredictor, or a pool of them on a cluster."""

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield the answers of each window, in order; see `BatchPredictor.run_windows`."""


ExecutorFactory: TypeAlias = Callable[[BatchPredictor, Sequence[Any]], Executor]
"""Factory of the executor that replaces this process. Its arguments are the BatchPredictor of this process and the items from
which the model's inputs were learned, if they were.
"""


@dataclass(frozen=True, slots=True)
class FirstRowsTrial:
    """Results of the trial."""

    predictions: tuple[str, ...]
    """Names of the columns that the model adds."""

    answers: str
    """A digest of the answers, which an equal run reproduces bit for bit; empty if the second run differed."""

    held: tuple[RowMemory, ...]
    """Memory of each row."""

    fields: AnswerFields | None = None
    """Keys, types and ranks of the first answer of `postprocess`, which all others must have too."""


def takes_of(predictor: Predictor, model: str) -> RowInputs:
    """Return the model's requirements for one row.

    Raises:
        ConfigError: the model's inputs are unknown.
    """
    if predictor.has_preprocess:
        return RowInputs((predictor.item or TensorSpec("text", TEXT),), is_item=True, is_declared=predictor.item is not None)
    try:
        return RowInputs(predictor.signature.inputs)
    except UnsupportedError:
        raise ConfigError(f"the inputs of {model} are unknown; give its Predictor a sample=") from None


def learn(predictor: Predictor, columns: Columns, head: Sequence[Record]) -> list[Any]:
    """Infer the model's inputs from the first good rows, if its factory gave no sample.

    Returns:
        The items that the inputs were inferred from; empty if they were known.

    Raises:
        ConfigError: the inputs cannot be inferred.
    """
    try:
        _ = predictor.backend
    except UnsupportedError:
        pass
    else:
        return []
    items = [item for _, item in _items(columns, head)]
    reason = "there is no valid row"
    for some in (items[:2], *([item] for item in items)):
        try:
            predictor.learn_from(some)
        except NogradError as error:
            reason = str(error)
        else:
            if some:
                return some
    raise ConfigError(f"the model's inputs are unknown and cannot be inferred from the first rows: {reason}")


def try_out(predictor: Predictor, runs: Executor, columns: Columns, head: Sequence[Record], max_rows: int) -> FirstRowsTrial:
    """Run the first good rows twice, as one window.

    Args:
        predictor: the model.
        runs: the executor of windows.
        columns: the use of a record's columns.
        head: the first records of the input.
        max_rows: maximum number of rows to run.
    """
    chosen = list(islice(_items(columns, head), max_rows))
    items = [item for _, item in chosen]
    rows: list[dict[str, Any]] = []
    held = []
    fields: AnswerFields | None = None
    first, second = (next(runs.run_windows([items])).rows for _ in range(2))
    for (record, item), outputs in zip(chosen, first, strict=True):
        found = _predictions(predictor, outputs)
        if found is not None and not isinstance(outputs, ItemError):
            fields = fields or fields_of(predictor, outputs)
            rows.append(found)
            held.append(_measure_row(predictor, record, item, outputs, found))
    encoded = [_encode_predictions(predictor, each) for each in (first, second)]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return FirstRowsTrial(names, digest(encoded[0]) if encoded[0] == encoded[1] else "", tuple(held), fields)


def _items(columns: Columns, head: Sequence[Record]) -> Any:
    for record in head:
        try:
            item = columns.item_of(record)
        except RowFaultError:
            continue
        yield record, item


def _predictions(predictor: Predictor, outputs: Batch | ItemError) -> dict[str, Any] | None:
    try:
        return None if isinstance(outputs, ItemError) else predictions_of(predictor, outputs)
    except RowFaultError:
        return None


def _encode_predictions(predictor: Predictor, rows: Sequence[Batch | ItemError]) -> bytes:
    return b"\n".join(to_json(_predictions(predictor, each)) for each in rows)


def _measure_row(predictor: Predictor, record: Record, item: Any, outputs: Batch, found: dict[str, Any]) -> RowMemory:
    """Return the bytes of a row when it is read, prepared (and joined with others), answered and written."""
    prepared = sum(array.nbytes for array in predictor.prepare_item(item, 0).values())
    answered = 2 * sum(array.nbytes for array in outputs.values()) + 2 * len(to_json(found))
    grows = any(spec.varying for spec in predictor.signature.outputs)
    growing = 2 * record.size_bytes + 2 * prepared + (answered if grows else 0)
    return RowMemory(record.size_bytes, RECORD_BYTES + (0 if grows else answered), growing)
