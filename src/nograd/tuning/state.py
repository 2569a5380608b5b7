"""Save the state of an interrupted run for the next one: built files and measured rounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nograd.tuning.values import Candidate

__all__ = ["SavedState"]


class SavedState:
    """A JSON file next to the built files. It is ignored if the model, sample, machine or nograd version differs.

    Args:
        folder: folder of the work.
        key: identifies the work; a file with another key is ignored.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._file = folder / "state.json"
        self._content: dict[str, Any] = {"key": key, "built": {}, "race": None}
        try:
            found = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict) and found.get("key") == key:
            self._content = found

    @property
    def race(self) -> Any:
        """The saved race, as `Race.to_json` wrote it; None without measured rounds."""
        return self._content["race"]

    def built(self, candidate: Candidate, path: Path | None) -> tuple[float, int | None, tuple[str, ...]] | None:
        """Return seconds, bytes and notes of a build whose file still exists; else None."""
        known = self._content["built"].get(candidate.variant)
        if known is None or path is None or not path.is_file():
            return None
        return known["build_s"], known["file_bytes"], tuple(known["notes"])

    def note_built(self, candidate: Candidate, build_s: float, file_bytes: int | None, notes: Sequence[str]) -> None:
        """Save the record of a build."""
        self._content["built"][candidate.variant] = {"build_s": build_s, "file_bytes": file_bytes, "notes": list(notes)}
        self._save()

    def note_race(self, race: Any) -> None:
        """Save the measured rounds."""
        self._content["race"] = race
        self._save()

    def _save(self) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(self._content), "utf-8")
        temporary.replace(self._file)
