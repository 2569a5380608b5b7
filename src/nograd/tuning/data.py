"""Read the user's own sample, a file of items or rows, into the rows of a predictor."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from nograd.core.inputs import each_item, is_tensor, to_host
from nograd.core.tensors import Batch, Signature, num_rows, split
from nograd.errors import ConfigError, ItemError, NogradError
from nograd.predictors.predictor import Predictor

__all__ = ["Sample", "check_data", "read_sample", "sample_of"]

MAX_READ_ROWS = 100_000
"""Maximum rows to read from a file. Of these, `max_rows` evenly spread rows are used."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows for comparing and measuring."""

    parts: tuple[Batch, ...]
    """Checked rows of the model's own inputs; each part is one row."""

    lengths: tuple[int, ...]
    """Length of each row along its varying dimensions; 1 if no dimension varies."""

    description: str
    """The sample in words, for the report."""

    records: tuple[Mapping[str, Any], ...] = field(default=())
    """All columns of the file for each row, such as its label; empty if the file has no columns in addition to the inputs."""


def read_sample(path: Path, predictor: Predictor, *, max_rows: int = 256) -> Sample:
    """Return the rows of a file.

    Items: `.txt` with one item per line; `.jsonl` with strings, or with objects that hold the item under its name; `.csv`
    with a column of that name. Model inputs: `.jsonl` with lists (one input) or with objects by input name; `.npz` with
    arrays `[rows, ...]` by input name; `.npy` for one input. A metric receives the other columns.

    Args:
        path: the file.
        predictor: the predictor that will take the rows.
        max_rows: maximum number of rows. From a longer file, evenly spread rows are used.

    Raises:
        ConfigError: the file does not exist, has another suffix, is empty, or has a line that the model does not take.
    """
    check_data(path)
    try:
        records = READERS[path.suffix](path, predictor)
    except (ValueError, OSError) as error:
        raise error if isinstance(error, NogradError) else ConfigError(f"{path} cannot be read: {error}") from error
    if not records:
        raise ConfigError(f"{path} contains no rows; give 50 to 200 rows")
    chosen = sorted({int(place) for place in np.linspace(0, len(records) - 1, max_rows)})
    name = _item_name(predictor)
    parts = []
    for place in chosen:
        try:
            parts.append(predictor.prepare_item(_item(records[place], predictor, name), place))
        except (ItemError, ConfigError) as error:
            raise ConfigError(f"{path}, row {place + 1}: {str(error).removeprefix(f'item {place}: ')}") from error
    return _sample(parts, predictor.signature, path.name, [records[place] for place in chosen])


def check_data(path: Path) -> None:
    """Raise ConfigError if the file does not exist, or if nothing reads files of its suffix."""
    if path.suffix not in READERS:
        raise ConfigError(f"the data are {str(path)!r}; the name must end in {', '.join(READERS)}")
    if not path.is_file():
        raise ConfigError(f"the data are {str(path)!r}; the file does not exist")


def sample_of(predictor: Predictor, inputs: Any = None) -> Sample:
    """Return the rows of inputs in the form of a `Predictor`'s sample; None: the probed sample.

    Raises:
        SignatureError: the inputs do not match the model's signature.
        ItemError: `preprocess` raised on an item.
    """
    if inputs is None:
        rows = [piece for part in _probed(predictor) for piece in split(part, [1] * num_rows(part))]
        return _sample(rows, predictor.signature, "the probed sample", [])
    items = [inputs] if isinstance(inputs, str) else inputs
    parts, _ = predictor.prepare(list(each_item(items)) if predictor.has_preprocess else _on_host(items))
    rows = [piece for part in parts for piece in split(part, [1] * num_rows(part))]
    return _sample(rows, predictor.signature, "the sample given", [])


def _probed(predictor: Predictor) -> list[Batch]:
    from nograd.backends.modules import ModuleBackend

    backend = predictor.backend
    if not isinstance(backend, ModuleBackend) or not backend.samples:
        return [predictor.example_part]
    return [predictor.signature.check(to_host(dict(sample))) for sample in backend.samples]


