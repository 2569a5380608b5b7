"""Keys and values of settings: as users write them (`timeout = "30s"`), and as fields of `ServeConfig` (`timeout_s`). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nograd.core.units import amount_of, amount_text, wanted_amount
from nograd.errors import ConfigError
from nograd.server.settings.definition import Setting, settings_by_name

__all__ = ["example_of", "field_of", "key_of", "note_old_keys", "parse_value", "read_keys", "value_text"]


def key_of(field: str) -> str:
    """Return the key of a field of `ServeConfig` or `ModelConfig`.

    >>> key_of("timeout_s"), key_of("cache_mb"), key_of("name")
    ('timeout', 'cache_size', 'name')
    """
    found = settings_by_name().get(field)
    return field if found is None else found.key


def field_of(key: str) -> str:
    """Return the field of a key; fields are keys of earlier versions, and themselves.

    >>> field_of("timeout"), field_of("timeout_s"), field_of("unknown")
    ('timeout_s', 'timeout_s', 'unknown')
    """
    return next((each.name for each in settings_by_name().values() if each.key == key), key)


def value_text(setting: Setting, value: Any) -> Any:
    """Return the value of a field as users write it: an amount with its unit, a list, or the value itself."""
    if setting.is_list:
        return [word for part in str(value).split(",") if (word := part.strip())]
    return amount_text(value, setting.unit) if setting.unit and value is not None else value


def parse_value(setting: Setting, value: object, name: str) -> Any:
    """Return the value of a field.

    Args:
        setting: the setting.
        value: as users write it: an amount, a list of texts, or a value that is not converted.
        name: key or option in the error message.

    Raises:
        ConfigError: the value is not an amount.
    """
    if setting.is_list and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    if not setting.unit or value is None:
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be {wanted_amount(setting.unit)}, in quotes")
    found = amount_of(value, name, setting.unit)
    return int(found) if setting.type is int else found


def note_old_keys(keys: Iterable[str], where: str) -> list[str]:
    """Return a note for each key of an earlier version, whose name holds the unit.

    >>> note_old_keys(["port", "timeout_s"], "nograd.toml")
    ['nograd.toml: timeout_s is an old spelling; write timeout = "30s"']
    """
    settings = settings_by_name()
    found = [settings[key] for key in keys if key in settings and settings[key].key != key]
    return [f'{where}: {each.name} is an old spelling; write {each.key} = "{example_of(each)}"' for each in found]


def example_of(setting: Setting) -> str:
    """Return an amount of the setting's unit, for notes."""
    return {"s": "30s", "ms": "2ms"}.get(setting.unit, "64MiB")


def read_keys(content: Mapping[str, Any], where: str, fields: frozenset[str]) -> dict[str, Any]:
    """Return a table of a file by field; unknown keys and values of earlier versions stay as they are.

    Args:
        content: the table by key.
        where: place of the table in error messages.
        fields: fields that the table can have.

    Raises:
        ConfigError: a value is not an amount, or two keys are the same setting.
    """
    found: dict[str, Any] = {}
    for key, value in content.items():
        field = field_of(key)
        setting = settings_by_name().get(field)
        if setting is None or field not in fields:
            found[key] = value
            continue
        if field in found:
            raise ConfigError(f"{where} has {setting.key!r} and {field!r}, which are the same setting; keep {setting.key!r}")
        is_converted = key != field or setting.is_list
        found[field] = parse_value(setting, value, f"{where}: {key}") if is_converted else value
    return found
