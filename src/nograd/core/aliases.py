"""Settings with two names."""

from __future__ import annotations

from typing import TypeVar

from nograd.errors import ConfigError

__all__ = ["one_of"]

Value = TypeVar("Value")


def one_of(name: str, value: Value, other_name: str, other: Value, *, default: Value) -> Value:
    """Return the value of a setting with two names. At most one of them may be set.

    Raises:
        ConfigError: both are set, with different values.
    """
    if value != default and other not in (default, value):
        raise ConfigError(f"{name} is {value!r} and {other_name} is {other!r}; they are aliases: give one of them")
    return value if value != default else other
