"""Map columns to inputs, and select the columns to carry through. Pure: decided once, from the first records of the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from nograd.core.tensors import TEXT, TensorSpec
from nograd.datasets.records import Reader, Record, value_of
from nograd.errors import ConfigError

__all__ = ["ColumnOptions", "Columns", "RowFaultError", "RowInputs", "check_collisions", "choose", "items_of"]


class RowFaultError(Exception):
    """A row cannot be used. The message is the reason, and the row is reported as a bad one."""


@dataclass(frozen=True, slots=True)
class RowInputs:
    """The model's requirements for one row."""

    inputs: tuple[TensorSpec, ...]
    """The model's own inputs; if it takes an item, only that one."""

    is_item: bool = False
    """True if `preprocess` makes the inputs from one item."""

    is_declared: bool = True
    """False if the item is not declared; then a whole row may be one."""


@dataclass(frozen=True, slots=True)
class ColumnOptions:
    """Column options of the user."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    """Input -> column."""

    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Use of a record's columns."""

    sources: tuple[tuple[TensorSpec, str], ...]
    """Each input with its column; empty: the whole record is the item."""

    is_item: bool
    is_text: bool
    """True if the input holds numbers as text."""

    keep: tuple[str, ...] | None
    drop: frozenset[str]

    def item_of(self, record: Record) -> Any:
        """Return the model's argument for a record: an item, or its inputs by name.

        Raises:
            RowFaultError: the record is bad, lacks a column, or has null in one.
        """
        if record.fault:
            raise RowFaultError(record.fault)
        if not self.sources:
            return {name: _read(record, name) for name in record.columns}
        given = {
            spec.name: self._value_of(record, spec, column) for spec, column in self.sources if _is_there(record, spec, column)
        }
        return next(iter(given.values())) if self.is_item else given

    def _value_of(self, record: Record, spec: TensorSpec, column: str) -> Any:
        if column not in record.columns:
            raise RowFaultError(f"it has no {column!r}")
        value = _read(record, column)
        if value is None:
            raise RowFaultError(f"{column!r} is null")
        if not self.is_text or spec.dtype == TEXT:
            return value
        try:
            return msgspec.json.decode(value)
        except msgspec.MsgspecError:
            raise RowFaultError(
                f"{column!r} is {value[:50]!r}; the model takes {spec.dtype}: a number, or a JSON list"
            ) from None

    def carried_names(self, record: Record) -> tuple[str, ...]:
        """Return the columns of a record that are carried through."""
        if self.keep is not None:
            return tuple(name for name in self.keep if name in record.columns)
        return tuple(name for name in record.columns if name not in self.drop)


def items_of(records: Sequence[Record], columns: Columns) -> tuple[list[Any], dict[int, str]]:
    """Return the items of the usable records, and the reason for each other one by its position."""
    items, faults = [], {}
    for index, record in enumerate(records):
        try:
            items.append(columns.item_of(record))
        except RowFaultError as fault:
            faults[index] = str(fault)
    return items, faults


def choose(takes: RowInputs, wanted: ColumnOptions, reader: Reader, head: Sequence[Record]) -> Columns:
    """Return the use of the columns.

    Args:
        takes: the model's requirements for one row.
        wanted: the user's column options.
        reader: the reader of the input.
        head: the first records of the input.

    Raises:
        ConfigError: an input has no column, or a name that the user gave does not exist.
    """
    good = [record for record in head if not record.fault]
    seen = tuple(
        dict.fromkeys(reader.columns if reader.columns is not None else (name for record in good for name in record.columns))
    )
    names = [spec.name for spec in takes.inputs]
    for name, column in wanted.mapping.items():
        if name not in names:
            raise ConfigError(f"--map {name}={column}: unknown input {name!r}; the model takes {_join_names(names)}")
    named_columns = (*wanted.mapping.values(), *(wanted.keep or ()), *wanted.drop)
    for column in named_columns if seen else ():
        if column not in seen:
            raise ConfigError(f"there is no column {column!r}; the input has {_join_names(seen)}")
    sources = tuple((spec, column) for spec in takes.inputs if (column := _source(spec, takes, wanted, reader, good, seen)))
    numbers = {column for spec, column in sources if spec.dtype != TEXT and takes.is_declared}
    return Columns(sources, takes.is_item, reader.is_text, wanted.keep, frozenset({*wanted.drop, *numbers, *reader.hidden}))


def _source(
    spec: TensorSpec, takes: RowInputs, wanted: ColumnOptions, reader: Reader, good: Sequence[Record], seen: Sequence[str]
) -> str:
    """Return the column of one input; empty if it has none and needs none."""
    if spec.name in wanted.mapping:
        return wanted.mapping[spec.name]
    if spec.name in seen or not seen:
        return spec.name
    free = [name for name in seen if name not in wanted.mapping.values()]
    if len(takes.inputs) == 1:
        pixels = [name for name in free if name in reader.hidden]
        if len(found := pixels or free) == 1:
            return found[0]
        if spec.dtype == TEXT and takes.is_declared and len(found := [name for name in free if _is_text(name, good)]) == 1:
            return found[0]
    if spec.default is not None or not takes.is_declared:
        return ""
    raise ConfigError(
        f"input {spec.name!r} has no column; the input has {_join_names(seen)}; select one with --map {spec.name}=COLUMN"
    )


def check_collisions(columns: Columns, head: Iterable[Record], predictions: Iterable[str]) -> None:
    """Raise ConfigError if a carried column has the name of a prediction."""
    kept = {name for record in head if not record.fault for name in columns.carried_names(record)}
    for name in predictions:
        if name in kept:
            raise ConfigError(f"column {name!r} of the input has the name of a prediction; leave it out with --drop {name}")


def _is_there(record: Record, spec: TensorSpec, column: str) -> bool:
    return spec.default is None or column in record.columns


def _read(record: Record, column: str) -> Any:
    try:
        return value_of(record.columns[column])
    except msgspec.MsgspecError as error:
        raise RowFaultError(f"{column!r} cannot be read: {error}") from None


def _is_text(name: str, good: Sequence[Record]) -> bool:
    values = [_read(record, name) for record in good if name in record.columns]
    return any(isinstance(value, str) for value in values) and all(value is None or isinstance(value, str) for value in values)


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
