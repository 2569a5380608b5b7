"""Bundles as a single `.zip` file, stored without compression: weights do not compress, and unpacking cannot expand a stored
file.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from nograd.bundle.digests import MAX_SUMS_BYTES, SUMS, check_names, read_sums
from nograd.errors import ModelLoadError

__all__ = ["has_entry", "pack", "unpack"]

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Fixed timestamp of all entries: the same folder always produces the same archive."""


def pack(folder: Path, target: Path) -> None:
    """Write all files of a folder to an archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EARLIEST)
            entry.external_attr = 0o100644 << 16
            entry.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=entry.file_size > 1 << 30) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)


def has_entry(path: Path, name: str) -> bool:
    """Return whether a file is an archive that contains a file of this name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into an empty folder after checking its names and sizes. The contents are not verified here.

    Raises:
        ModelLoadError: the file is not an archive, is damaged, or contains a file that its `SHA256SUMS` does not list. Nothing
            is unpacked in these cases.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _check_entries(archive, path)
            for entry in entries:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"{path} is damaged: {error}") from error
    except (RuntimeError, NotImplementedError, EOFError, OSError) as error:  # encrypted, unsupported zip version, or truncated
        raise ModelLoadError(f"{path} cannot be unpacked: {type(error).__name__}: {error}") from error


def _check_entries(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries. All must be stored files listed in `SHA256SUMS`, in total not larger than the archive."""
    entries = archive.infolist()
    for entry in entries:
        mode = entry.external_attr >> 16
        if entry.is_dir() or (mode and mode & 0o170000 not in (0, 0o100000)):
            raise ModelLoadError(f"{path}: {entry.filename} is not a file; a bundle contains only files")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ModelLoadError(f"{path}: {entry.filename} is compressed or encrypted; pack a bundle with: zip -0 -r -D")
    names = [entry.filename for entry in entries]
    if sum(entry.file_size for entry in entries) > path.stat().st_size or len(set(names)) != len(names):
        raise ModelLoadError(f"{path} is damaged: its files overlap")
    sums = next((entry for entry in entries if entry.filename == SUMS), None)
    if sums is None or sums.file_size > MAX_SUMS_BYTES:
        raise ModelLoadError(f"{path} is not a bundle: it contains no {SUMS}")
    check_names(names, read_sums(archive.read(sums), str(path)), str(path))
    return entries
