"""Write Parquet and Arrow files (extra: data)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from nograd.core.tensors import TEXT, Array, Signature, TensorSpec
from nograd.datasets.arrow import ArrowRow, pa, pq
from nograd.datasets.outputs import Output, OutputRow, to_json
from nograd.datasets.records import value_of

__all__ = ["ArrowOutput", "ParquetOutput", "unified"]

GROUP_ROWS = 65_536
"""Maximum rows of a Parquet row group or an Arrow batch."""

LENGTH_BYTES = 8

JSON = {b"nograd.json": b"1"}
"""Marks a window's column whose values had several types."""

PREDICTED = {b"nograd.predicted": b"1"}


class ArrowOutput(Output):
    """Append each window as a small Arrow stream, preceded by its length; at the end, convert them to one Arrow file.

    The type of a column is certain only after all rows. A column whose values have several types becomes JSON text.

    Args:
        signature: the model's signature. Varying dimensions of outputs become lists, the others lists of fixed size.
        memory_bytes: maximum size of the rows that are written at once.
    """

    def __init__(self, signature: Signature, *, memory_bytes: int) -> None:
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._memory_bytes = memory_bytes

    def encode(self, rows: Sequence[OutputRow]) -> bytes:
        batch = self.batch(rows)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        content: bytes = sink.getvalue().to_pybytes()
        return len(content).to_bytes(LENGTH_BYTES, "little") + content

    def batch(self, rows: Sequence[OutputRow]) -> Any:
        """Return rows as a record batch; the metadata of a field mark predictions and JSON."""
        names = list(dict.fromkeys(name for row in rows for name in row.predictions))
        carried = self._carried(rows) if rows else []
        predicted = [self._predicted(name, [row.predictions.get(name) for row in rows]) for name in names]
        schema = pa.schema([field for field, _ in carried] + [_marked(field, PREDICTED) for field, _ in predicted])
        return pa.record_batch([array for _, array in (*carried, *predicted)], schema=schema)

    def _carried(self, rows: Sequence[OutputRow]) -> list[tuple[Any, Any]]:
        names = list(dict.fromkeys(name for row in rows for name in row.kept))
        if not isinstance(rows[0].columns, ArrowRow):
            return [_column(name, [_value(row, name) for row in rows]) for name in names]
        found = []
        for _, same in groupby((cast("ArrowRow", row.columns) for row in rows), key=lambda row: id(row.batch)):
            group = list(same)
            found.append(group[0].batch.select(names).take(pa.array([row.index for row in group])))
        table = pa.Table.from_batches(found).combine_chunks()
        return [(table.schema.field(name), _one_array(table.column(name))) for name in names]

    def _predicted(self, name: str, values: list[Any]) -> tuple[Any, Any]:
        arrays = [np.asarray(value) for value in values if isinstance(value, np.ndarray | np.generic)]
        if len(arrays) == len(values) and len({(array.dtype, array.ndim) for array in arrays}) == 1:
            array = _nested(arrays, self._varying(name, arrays[0].ndim))
            return pa.field(name, array.type), array
        return _column(name, [value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in values])

    def _varying(self, name: str, ndim: int) -> list[bool]:
        shape = self._outputs[name].shape if name in self._outputs else ()
        return [isinstance(size, str) for size in shape] if len(shape) == ndim else [False] * ndim

    def finish(self, part: Path) -> Path:
        whole_file = part.with_name(f"{part.name}.whole")
        with part.open("rb") as file:
            schema = _whole_schema((batch.schema for batch in _parts(file)), self._outputs.values())
            file.seek(0)
            plain = pa.schema([field.remove_metadata() for field in schema])
            with whole_file.open("wb") as out, self._writer(out, plain) as writer:
                for table in self._groups(file, schema):
                    self._write(writer, table)
        return whole_file

    def _groups(self, file: IO[bytes], schema: Any) -> Iterator[Any]:
        """Yield tables of at most one group's rows."""
        held: list[Any] = []
        for batch in _parts(file):
            fit = _fitted(batch, schema)
            if held and (
                sum(map(len, held)) + len(fit) > GROUP_ROWS
                or sum(each.nbytes for each in held) + fit.nbytes > self._memory_bytes
            ):
                yield pa.Table.from_batches(held).combine_chunks()
                held = []
            held.append(fit)
        if held:
            yield pa.Table.from_batches(held).combine_chunks()

    def _writer(self, out: IO[bytes], schema: Any) -> Any:
        return pa.ipc.new_file(out, schema)

    def _write(self, writer: Any, table: Any) -> None:
        writer.write_table(table)


class ParquetOutput(ArrowOutput):
    """Append windows as `ArrowOutput` does, and convert them to one Parquet file."""

    def _writer(self, out: IO[bytes], schema: Any) -> Any:
        return pq.ParquetWriter(out, schema)

    def _write(self, writer: Any, table: Any) -> None:
        writer.write_table(table, row_group_size=len(table))


def _parts(file: IO[bytes]) -> Iterator[Any]:
    while length := file.read(LENGTH_BYTES):
        yield pa.ipc.open_stream(file.read(int.from_bytes(length, "little"))).read_next_batch()


