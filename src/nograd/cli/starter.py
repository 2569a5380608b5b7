"""The files that `nograd init` writes: a model, a test, and settings with their schema. They run as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from nograd.errors import ConfigError
from nograd.server.settings.schema import config_schema

__all__ = ["starter_files", "write_starter"]

NAMES = ("model.py", "nograd.toml", "test_model.py")

SCHEMA = "nograd.schema.json"
"""The schema that the first line of `nograd.toml` names. It is the one of this version, and no editor has to fetch it."""


def starter_files() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    folder = files("nograd.cli") / "starter_files"
    texts = {name: (folder / f"{name}.txt").read_text("utf-8") for name in NAMES}
    return {**texts, SCHEMA: f"{json.dumps(config_schema(), indent=1)}\n"}


def write_starter(folder: Path) -> list[Path]:
    """Write the files into a folder, which is made if it does not exist, and return their paths. No file is overwritten.

    Raises:
        ConfigError: one of the files exists, or the folder cannot be written.
    """
    if existing := [name for name in (*NAMES, SCHEMA) if (folder / name).exists() or (folder / name).is_symlink()]:
        raise ConfigError(f"{folder} already has {', '.join(existing)}; give another folder, or remove them: nograd init DIR")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in starter_files().items():
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
            written.append(folder / name)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    return written
