"""Write files that survive a crash."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

__all__ = ["checksum_of", "replace", "sync", "write_all"]

CHUNK_BYTES = 1 << 20


def write_all(file: int, data: bytes) -> None:
    """Write all data; a single os.write may write only a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync(path: Path) -> None:
    """Return when a file, or the list of a folder's files, is safe on disk."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def replace(source: Path, target: Path) -> None:
    """Rename a file atomically: the target is either the old or the new file, never a part."""
    sync(source)
    source.replace(target)
    sync(target.parent)


def checksum_of(path: Path, size: int) -> int:
    """Return the CRC-32 of a file's first `size` bytes; zlib reads about 1 GB per second."""
    checksum = 0
    with path.open("rb") as file:
        while size > 0 and (data := file.read(min(size, CHUNK_BYTES))):
            checksum = zlib.crc32(data, checksum)
            size -= len(data)
    return checksum
