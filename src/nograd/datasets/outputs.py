"""Write outputs: each window is appended to a part file, and the output is made from it at the end."""

from __future__ import annotations

import base64
import csv
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

__all__ = ["CsvOutput", "JsonOutput", "Output", "OutputRow", "to_json"]


@dataclass(frozen=True, slots=True)
class OutputRow:
    """A row of the output."""

    columns: Mapping[str, Any]
    """The columns of the record."""

    kept: tuple[str, ...]
    """Names of the columns to carry through, in order."""

    predictions: Mapping[str, Any]
    """Predictions by name, which follow the carried columns: numbers, text, arrays, lists, dicts."""


class Output(ABC):
    """One format of output file."""

    @abstractmethod
    def encode(self, rows: Sequence[OutputRow]) -> bytes:
        """Return the bytes that a window appends to the part file: equal bytes for equal rows."""

    @abstractmethod
    def finish(self, part: Path) -> Path:
        """Return a file with the whole output: the part itself, or a new file next to it."""


class JsonOutput(Output):
    """Write a JSON object per line. NaN and infinities, which JSON lacks, become null."""

    def encode(self, rows: Sequence[OutputRow]) -> bytes:
        return b"".join(map(_line, rows))

    def finish(self, part: Path) -> Path:
        return part


class CsvOutput(JsonOutput):
    """Write CSV with a header. The columns are known only after all rows. Lists and objects are JSON, null is an empty cell.

    Args:
        predictions: names of the columns that follow all others.
    """

    def __init__(self, predictions: Sequence[str]) -> None:
        self._predictions = predictions

    def finish(self, part: Path) -> Path:
        decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
        names: dict[str, None] = {}
        with part.open("rb") as lines:
            for line in lines:
                names.update(dict.fromkeys(decoder.decode(line)))
        last = [name for name in self._predictions if name in names or not names]
        header = [*(name for name in names if name not in last), *last]
        whole_file = part.with_name(f"{part.name}.whole")
        with part.open("rb") as lines, whole_file.open("w", encoding="utf-8", newline="") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(header)
            for line in lines:
                cells = decoder.decode(line)
                rows.writerow([_cell(cells.get(name)) for name in header])
        return whole_file


def to_json(value: Any) -> bytes:
    """Return a value as JSON, on one line.

    Raises:
        TypeError: it is not a number, text, time, bytes, array, list, or dict of those.
    """
    return (
        bytes(value)
        if isinstance(value, msgspec.Raw)
        else orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    )


def _line(row: OutputRow) -> bytes:
    cells = [(name, row.columns[name]) for name in row.kept]
    return (
        b"{" + b",".join(to_json(name) + b":" + to_json(value) for name, value in (*cells, *row.predictions.items())) + b"}\n"
    )


def _plain(value: Any) -> Any:
    """Convert a value that JSON has no type for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__module__ in ("decimal", "datetime", "uuid"):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _cell(value: msgspec.Raw | None) -> str:
    if value is None:
        return ""
    text = bytes(value).decode()
    if text == "null":
        return ""
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text
