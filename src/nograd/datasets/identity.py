"""Identity of a run: its input, options, model and answers. Pure, except for reading a file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

__all__ = ["Identity", "differences", "digest", "file_identity"]

HEAD_BYTES = 1 << 16

Identity: TypeAlias = Mapping[str, Mapping[str, str]]
"""Part of the run (input, options and so on) -> its properties by name."""


def digest(data: bytes) -> str:
    """Return a short digest of bytes."""
    return blake2b(data, digest_size=16).hexdigest()


def file_identity(path: Path) -> dict[str, str]:
    """Return the properties that identify a file: its size, modification time, and first bytes."""
    state = path.stat()
    with path.open("rb") as file:
        head = digest(file.read(HEAD_BYTES))
    written = datetime.fromtimestamp(state.st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return {"size": f"{state.st_size} bytes", "time": f"{written}.{state.st_mtime_ns % 10**9:09d} UTC", "beginning": head}


def differences(then: Identity, now: Identity) -> list[str]:
    """Return the differences of two runs, one phrase each (`max_batch_size was 32 and is 16`); empty for the same run."""
    found = []
    for part in [*then, *(part for part in now if part not in then)]:
        old, new = then.get(part, {}), now.get(part, {})
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                what = name if part == "options" else f"{part}: {name}"
                found.append(f"{what} was {old.get(name, 'absent')} and is {new.get(name, 'absent')}")
    return found
