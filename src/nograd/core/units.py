"""Parsing of times and sizes: `90s`, `2m`, `4GB`, `512MiB`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nograd.errors import ConfigError

__all__ = ["bytes_of", "seconds_of"]

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
BYTES = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


def seconds_of(text: str, name: str) -> float:
    """Parse a time such as `90`, `90s` or `2m`; return seconds.

    Args:
        text: the text to parse.
        name: name of the setting in the error message.

    Raises:
        ConfigError: the text is not a time.
    """
    return _number(text, name, SECONDS, "a time such as 90s or 2m")


def bytes_of(text: str, name: str) -> int:
    """Parse a size such as `4GB` or `512MiB`; return bytes.

    Args:
        text: the text to parse.
        name: name of the setting in the error message.

    Raises:
        ConfigError: the text is not a size.
    """
    return int(_number(text, name, BYTES, "a size such as 4GB or 512MiB"))


def _number(text: str, name: str, units: Mapping[str, float], wanted: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2] not in units:
        raise ConfigError(f"{name} is {text!r}; it must be {wanted}")
    return float(found[1]) * float(units[found[2]])
