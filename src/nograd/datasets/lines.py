"""Read JSONL and text: one record per line, from plain files, compressed files, and standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from nograd.datasets.identity import file_identity
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.errors import JobError

__all__ = ["VALUE", "JsonLines", "TextLines", "open_stream", "share_read"]

VALUE = "value"
"""Column of a line that is JSON but not an object."""

SHOWN_BYTES = 1 << 16
"""Maximum bytes of an unreadable line in the file of bad rows."""

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def open_stream(path: Path) -> tuple[BinaryIO, BinaryIO]:
    """Return a file's decompressed content, and the file itself, whose position shows the progress.

    Raises:
        MissingExtraError: the file is `.zst`, and pyarrow is not installed.
    """
    file = path.open("rb")
    if path.suffix == ".gz":
        return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=file)))), file
    if path.suffix == ".zst":
        from nograd.datasets.arrow import decompressed

        return decompressed(file, "zstd"), file
    return file, file


def share_read(file: BinaryIO | None, size: int) -> float | None:
    """Return the share of a file that has been read; 1 for a closed file."""
    if file is None or not size:
        return None
    return 1.0 if file.closed else min(1.0, file.tell() / size)


class _LineReader(Reader):
    """Read lines in bounded memory.

    Args:
        path: the file; None reads standard input.
        max_line_bytes: maximum length; a longer line is a bad row.
    """

    word = "line"

    def __init__(self, path: Path | None, *, max_line_bytes: int) -> None:
        self._path = path
        self._max_line_bytes = max_line_bytes
        self._file: BinaryIO | None = None
        self._size = path.stat().st_size if path is not None else 0
        self.resumable = path is not None

    def read(self, after: InputPosition) -> Iterator[Record]:
        stream = self._stream()
        _skip(stream, after.offset)
        number, offset = after.number, after.offset
        try:
            while line := stream.readline(self._max_line_bytes + 1):
                number, length = number + 1, len(line)
                is_whole = length <= self._max_line_bytes
                while not is_whole and not line.endswith(b"\n"):
                    line = stream.readline(self._max_line_bytes)
                    length += len(line)
                    if not line:
                        break
                offset += length
                record = (
                    self._record(line, InputPosition(number, offset))
                    if is_whole
                    else self._too_long(length, InputPosition(number, offset))
                )
                if record is not None:
                    yield record
        except (OSError, EOFError, zlib.error) as error:
            raise JobError(f"{self._path or 'standard input'} cannot be read after line {number}: {error}") from error

    def _stream(self) -> BinaryIO:
        if self._path is None:
            return sys.stdin.buffer
        self.close()
        stream, self._file = open_stream(self._path)
        return stream

    def _too_long(self, length: int, place: InputPosition) -> Record:
        return Record(
            place, 0, {}, None, f"it has {length} bytes; with this --memory a line has at most {self._max_line_bytes}"
        )

    def fraction(self, place: InputPosition) -> float | None:
        if self._path is None or self._file is None or not self._size:
            return None
        return share_read(self._file, self._size) if self._path.suffix in (".gz", ".zst") else place.offset / self._size

    def identity(self) -> dict[str, str]:
        return file_identity(self._path) if self._path is not None else {}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @abstractmethod
    def _record(self, line: bytes, place: InputPosition) -> Record | None:
        """Return a line as a record; None for a line without a record."""


class JsonLines(_LineReader):
    """Read a JSON value per line: objects have columns, other values become the column `value`. Blank lines are skipped."""

    def _record(self, line: bytes, place: InputPosition) -> Record | None:
        line = line.strip()
        if not line:
            return None
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            return Record(place, len(line), {}, _shorten(line), f"it is not UTF-8: {error.reason} at byte {error.start}")
        try:
            if not line.startswith(b"{"):
                return Record(place, len(line), {VALUE: _check_json(line)}, text)
            return Record(place, len(line), _DECODER.decode(line), text)
        except (msgspec.DecodeError, RecursionError) as error:
            return Record(place, len(line), {}, text, f"it is not JSON: {error}")


class TextLines(_LineReader):
    """Read a text per line, in the column `text`; an empty line is an empty text."""

    is_text = True
    columns = ("text",)

    def _record(self, line: bytes, place: InputPosition) -> Record | None:
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            return Record(place, len(line), {"text": line.decode()}, line.decode())
        except UnicodeDecodeError as error:
            return Record(place, len(line), {}, _shorten(line), f"it is not UTF-8: {error.reason} at byte {error.start}")


def _check_json(line: bytes) -> msgspec.Raw:
    msgspec.json.decode(line)
    return msgspec.Raw(line)


def _shorten(line: bytes) -> str:
    return line[:SHOWN_BYTES].decode(errors="backslashreplace")


def _skip(stream: BinaryIO, count: int) -> None:
    if count and stream.seekable():
        stream.seek(count)
        return
    while count:
        piece = stream.read(min(count, 1 << 20))
        if not piece:
            return
        count -= len(piece)
