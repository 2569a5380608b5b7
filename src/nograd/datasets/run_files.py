"""The files of a run: the growing part, the bad rows, the journal; and the output that is made from them."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from nograd.datasets.disk import checksum_of, replace, sync, write_all
from nograd.datasets.journal import Commit, Header, Journal, JournalContent
from nograd.datasets.outputs import Output
from nograd.errors import ConfigError, JobError

__all__ = ["Files", "WindowWriter"]


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of a run's files."""

    output: Path

    @property
    def part(self) -> Path:
        """The part file. It grows by one window at a time, and the output is made from it."""
        return self.output.with_name(f"{self.output.name}.part")

    @property
    def errors(self) -> Path:
        """The bad rows, with reasons."""
        return self.output.with_name(f"{self.output.name}.errors.jsonl")

    @property
    def journal(self) -> Path:
        """The journal. It remains next to the output, and identifies the run that made it."""
        return self.output.with_name(f"{self.output.name}.journal")

    def require_plain(self) -> None:
        """Raise ConfigError if there is no such folder, or one of the files is a link, a pipe or otherwise not plain."""
        if not self.output.parent.is_dir():
            raise ConfigError(f"the output is {str(self.output)!r}; the folder {str(self.output.parent)!r} does not exist")
        for path in (self.output, self.part, self.errors, self.journal):
            if kind := _special(path):
                raise ConfigError(
                    f"{path} is {kind}; nograd predict writes plain files only: move it, or choose another output"
                )


