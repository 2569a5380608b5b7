"""Read Parquet and Arrow files, and decompress zstandard: the only module that imports pyarrow (extra: data)."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from nograd.datasets.identity import file_identity
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.errors import JobError, MissingExtraError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtraError("pyarrow", "data") from None

__all__ = ["ArrowRow", "ArrowRows", "ParquetRows", "decompressed", "pa", "pq"]

BATCH_ROWS = 1024


def decompressed(file: BinaryIO, kind: str) -> BinaryIO:
    """Return the content of a compressed file."""
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", pa.CompressedInputStream(pa.PythonFile(file), kind))))


class ArrowRow(Mapping[str, Any]):
    """One row of a batch, by column; values are converted on access."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: Any, index: int) -> None:
        self.batch, self.index = batch, index

    def __getitem__(self, name: str) -> Any:
        if name not in self.batch.schema.names:
            raise KeyError(name)
        value = self.batch.column(name)[self.index]
        try:
            return value.as_py()
        except ValueError:  # nanoseconds, which Python's times do not have
            return str(value.cast(pa.string()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.schema.names)

    def __len__(self) -> int:
        return int(self.batch.num_columns)


class _Batches(Reader):
    """Read batches of rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.schema, self._total = self._open()
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{path} cannot be read: {error}") from error
        self.columns = tuple(self.schema.names)

    def read(self, after: InputPosition) -> Iterator[Record]:
        number = after.number
        try:
            for start, batch in self._batches(after.number):
                size = batch.nbytes // max(1, len(batch)) + 1
                for index in range(max(0, after.number - start), len(batch)):
                    number = start + index + 1
                    row = ArrowRow(batch, index)
                    yield Record(InputPosition(number), size, row, row)
        except (pa.ArrowInvalid, OSError) as error:
            raise JobError(f"{self._path} cannot be read after row {number}: {error}") from error

    def fraction(self, place: InputPosition) -> float | None:
        return place.number / self._total if self._total else None

    def identity(self) -> dict[str, str]:
        return file_identity(self._path)

    @abstractmethod
    def _open(self) -> tuple[Any, int]:
        """Return the schema and the number of rows; 0 if the number is unknown."""

    @abstractmethod
    def _batches(self, skip: int) -> Iterator[tuple[int, Any]]:
        """Yield (number of earlier rows, batch), from about row `skip` on. The batches are always the same."""


class ParquetRows(_Batches):
    """Read a Parquet file in batches, one row group after the other."""

    def _open(self) -> tuple[Any, int]:
        with pq.ParquetFile(self._path) as file:
            return file.schema_arrow, file.metadata.num_rows

    def _batches(self, skip: int) -> Iterator[tuple[int, Any]]:
        with pq.ParquetFile(self._path, buffer_size=1 << 20, pre_buffer=False) as file:
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start + rows > skip:
                    at = start
                    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False):
                        yield at, batch
                        at += len(batch)
                start += rows


class ArrowRows(_Batches):
    """Read an Arrow file or stream, one batch after the other."""

    def _open(self) -> tuple[Any, int]:
        with pa.memory_map(str(self._path)) as file:
            try:
                return pa.ipc.open_file(file).schema, 0
            except pa.ArrowInvalid:
                file.seek(0)
                return pa.ipc.open_stream(file).schema, 0

    def _batches(self, skip: int) -> Iterator[tuple[int, Any]]:
        start = 0
        with pa.memory_map(str(self._path)) as file:
            for whole in _stored(file):
                if start + len(whole) > skip:
                    for at in range(0, len(whole), BATCH_ROWS):
                        yield start + at, whole.slice(at, BATCH_ROWS)
                start += len(whole)


def _stored(file: Any) -> Iterator[Any]:
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        yield from pa.ipc.open_stream(file)
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