def _value(row: OutputRow, name: str) -> Any:
    if name not in row.kept:
        return None
    value = row.columns[name]
    try:
        return value_of(value)
    except msgspec.MsgspecError:  # a number that no type can hold
        return bytes(value).decode()


def _column(name: str, values: list[Any]) -> tuple[Any, Any]:
    """Return field and array of plain values; if they have several types, of their JSON."""
    try:
        array = pa.array(values)
        if not _holds_nothing(array.type):
            return pa.field(name, array.type), array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        pass
    return pa.field(name, pa.string(), metadata=JSON), pa.array([_as_json(value) for value in values], pa.string())


def _as_json(value: Any) -> str | None:
    if value is None:
        return None
    try:
        return to_json(value).decode()
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value)


def _holds_nothing(kind: Any) -> bool:
    """Return True for objects without a key, which Parquet cannot hold."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_holds_nothing(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_list(kind)) and _holds_nothing(kind.value_type)


def _nested(arrays: Sequence[Array], varying: Sequence[bool]) -> Any:
    """Return arrays of one dtype as numbers or lists; lists have a fixed size if the dimension never varies."""
    if arrays[0].ndim == 0:
        return pa.array(np.array(arrays))
    sizes = [len(array) for array in arrays]
    if arrays[0].ndim == 1:
        inner = pa.array(np.concatenate(arrays))
    else:
        inner = _nested(
            [row for array in arrays for row in array] or [np.empty(arrays[0].shape[1:], arrays[0].dtype)], varying[1:]
        )
    if not varying[0] and len(set(sizes)) == 1 and sizes[0]:
        return pa.FixedSizeListArray.from_arrays(inner, sizes[0])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *sizes]), pa.int32()), inner)


def _one_array(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _marked(field: Any, mark: dict[bytes, bytes]) -> Any:
    return field.with_metadata({**(field.metadata or {}), **mark})


def _has(field: Any, mark: dict[bytes, bytes]) -> bool:
    return bool(field.metadata) and mark.items() <= field.metadata.items()


# -- types of whole columns whose types differ between windows


def _whole_schema(schemas: Iterable[Any], outputs: Iterable[TensorSpec]) -> Any:
    """Return the schema of all rows: first the carried columns, then the predictions, each in order of appearance.

    The type None marks a field whose values have several types.
    """
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    has_rows = False
    for schema in schemas:
        has_rows = True
        for field in schema:
            side = sides[_has(field, PREDICTED)]
            kind = None if _has(field, JSON) else field.type
            side[field.name] = unified(side[field.name], kind) if field.name in side else kind
    if not has_rows:
        return pa.schema([(spec.name, _type_of(spec)) for spec in outputs])
    found = {**sides[0], **sides[1]}
    return pa.schema([pa.field(name, kind) if kind is not None else _json_field(name) for name, kind in found.items()])


def _json_field(name: str) -> Any:
    return pa.field(name, pa.string(), metadata=JSON)


def unified(a: Any, b: Any) -> Any:
    """Return the Arrow type that holds the values of both; None if there is none, so that the column becomes JSON text."""
    if a is None or b is None:
        return None
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    return _unified_kinds(a, b)


def _unified_kinds(a: Any, b: Any) -> Any:
    if _is_number(a) and _is_number(b):
        return pa.int64() if pa.types.is_integer(a) and pa.types.is_integer(b) else pa.float64()
    if _is_list(a) and _is_list(b):
        inner = unified(a.value_type, b.value_type)
        return pa.list_(inner) if inner is not None else None
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        return _unified_structs(a, b)
    return None


def _unified_structs(a: Any, b: Any) -> Any:
    fields = {a.field(i).name: a.field(i).type for i in range(a.num_fields)}
    for field in (b.field(i) for i in range(b.num_fields)):
        fields[field.name] = unified(fields[field.name], field.type) if field.name in fields else field.type
    return pa.struct(list(fields.items())) if None not in fields.values() else None


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _type_of(spec: TensorSpec) -> Any:
    kind = pa.string() if spec.dtype == TEXT else pa.from_numpy_dtype(np.dtype(spec.dtype))
    for size in reversed(spec.shape):
        kind = pa.list_(kind, size) if isinstance(size, int) and size else pa.list_(kind)
    return kind


def _fitted(batch: Any, schema: Any) -> Any:
    """Return a window with the columns of all windows; a missing column is null."""
    own = {field.name: field for field in batch.schema}
    arrays = []
    for field in schema:
        if field.name not in own:
            arrays.append(pa.nulls(len(batch), field.type))
            continue
        array = batch.column(field.name)
        if _has(field, JSON) and not _has(own[field.name], JSON):
            array = pa.array([_as_json(value) for value in array.to_pylist()], pa.string())
        arrays.append(array if array.type == field.type else _cast(array, field.type))
    return pa.record_batch(arrays, names=schema.names)


def _cast(array: Any, kind: Any) -> Any:
    try:
        return array.cast(kind, safe=False)
    except pa.ArrowException:  # pyarrow lacks some casts of lists and structs
        return pa.array(array.to_pylist(), kind)
