"""Times and sizes as users write them: `90s`, `2ms`, `4GB`, `512MiB`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from nograd.errors import ConfigError

__all__ = ["amount_of", "amount_pattern", "amount_text", "bytes_of", "seconds_of", "wanted_amount"]

TIMES: Mapping[str, Fraction] = {
    "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "min": Fraction(60), "h": Fraction(3600),
    "d": Fraction(86400),
}  # fmt: skip
"""Unit -> seconds."""

SIZES: Mapping[str, Fraction] = {
    "B": Fraction(1), "kB": Fraction(10**3), "MB": Fraction(10**6), "GB": Fraction(10**9), "KiB": Fraction(1 << 10),
    "MiB": Fraction(1 << 20), "GiB": Fraction(1 << 30),
}  # fmt: skip
"""Unit -> bytes."""

_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)")


def amount_pattern(unit: str) -> str:
    """Return a regular expression of the texts that `amount_of` takes for a unit, for schemas."""
    return rf"^(\d+(\.\d*)?|\.\d+)\s*({'|'.join(_units(unit))})?$"


def amount_of(text: str, name: str, unit: str) -> float:
    """Parse a time or a size; return it in a unit. A number without a unit is in seconds or bytes.

    >>> amount_of("2m", "timeout", "s"), amount_of("2ms", "wait", "ms"), amount_of("64MiB", "size", "B")
    (120.0, 2.0, 67108864.0)

    Args:
        text: the text to parse.
        name: name of the setting in the error message.
        unit: unit of the result; it also decides whether the text is a time or a size.

    Raises:
        ConfigError: the text is not an amount.
    """
    units, default = _units(unit), "s" if unit in TIMES else "B"
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or (found[2] or default) not in units:
        raise ConfigError(f"{name} is {text!r}; it must be {wanted_amount(unit)}")
    return float(Fraction(found[1].rstrip(".")) * units[found[2] or default] / units[unit])


def amount_text(value: float, unit: str) -> str:
    """Return an amount as text that `amount_of` reads as the same number; bytes in the largest unit without a remainder.

    >>> amount_text(2.5, "ms"), amount_text(30.0, "s"), amount_text(67108864, "B"), amount_text(64.0, "MB")
    ('2.5ms', '30s', '64MiB', '64MB')
    """
    if unit == "B":
        whole = [name for name in ("GiB", "MiB", "KiB") if value and value % int(SIZES[name]) == 0]
        if whole:
            return f"{int(value) // int(SIZES[whole[0]])}{whole[0]}"
    digits = format(Decimal(repr(value)), "f")
    return f"{digits.removesuffix('.0')}{unit}"


def wanted_amount(unit: str) -> str:
    """Return what an error message says that an amount must be."""
    if unit in TIMES:
        return "a time such as 2ms or 1s" if unit == "ms" else "a time such as 90s or 2m"
    return "a size such as 4GB or 512MiB"


def seconds_of(text: str, name: str) -> float:
    """Parse a time such as `90`, `90s` or `2m`; return seconds. Arguments and errors as for `amount_of`."""
    return amount_of(text, name, "s")


def bytes_of(text: str, name: str) -> int:
    """Parse a size such as `4GB` or `512MiB`; return bytes. Arguments and errors as for `amount_of`."""
    return int(amount_of(text, name, "B"))


def _units(unit: str) -> Mapping[str, Fraction]:
    return TIMES if unit in TIMES else SIZES
