"""JSON Schema of `nograd.toml`, for validation and completion in editors."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from nograd.server.settings.definition import Setting, settings_by_name
from nograd.server.settings.model_config import HELP, ModelConfig

__all__ = ["config_schema"]

TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def config_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of the file that `nograd serve --config` reads."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nograd.toml: settings of nograd serve",
        "type": "object",
        "properties": {
            **{name: _property(setting) for name, setting in settings_by_name().items()},
            "models": {"type": "array", "description": "Models to serve, one table each.", "items": _model()},
        },
        "additionalProperties": False,
    }


def _property(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _type(setting.type), "description": f"{setting.group}: {setting.help}"}
    if setting.default is not None:
        found["default"] = setting.default
    if setting.choices:
        found["enum"] = list(setting.choices)
    return found


def _model() -> dict[str, Any]:
    types, server = get_type_hints(ModelConfig), settings_by_name()
    properties = {}
    for each in fields(ModelConfig):
        text = HELP[each.name] if each.name in HELP else f"Overrides the server's {each.name}. {server[each.name].help}"
        properties[each.name] = {"type": _type(types[each.name]), "description": text}
    required = [each.name for each in fields(ModelConfig) if each.default is MISSING]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _type(hint: Any) -> str:
    options = [each for each in get_args(hint) or (hint,) if each is not NoneType]
    return TYPES[options[0]]
