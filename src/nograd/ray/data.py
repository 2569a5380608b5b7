"""Ray Data: run a model over a data set, in actors that hold the model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from nograd.core.tensors import Batch
from nograd.datasets.answers import row_of
from nograd.datasets.arrow import ArrowRow
from nograd.datasets.arrow_out import ArrowOutput
from nograd.datasets.columns import ColumnOptions, Columns, check_collisions, choose, items_of
from nograd.datasets.outputs import OutputRow
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.datasets.trial import learn, takes_of
from nograd.errors import ConfigError, ItemError, JobError, MissingExtraError
from nograd.predictors.bulk import BatchPredictor
from nograd.predictors.postprocessed import AnswerFields
from nograd.ray.actors import ActorRecipe, recipe_of
from nograd.ray.contract import FirstFields, Settle, SharedFields, first_fields
from nograd.ray.session import room_for

try:
    import ray.data
except ImportError:
    raise MissingExtraError("ray's data (pandas, pyarrow)", "ray") from None

__all__ = ["map_batches"]

WINDOW_BATCHES = 16


def map_batches(  # noqa: PLR0913  fewer options than Ray's own
    dataset: ray.data.Dataset,
    model: str | os.PathLike[str],
    *,
    map: Mapping[str, str] | None = None,  # noqa: A002  the name of the command's option
    keep: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    on_error: Literal["fail", "skip"] = "fail",
    max_batch_size: int = 32,
    window_batches: int = WINDOW_BATCHES,
    overhead: float | None = None,
    actors: int | None = None,
    cores: int | None = None,
    device: str = "auto",
    trusted: bool = False,
    accept_coupled_rows: bool = False,
    preserve_order: bool = True,
) -> ray.data.Dataset:
    """Return the data set with the model's answers as additional columns: the output of `nograd predict`.

    Each actor loads the model once. It takes windows of rows from Ray, sorts each by length, and runs it in the batches
    that are cheapest by the model's cost curve, as BatchPredictor does. An actor that dies is restarted, and its rows run
    again. Like every step of Ray Data, this one runs when the rows of the data set are read.

    The first answer of `postprocess` fixes keys, types and ranks of all answers, on every actor. A row with another answer
    is a bad row.

    Args:
        dataset: any data set.
        model: argument of `nograd.load`; it must denote the same model on every machine of the cluster.
        map: input -> column, for columns with other names than their input.
        keep: columns to carry through; None: all but tensors that the model takes.
        drop: columns to leave out.
        on_error: treatment of a row that cannot be used, or on which the model raises: `fail` stops, `skip` leaves the row
            out and writes the reason to the actor's log.
        max_batch_size: maximum rows in one batch.
        window_batches: number of batches that are sorted together.
        overhead: cost of starting a batch, in padded elements; None: the predictor's own (see BatchPredictor).
        actors: number of actors; None: as many as the cluster has room for.
        cores: cores of one actor, and threads of its model; None: as many as the bundle was tuned for, else 1.
        device: `auto` is the CPU, because it reserves no GPU; with `cuda` each actor takes a GPU.
        trusted: for models that contain or name code.
        accept_coupled_rows: batch rows that influence each other, as in dynamic 8-bit files; default: run them alone.
        preserve_order: keep the order of the rows.

    Raises:
        ConfigError: a setting is out of its range, or the cluster has no room for an actor.
    """
    if on_error not in ("fail", "skip"):
        raise ConfigError(f"on_error is {on_error!r}; it must be fail or skip")
    for name, value in (("max_batch_size", max_batch_size), ("window_batches", window_batches), ("actors", actors)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    recipe = recipe_of(model, device=device, trusted=trusted, cores=cores, accept_coupled_rows=accept_coupled_rows)
    compute = _pool(actors, room_for(recipe.cores, recipe.gpus))
    made = dataset.map_batches(
        _TablePredictor,
        fn_constructor_kwargs={
            "recipe": recipe, "wanted": ColumnOptions(map or {}, None if keep is None else tuple(keep), tuple(drop)),
            "skips": on_error == "skip", "max_batch_size": max_batch_size, "overhead": overhead,
            "shared": SharedFields(),
        },
        batch_size=max_batch_size * window_batches, batch_format="pyarrow",
        compute=compute,
        num_cpus=recipe.cores, num_gpus=recipe.gpus or None,
    )  # fmt: skip
    if preserve_order:
        made.context.execution_options.preserve_order = True
    return made


def _pool(actors: int | None, room: int) -> Any:
    """Return the size of the actor pool. A data set of few blocks uses few actors, and the others end."""
    if actors is not None:
        return ray.data.ActorPoolStrategy(size=actors)
    return ray.data.ActorPoolStrategy(min_size=1, max_size=room, initial_size=room)


class _TablePredictor:
    """The content of an actor: it converts a window of rows to the rows with their answers."""

    def __init__(
        self,
        recipe: ActorRecipe,
        wanted: ColumnOptions,
        *,
        skips: bool,
        max_batch_size: int,
        overhead: float | None,
        shared: SharedFields | FirstFields,
    ) -> None:
        self._recipe, self._wanted, self._skips = recipe, wanted, skips
        self._predictor = recipe.predictor()
        self._bulk = BatchPredictor(self._predictor, max_batch_size=max_batch_size, overhead=overhead)
        self._columns: Columns | None = None
        self._settle: Settle = shared.settle
        self._fields: AnswerFields | None = None

    def __call__(self, table: Any) -> Any:
        """Return an Arrow table for an Arrow table.

        Raises:
            ConfigError: a column is missing, or has the name of an answer.
            JobError: a row is bad, or its answer has other keys, types or ranks than the first; and rows are not skipped.
        """
        reader = _Rows(table)
        records = list(reader.read(InputPosition()))
        columns = self._columns_of(reader, records)
        items, faults = items_of(records, columns)
        answered = next(self._bulk.run_windows([items])).rows
        fields, outcomes = self._fields_of(answered), iter(answered)
        rows = []
        for index, record in enumerate(records):
            found = faults.get(index) or row_of(record, next(outcomes), self._predictor, columns, fields)
            if isinstance(found, OutputRow):
                rows.append(found)
            elif not self._skips:
                raise JobError(f"a row cannot be used: {found}; the row is {dict(record.columns)!r:.500}")
            else:
                logging.getLogger("nograd").warning("left out: %s; the row was %.500r", found, dict(record.columns))
        return self._table(rows, columns, table)

    def _columns_of(self, reader: Reader, records: Sequence[Record]) -> Columns:
        """Return the use of the columns, decided by the first window."""
        if self._columns is None:
            columns = choose(takes_of(self._predictor, self._recipe.model), self._wanted, reader, records)
            learn(self._predictor, columns, records)
            if not self._predictor.has_postprocess:
                check_collisions(columns, records[:1], (spec.name for spec in self._predictor.signature.outputs))
            self._columns = columns
        return self._columns

    def _fields_of(self, answered: Sequence[Batch | ItemError]) -> AnswerFields | None:
        """Return the fields of the first answer of all actors; None as long as no row of this one has an answer."""
        if self._fields is None and (first := first_fields(self._predictor, answered)) is not None:
            self._fields = self._settle(first)
        return self._fields

    def _table(self, rows: Sequence[OutputRow], columns: Columns, table: Any) -> Any:
        import pyarrow as pa

        if not rows:
            return table.select([name for name in table.schema.names if name not in columns.drop]).slice(0, 0)
        batch = ArrowOutput(self._predictor.signature, memory_bytes=0).batch(rows)
        plain = pa.schema([field.remove_metadata() for field in batch.schema])
        return pa.Table.from_batches([batch.cast(plain) if batch.schema != plain else batch])


class _Rows(Reader):
    """The rows of a table."""

    def __init__(self, table: Any) -> None:
        self.columns = tuple(table.schema.names)
        self._table = table.combine_chunks()

    def read(self, after: InputPosition) -> Iterator[Record]:
        number = 0
        for batch in self._table.to_batches():
            size = batch.nbytes // max(1, len(batch)) + 1
            for index in range(len(batch)):
                number += 1
                row = ArrowRow(batch, index)
                if number > after.number:
                    yield Record(InputPosition(number), size, row, row)

    def fraction(self, place: InputPosition) -> float | None:
        return place.number / len(self._table) if len(self._table) else None

    def identity(self) -> dict[str, str]:
        return {}
