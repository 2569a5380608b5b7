"""Read CSV: a header, then one record per row. Cells are text; for inputs of numbers, they are read as JSON."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from nograd.datasets.identity import file_identity
from nograd.datasets.lines import open_stream, share_read
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.errors import ConfigError, JobError

__all__ = ["CsvRows"]


class CsvRows(Reader):
    """Read a CSV file with a header, in UTF-8, optionally compressed.

    Args:
        path: the file.
        max_row_bytes: maximum length of a cell.

    Raises:
        ConfigError: the header names a column twice.
    """

    is_text = True

    def __init__(self, path: Path, *, max_row_bytes: int) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._file: BinaryIO | None = None
        csv.field_size_limit(max_row_bytes)
        with closing(self._rows()) as rows:
            self.columns = tuple(next(rows, []))
        for name in self.columns:
            if self.columns.count(name) > 1:
                raise ConfigError(f"the header of {path} contains {name!r} twice; every column needs its own name")

    def read(self, after: InputPosition) -> Iterator[Record]:
        with closing(self._rows()) as rows:
            next(rows, None)
            for number, cells in enumerate((row for row in rows if row), start=1):
                if number > after.number:
                    yield self._record(cells, InputPosition(number))

    def _record(self, cells: list[str], place: InputPosition) -> Record:
        names = self.columns or ()
        raw = ",".join(cells) if len(cells) != len(names) else dict(zip(names, cells, strict=True))
        fault = ""
        if len(cells) != len(names):
            fault = f"it has {len(cells)} fields; the header names {len(names)}"
        elif any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell):
            fault = "it is not UTF-8"
        columns = raw if isinstance(raw, dict) and not fault else {}
        return Record(place, sum(map(len, cells)), columns, raw, fault)

    def _rows(self) -> Generator[list[str]]:
        stream, self._file = open_stream(self._path)
        with self._file, stream, io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text:
            rows = csv.reader(text)
            try:
                yield from rows
            except (csv.Error, OSError, EOFError, zlib.error) as error:
                raise JobError(f"{self._path} cannot be read after line {rows.line_num}: {error}") from error

    def fraction(self, place: InputPosition) -> float | None:  # noqa: ARG002  the bytes read say more, because rows differ in length
        return share_read(self._file, self._size)

    def identity(self) -> dict[str, str]:
        return file_identity(self._path)
