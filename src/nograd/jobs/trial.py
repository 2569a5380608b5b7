"""Before a run: what the model is asked and answers for the first rows, twice, so that what a run cannot know is known."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

from nograd.core.tensors import TEXT, Batch, TensorSpec
from nograd.errors import ConfigError, ItemError, NogradError, UnsupportedError
from nograd.jobs.answers import fields_of, predictions_of
from nograd.jobs.columns import Columns, RowFaultError, Takes
from nograd.jobs.identity import digest
from nograd.jobs.outputs import to_json
from nograd.jobs.records import Record
from nograd.jobs.windows import Held
from nograd.predictors.bulk import BatchPredictor, WindowAnswers
from nograd.predictors.postprocessed import AnswerFields
from nograd.predictors.predictor import Predictor

__all__ = ["Over", "Runs", "Trial", "learn", "takes_of", "try_out"]

RECORD_BYTES = 1000
"""What Python's objects for a row take beside its content, about."""


class Runs(Protocol):
    """What runs windows: a BatchPredictor, or as many of them as a cluster holds."""

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield what became of each window, in order; see `BatchPredictor.run_windows`."""


Over: TypeAlias = Callable[[BatchPredictor, Sequence[Any]], Runs]
"""Gives what runs the windows instead of this process: of what would run them here, and the items that taught it what the model
takes, where nothing else did."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What was learned."""

    predictions: tuple[str, ...]
    """Names of the columns that the model adds."""

    answers: str
    """A digest of the answers, which an equal run gives again bit for bit; empty where not even the second time did."""

    held: tuple[Held, ...]
    """What each row came to hold in memory."""

    fields: AnswerFields | None = None
    """Keys, types and ranks of the first answer of `postprocess`, which all others must have."""


def takes_of(predictor: Predictor, model: str) -> Takes:
    """Return what a model takes of one row.

    Raises:
        ConfigError: nothing says it.
    """
    if predictor.has_preprocess:
        return Takes((predictor.item or TensorSpec("text", TEXT),), is_item=True, is_declared=predictor.item is not None)
    try:
        return Takes(predictor.signature.inputs)
    except UnsupportedError:
        raise ConfigError(f"nothing says what {model} takes; give its Predictor a sample=") from None


def learn(predictor: Predictor, columns: Columns, head: Sequence[Record]) -> list[Any]:
    """Teach the predictor by the first good rows, where its factory gave it no sample.

    Returns:
        The items that taught it; none where it knew.

    Raises:
        ConfigError: it cannot be taught.
    """
    try:
        _ = predictor.backend
    except UnsupportedError:
        pass
    else:
        return []
    items = [item for _, item in _items(columns, head)]
    reason = "there is no good row"
    for some in (items[:2], *([item] for item in items)):
        try:
            predictor.learn_from(some)
        except NogradError as error:
            reason = str(error)
        else:
            if some:
                return some
    raise ConfigError(f"nothing says what the model takes, and the first rows do not teach it: {reason}")


def try_out(predictor: Predictor, runs: Runs, columns: Columns, head: Sequence[Record], max_rows: int) -> Trial:
    """Run the first good rows twice, as one window.

    Args:
        predictor: the model.
        runs: what runs its windows.
        columns: what of a record it is given.
        head: records at the beginning of the input.
        max_rows: of them, at most.
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
            held.append(_held(predictor, record, item, outputs, found))
    told = [_told(predictor, each) for each in (first, second)]
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Trial(names, digest(told[0]) if told[0] == told[1] else "", tuple(held), fields)


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


def _told(predictor: Predictor, rows: Sequence[Batch | ItemError]) -> bytes:
    return b"\n".join(to_json(_predictions(predictor, each)) for each in rows)


def _held(predictor: Predictor, record: Record, item: Any, outputs: Batch, found: dict[str, Any]) -> Held:
    """Return the bytes of a row as it was read, prepared (and joined with others), answered and written."""
    prepared = sum(array.nbytes for array in predictor.prepare_item(item, 0).values())
    answered = 2 * sum(array.nbytes for array in outputs.values()) + 2 * len(to_json(found))
    grows = any(spec.varying for spec in predictor.signature.outputs)
    growing = 2 * record.size_bytes + 2 * prepared + (answered if grows else 0)
    return Held(record.size_bytes, RECORD_BYTES + (0 if grows else answered), growing)
