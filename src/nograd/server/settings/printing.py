"""Effective settings as TOML for `nograd serve --config`, with a comment on the origin of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nograd.runtime.redaction import mask_url
from nograd.server.settings.definition import ServeConfig, settings_by_name
from nograd.server.settings.keys import key_of, value_text
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import DEFAULT, MODELS, ResolvedSettings

__all__ = ["to_toml"]


def to_toml(settings: ResolvedSettings) -> str:
    """Return all settings as TOML, with masked passwords in URLs. Unset settings are comments."""
    lines = [*_server(settings), *_models(settings)]
    return "\n".join(lines) + "\n"


def _server(settings: ResolvedSettings) -> Iterator[str]:
    for each in fields(ServeConfig):
        value, origin = getattr(settings.config, each.name), settings.origins.get(each.name, DEFAULT)
        setting = settings_by_name()[each.name]
        if value is None:
            yield f"# {setting.key} is not set  # {origin}"
        else:
            yield f"{setting.key} = {_value(value_text(setting, value))}  # {origin}"


def _models(settings: ResolvedSettings) -> Iterator[str]:
    origin = settings.origins.get(MODELS, DEFAULT)
    for model in settings.models:
        yield from ("", f"[[models]]  # {origin}")
        for each in fields(ModelConfig):
            value = getattr(model, each.name)
            if value not in (None, ""):
                setting = settings_by_name().get(each.name)
                yield f"{key_of(each.name)} = {_value(value if setting is None else value_text(setting, value))}"


def _value(value: float | str | Path | Sequence[Any]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(mask_url(str(value)), ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # TOML escapes as JSON does, and DEL, too
    return f"[{', '.join(map(_value, value))}]"