def _on_host(inputs: Any) -> Any:
    return to_host(inputs) if is_tensor(inputs) or isinstance(inputs, Mapping | tuple | list) else inputs


def _sample(parts: Sequence[Batch], signature: Signature, name: str, records: Sequence[Mapping[str, Any]]) -> Sample:
    lengths = [sum(signature.sizes_of(part)) or 1 for part in parts]
    description = f"{len(parts)} {'row' if len(parts) == 1 else 'rows'} of {name}"
    if signature.lengths:
        description += f", {min(lengths)} to {max(lengths)} {' + '.join(signature.lengths)}"
    extra = any(len(record) > 1 for record in records)
    return Sample(tuple(parts), tuple(lengths), description, tuple(records) if extra else ())


def _item_name(predictor: Predictor) -> str:
    return predictor.item.name if predictor.item is not None else "text"


def _item(record: Mapping[str, Any], predictor: Predictor, name: str) -> Any:
    """Return the argument of `prepare_item`: the item, or the model's inputs by name."""
    if not predictor.has_preprocess:
        names = [spec.name for spec in predictor.signature.inputs if spec.name in record]
        if not names:
            wanted = ", ".join(repr(spec.name) for spec in predictor.signature.inputs)
            raise ConfigError(f"it has {', '.join(map(repr, record))}; the model takes {wanted}")
        return {each: record[each] for each in names}
    if name in record:
        return record[name]
    if predictor.item is None:
        return record
    raise ConfigError(f"it has {', '.join(map(repr, record))}; the model's item must be in {name!r}")


def _only_input(predictor: Predictor) -> str:
    inputs = predictor.signature.inputs
    if len(inputs) != 1:
        raise ConfigError(
            f"the file has one column without a name; the model takes {', '.join(repr(spec.name) for spec in inputs)}"
        )
    return inputs[0].name


def _column(predictor: Predictor) -> str:
    return _item_name(predictor) if predictor.has_preprocess else _only_input(predictor)


def _read_txt(path: Path, predictor: Predictor) -> list[dict[str, Any]]:
    name = _column(predictor)
    with path.open(encoding="utf-8") as lines:
        return [{name: line} for line in (each.rstrip("\r\n") for each in islice(lines, MAX_READ_ROWS)) if line.strip()]


def _read_jsonl(path: Path, predictor: Predictor) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return list(_json_lines(path, lines, predictor))


def _json_lines(path: Path, lines: Iterator[str], predictor: Predictor) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(islice(lines, MAX_READ_ROWS), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        yield found if isinstance(found, dict) else {_column(predictor): found}


def _read_csv(path: Path, predictor: Predictor) -> list[dict[str, Any]]:  # noqa: ARG001  all readers have one signature
    with path.open(encoding="utf-8-sig", newline="") as file:
        return cast("list[dict[str, Any]]", list(islice(csv.DictReader(file), MAX_READ_ROWS)))


def _read_npz(path: Path, predictor: Predictor) -> list[dict[str, Any]]:  # noqa: ARG001
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    if len({len(np.atleast_1d(column)) for column in columns.values()}) != 1:
        sizes = ", ".join(f"{name} {list(column.shape)}" for name, column in columns.items())
        raise ConfigError(f"{path} contains {sizes}; every array must be [rows, ...] with equal numbers of rows")
    rows = len(next(iter(columns.values())))
    return [{name: column[row] for name, column in columns.items()} for row in range(min(rows, MAX_READ_ROWS))]


def _read_npy(path: Path, predictor: Predictor) -> list[dict[str, Any]]:
    name = _only_input(predictor)
    return [{name: row} for row in np.load(path, allow_pickle=False)[:MAX_READ_ROWS]]


READERS: Mapping[str, Callable[[Path, Predictor], list[dict[str, Any]]]] = {
    ".jsonl": _read_jsonl, ".txt": _read_txt, ".csv": _read_csv, ".npz": _read_npz, ".npy": _read_npy,
}  # fmt: skip
"""File suffix -> function that reads the file into rows by column."""
