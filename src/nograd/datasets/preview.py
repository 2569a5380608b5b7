"""`nograd predict --dry-run`: read the first rows, run one batch, and describe input and output. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nograd.core.tensors import TensorSpec
from nograd.datasets.answers import row_of
from nograd.datasets.columns import Columns, check_collisions, choose, items_of
from nograd.datasets.opening import open_reader, output_kind
from nograd.datasets.records import InputPosition, Record
from nograd.datasets.run import PredictJob, first_records
from nograd.datasets.run_files import Files
from nograd.datasets.trial import learn, takes_of, try_out
from nograd.predictors.bulk import BatchPredictor
from nograd.predictors.postprocessed import AnswerFields
from nograd.predictors.predictor import Predictor

__all__ = ["PredictPreview", "preview"]

MAX_FAULTS = 3
"""Bad rows that are described."""


@dataclass(frozen=True, slots=True)
class PredictPreview:
    """What a run would do. `str` of it is the text for users."""

    job: PredictJob
    word: str
    """The input's word for a record: line, row, image."""

    num_read: int
    faults: tuple[str, ...]
    """Reasons of bad records among those that were read."""

    sources: tuple[tuple[TensorSpec, str], ...]
    """Each input with its column; empty: the whole record is the item."""

    carried: tuple[str, ...]
    predictions: tuple[str, ...]
    """Columns that the model adds, with dtype and shape if they are the model's outputs."""

    kind: str
    """Format of the output."""

    is_repeatable: bool
    """Whether the batch had the same answers twice, to the bit."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def preview(job: PredictJob, load: Callable[[], Predictor]) -> PredictPreview:
    """Return what a run would do, from its first rows.

    Args:
        job: the job.
        load: loads the model.

    Raises:
        ConfigError: an option is invalid, the output cannot be written there, or no row can be used.
        JobError: the input cannot be read.
    """
    kind = output_kind(job.output)
    Files(job.output).require_plain()
    reader = open_reader(job.input, job.format, job.memory_bytes)
    try:
        head = list(first_records(reader.read(InputPosition()), job))
        predictor = load()
        columns = choose(takes_of(predictor, job.model), job.columns, reader, head)
        learn(predictor, columns, head)
        runs = BatchPredictor(predictor, max_batch_size=job.max_batch_size)
        trial = try_out(predictor, runs, columns, head, job.max_batch_size)
        check_collisions(columns, head, trial.predictions)
        faults = [*_faults(reader.word, head, predictor, columns, runs, trial.fields)]
    finally:
        reader.close()
    carried = dict.fromkeys(name for record in head if not record.fault for name in columns.carried_names(record))
    return PredictPreview(
        job, reader.word, len(head), tuple(faults), columns.sources, tuple(carried),
        _predictions(predictor, trial.predictions), kind, bool(trial.answers),
    )  # fmt: skip


def _faults(
    word: str, head: Sequence[Record], predictor: Predictor, columns: Columns, runs: BatchPredictor, fields: AnswerFields | None
) -> Iterator[str]:
    """Yield the reason of each record that gets no answer."""
    items, faults = items_of(head, columns)
    outcomes = iter(next(runs.run_windows([items])).rows)
    for index, record in enumerate(head):
        found = faults.get(index) or row_of(record, next(outcomes), predictor, columns, fields)
        if isinstance(found, str):
            yield f"{word} {record.place.number}: {found}"


def _predictions(predictor: Predictor, names: Sequence[str]) -> tuple[str, ...]:
    if predictor.has_postprocess:
        return tuple(names)
    return tuple(f"{spec.name}  {spec}" for spec in predictor.signature.outputs)


def _lines(found: PredictPreview) -> Iterator[str]:
    job = found.job
    yield f"input   {job.input}: the first {found.num_read} {found.word}s were read, {len(found.faults)} of them bad"
    yield from (f"  {fault}" for fault in found.faults[:MAX_FAULTS])
    yield from (f"  {spec.name}  {spec}  from column {column!r}" for spec, column in found.sources)
    if not found.sources:
        yield "  the whole row is the model's item"
    yield f"output  {job.output}: {found.kind}"
    yield from (f"  {name}  carried through" for name in found.carried)
    yield from (f"  {name}  predicted" for name in found.predictions)
    if not found.is_repeatable:
        yield "  the same rows get different answers: a resumed run differs from one that is not interrupted"
    yield f"would write {_fate(job)}; nothing was written"


def _fate(job: PredictJob) -> str:
    if not job.output.exists():
        return str(job.output)
    if job.restart:
        return f"{job.output}, and replace the existing file"
    return f"{job.output}: it exists, so the run resumes it if this command made it, and refuses otherwise"
