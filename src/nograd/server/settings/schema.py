"""JSON Schema of `nograd.toml`, for validation and completion in editors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from nograd.core.units import amount_pattern
from nograd.server.settings.definition import Setting, settings_by_name
from nograd.server.settings.keys import value_text
from nograd.server.settings.model_config import HELP, ModelConfig

__all__ = ["SCHEMA_URL", "config_schema"]

SCHEMA_URL = "https://nograd.readthedocs.io/reference/nograd.schema.json"
"""Address of the published schema."""

TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def config_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of the file that `nograd serve --config` reads."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URL,
        "title": "nograd.toml: settings of nograd serve",
        "type": "object",
        "properties": {
            **_properties(settings_by_name().values()),
            "models": {"type": "array", "description": "Models to serve, one table each.", "items": _model()},
        },
        "additionalProperties": False,
    }


def _properties(settings: Iterable[Setting], about: str = "{group}: {help}") -> dict[str, dict[str, Any]]:
    """Return the properties of settings by key, and those of earlier versions by field."""
    found: dict[str, dict[str, Any]] = {}
    for each in settings:
        text = about.format(group=each.group, help=each.help, key=each.key)
        found[each.key] = _property(each, text)
        if each.key != each.name:
            found[each.name] = {"type": _type(each.type), "description": f"Write {each.key} instead.", "deprecated": True}
    return found


def _property(setting: Setting, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _type(setting.type), "description": text}
    if setting.unit:
        found |= {"type": "string", "pattern": amount_pattern(setting.unit)}
    if setting.is_list:
        found["type"] = ["array", "string"]
        found["items"] = {"type": "string"}
    if setting.default is not None:
        found["default"] = value_text(setting, setting.default)
    if setting.choices:
        found["enum"] = list(setting.choices)
    return found


def _model() -> dict[str, Any]:
    types, server = get_type_hints(ModelConfig), settings_by_name()
    properties: dict[str, Any] = {}
    for each in fields(ModelConfig):
        if each.name in HELP:
            properties[each.name] = {"type": _type(types[each.name]), "description": HELP[each.name]}
        else:
            setting = replace(server[each.name], default=None)
            properties |= _properties([setting], "Overrides the server's {key}. {help}")
    required = [each.name for each in fields(ModelConfig) if each.default is MISSING]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _type(hint: Any) -> str:
    options = [each for each in get_args(hint) or (hint,) if each is not NoneType]
    return TYPES[options[0]]
