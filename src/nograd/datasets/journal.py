"""The journal: progress of a run, in a file that may be truncated anywhere.

Each line starts with a checksum. The first line identifies the run. Every other line records the data that was safe on disk
when it was written. Reading ends at the first incomplete line: a line that was being written when the machine stopped does
not count.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from nograd.datasets.disk import write_all
from nograd.datasets.records import InputPosition
from nograd.datasets.windows import Layout
from nograd.errors import ConfigError

__all__ = ["Commit", "Header", "Journal", "JournalContent", "read"]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity and layout of the run."""

    identity: Mapping[str, Mapping[str, str]]
    layout: Layout
    version: int = 1


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data that is safe on disk."""

    place: InputPosition = InputPosition()
    """Position in the input: the last record whose row is written or reported as bad."""

    rows: int = 0
    bad: int = 0
    part_bytes: int = 0
    error_bytes: int = 0
    part_crc: int | None = None
    """CRC-32 of the part's bytes; None: an earlier version of nograd stored none, or there are no bytes."""

    error_crc: int | None = None
    """CRC-32 of the bytes in the file of bad rows, likewise."""

    elements: int = 0
    """Elements of all batches, without padding."""

    padding: float = 0.0
    """Padding elements of all batches."""

    repeats: int = 0
    """Rows that received the answer of an equal row."""

    ended: bool = False
    """True if the input has been read to its end."""

    written_bytes: int | None = None
    """Size of the output in bytes, once it is complete."""

    written_crc: int | None = None
    """CRC-32 of the output, once it is complete; None: an earlier version of nograd stored none."""


class JournalContent(msgspec.Struct, frozen=True):
    """Contents of a journal."""

    header: Header | None = None
    commit: Commit = Commit()
    length: int = 0
    """Bytes of its complete lines."""


T = TypeVar("T")


def line_of(value: Header | Commit) -> bytes:
    """Return a line."""
    body = msgspec.json.encode(value)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def read(content: bytes) -> JournalContent:
    """Return the contents of the complete lines at the start of a journal."""
    found = JournalContent()
    for line in content.split(b"\n")[:-1]:
        length = found.length + len(line) + 1
        if found.header is None:
            header = _value(line, Header)
            if header is None:
                return found
            found = JournalContent(header, length=length)
        else:
            commit = _value(line, Commit)
            if commit is None:
                return found
            found = JournalContent(found.header, commit, length)
    return found


def _value(line: bytes, kind: type[T]) -> T | None:
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        return None


def may_be_a_journal(content: bytes) -> bool:
    """Return True if `nograd predict` may have written this: a complete first line, or the start of one."""
    if not content or read(content).header is not None:
        return True
    checksum, body = content[:8], content[8 : 8 + len(_BEGINNING)]
    is_checksum = all(byte in b"0123456789abcdef" for byte in checksum)
    return b"\n" not in content and is_checksum and _BEGINNING.startswith(body)


_BEGINNING = b' {"identity":'


class Journal:
    """The file, locked while it is open.

    Args:
        path: path of the journal; created if it does not exist.

    Raises:
        ConfigError: another process has it open, or `nograd predict` did not write it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"another nograd predict is writing {path.with_suffix('')} now; wait until it has ended"
            ) from None
        content = path.read_bytes()
        if not may_be_a_journal(content):
            os.close(self._file)
            raise ConfigError(f"{path} was not written by nograd predict; move it away, or choose another output")
        self.found = read(content)

    def begin(self, header: Header) -> None:
        """Discard all lines, and write the first one."""
        self.found = JournalContent()
        self._cut()
        self._append(header)
        self.found = JournalContent(header, length=len(line_of(header)))

    def add(self, commit: Commit) -> None:
        """Write a line, and return when it is safe on disk."""
        self._cut()
        self._append(commit)
        self.found = JournalContent(self.found.header, commit, self.found.length + len(line_of(commit)))

    def _cut(self) -> None:
        """Remove an incomplete line."""
        os.ftruncate(self._file, self.found.length)
        os.lseek(self._file, 0, os.SEEK_END)

    def _append(self, value: Header | Commit) -> None:
        write_all(self._file, line_of(value))
        os.fsync(self._file)

    def remove(self) -> None:
        """Remove a journal that was created here and has no lines."""
        if not self.found.length and self._is_new:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and release its lock."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()
        self.close()
