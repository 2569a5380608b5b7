"""Writing so that it is there after a crash."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace", "sync", "write_all"]


def write_all(file: int, data: bytes) -> None:
    """Write all of it; a write may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync(path: Path) -> None:
    """Return when a file, or what a folder lists, is safe on disk."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, at once: there is the old target or the new one, never half of it."""
    sync(source)
    source.replace(target)
    sync(target.parent)