class WindowWriter:
    """Write windows and make them durable; a context manager.

    Args:
        output: path of the output.
        restart: discard the results of an earlier run.

    Raises:
        ConfigError: the folder does not exist, or another process writes the output.
    """

    def __init__(self, output: Path, *, restart: bool) -> None:
        self.files = Files(output)
        self.files.require_plain()
        try:
            self._journal = Journal(self.files.journal)
        except OSError as error:
            raise ConfigError(f"{self.files.journal} cannot be written: {error.strerror}") from error
        found = self._journal.found
        try:
            self._require_own(found)
        except BaseException:
            self._journal.__exit__(None, None, None)
            raise
        self.header = None if restart or found.commit == Commit() else found.header
        """Header of the run to resume; None starts a new run."""

        self.now = Commit() if self.header is None else found.commit
        """All data written so far, durable or not."""

        self._safe = self.now
        self._whole: tuple[Commit, bool] | None = None
        self._part = self._errors = -1

    def _require_own(self, found: JournalContent) -> None:
        """Raise ConfigError if an earlier run did not write the existing part or bad rows."""
        for path in (self.files.part, self.files.errors):
            if found.header is None and _size(path):
                raise ConfigError(
                    f"{path} exists, and no journal shows that nograd predict wrote it; move it, or choose another output"
                )
        commit = found.commit
        if commit.written_bytes is not None and self.files.part.exists():  # a complete run removes it
            self._require_same(self.files.part, commit.part_bytes, commit.part_crc)

    def _require_same(self, path: Path, size: int, checksum: int | None) -> None:
        """Raise ConfigError if a file does not start with the bytes that the journal records."""
        if _size(path) < size:
            raise ConfigError(f"{path} has {_size(path)} bytes, and its journal records {size}; use --restart to start again")
        if size and checksum is not None and checksum_of(path, size) != checksum:
            raise ConfigError(
                f"{path} was changed after nograd predict wrote it: its first {size} bytes do not have the checksum in "
                f"{self.files.journal.name}; use --restart to start again"
            )

    @property
    def is_whole(self) -> bool:
        """True if the output is complete and unchanged: its size and, once for each state, its checksum."""
        if self._whole is None or self._whole[0] is not self.now:
            self._whole = self.now, self._is_as_written()
        return self._whole[1]

    def _is_as_written(self) -> bool:
        output, size, checksum = self.files.output, self.now.written_bytes, self.now.written_crc
        if size is None or not output.is_file() or _size(output) != size:
            return False
        return checksum is None or checksum_of(output, size) == checksum

    def forget(self) -> None:
        """Discard the earlier run and start from the beginning."""
        self.header, self.now = None, Commit()

    def begin(self, header: Header) -> None:
        """Start a run, or resume the one in the journal.

        Raises:
            ConfigError: the existing files do not match the journal.
        """
        with self._reporting_failure():
            if self.header is None or self.now.written_bytes is not None:
                self.now = self._safe = Commit()
                for path in (self.files.part, self.files.errors):
                    path.unlink(missing_ok=True)
                self._journal.begin(header)
                sync(self.files.output.parent)
            if self._has_new_name:
                self._require_same(self.files.output, self.now.part_bytes, self.now.part_crc)
                return
            self._part = self._open_at(self.files.part, self.now.part_bytes, self.now.part_crc)
            self._errors = self._open_at(self.files.errors, self.now.error_bytes, self.now.error_crc)

    @property
    def _has_new_name(self) -> bool:
        """True if the part has already been renamed to the output, and only the journal does not record it."""
        is_there = self.files.output.is_file() and not self.files.part.exists()
        return is_there and self.now.ended and _size(self.files.output) == self.now.part_bytes

    def _open_at(self, path: Path, size: int, checksum: int | None) -> int:
        """Open a file at the end of its committed bytes, which are verified; later bytes are removed."""
        self._require_same(path, size, checksum)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        os.ftruncate(file, size)
        os.lseek(file, size, os.SEEK_SET)
        return file

    def add(self, now: Commit, rows: bytes, errors: bytes) -> None:
        """Append a window.

        Args:
            now: progress of the run including this window; the file sizes are filled in here.
            rows: bytes for the part.
            errors: bytes for the file of bad rows.
        """
        with self._reporting_failure():
            write_all(self._part, rows)
            write_all(self._errors, errors)
        self.now = msgspec.structs.replace(
            now, part_bytes=self.now.part_bytes + len(rows), error_bytes=self.now.error_bytes + len(errors),
            part_crc=_extended(self.now.part_crc, self.now.part_bytes, rows),
            error_crc=_extended(self.now.error_crc, self.now.error_bytes, errors),
        )  # fmt: skip

    def write_failing_row(self, errors: bytes) -> None:
        """Write the row that ends the run into the file of bad rows, for the user; the next run discards it."""
        with suppress(OSError):
            write_all(self._errors, errors)

    def commit(self) -> None:
        """Make all added data durable."""
        if self.now == self._safe:
            return
        with self._reporting_failure():
            os.fsync(self._part)
            os.fsync(self._errors)
            self._journal.add(self.now)
        self._safe = self.now

    def finish(self, output: Output) -> None:
        """Make the output from the part, store its size and checksum, and remove the part."""
        with self._reporting_failure():
            checksum = self.now.part_crc
            if not self._has_new_name:
                self.now = msgspec.structs.replace(self.now, ended=True)
                self.commit()
                made = output.finish(self.files.part)
                checksum = self.now.part_crc if made == self.files.part else checksum_of(made, _size(made))
                replace(made, self.files.output)
            size = _size(self.files.output)
            self._journal.add(msgspec.structs.replace(self.now, written_bytes=size, written_crc=checksum))
            self.files.part.unlink(missing_ok=True)

    @contextmanager
    def _reporting_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobError(
                f"{self.files.output} cannot be written: {error.strerror}; finished work is kept; "
                "correct this, and run the same command again"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in (self._part, self._errors):
            if file >= 0:
                os.close(file)
        for path, file in ((self.files.part, self._part), (self.files.errors, self._errors)):
            is_kept = path == self.files.part and self._journal.found.header is not None
            if file >= 0 and path.is_file() and not _size(path) and not is_kept:
                path.unlink()
        self._journal.__exit__(kind, error, trace)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _special(path: Path) -> str:
    """Return the kind of file at a path; empty for a plain file or no file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder"}
    return "" if stat.S_ISREG(mode) else kinds.get(stat.S_IFMT(mode), "a device or socket")


def _extended(checksum: int | None, size: int, data: bytes) -> int | None:
    """Return the checksum of `size` bytes followed by `data`; None if the checksum of the bytes is unknown."""
    return None if checksum is None and size else zlib.crc32(data, checksum or 0)
