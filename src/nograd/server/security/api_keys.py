"""API keys. Only digests of keys are stored, and they are compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nograd.errors import ConfigError, UnauthorizedError
from nograd.server.settings.definition import AREAS
from nograd.server.telemetry.logs import event

__all__ = ["ALWAYS_OPEN", "AREA_PATHS", "VARIABLE", "ApiKeyGate", "ApiKeys", "open_gate", "parse_keys"]

VARIABLE = "NOGRAD_API_KEYS"
"""Environment variable with keys, separated by commas or newlines."""

ALWAYS_OPEN = frozenset(("/health", "/healthz", "/v2/health/live", "/v2/health/ready", "/"))
"""Paths without a key: health probes, and the live page, which prompts for a key itself."""

PAGE_FILES = "/page/"

AREA_PATHS = dict(zip(AREAS, (frozenset(("/metrics",)), frozenset(("/live.json",))), strict=True))
"""Paths that `open_without_key` opens, by area."""

HOW = "send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"

_NAMED = re.compile(r"([\w.@-]+):\s+(\S+)")

_EMPTY = re.compile(r"([\w.@-]*:)?\s*(\"\"|\'\'|)")
"""A line without a key: only a name, or empty quotes."""


@dataclass(frozen=True, slots=True)
class _Key:
    name: str
    digest: bytes


class ApiKeys:
    """The valid API keys of a server.

    Args:
        keys: keys by name.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = [_Key(name, _digest(key.encode())) for name, key in keys.items()]

    def __len__(self) -> int:
        return len(self._keys)

    def name_of(self, given: bytes) -> str | None:
        """Return the name of a key; None if it is unknown. The time does not depend on the key."""
        digest = _digest(given)
        found: str | None = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key.name
        return found


class ApiKeyGate:
    """Accepts or rejects requests by API key.

    Args:
        keys: valid keys; None accepts all requests.
        open_areas: words of `config.AREAS` that need no key.
    """

    def __init__(self, keys: ApiKeys | None, open_areas: Iterable[str] = ()) -> None:
        self._keys = keys
        self._open = ALWAYS_OPEN.union(*(AREA_PATHS[area] for area in open_areas))

    @property
    def is_open(self) -> bool:
        """Whether no keys are needed."""
        return self._keys is None

    @property
    def size(self) -> int:
        """Number of keys."""
        return 0 if self._keys is None else len(self._keys)

    def needs_key(self, path: str) -> bool:
        """Return whether a path needs a key."""
        return not (self._keys is None or path in self._open or path.startswith(PAGE_FILES))

    def enter(self, headers: Iterable[tuple[bytes, bytes]], path: str) -> str | None:
        """Return the name of a request's key; None if it needs none.

        Args:
            headers: headers with lower-case names.
            path: path without the query.

        Raises:
            UnauthorizedError: the key is missing or unknown.
        """
        if self._keys is None or not self.needs_key(path):
            return None
        given = _keys_of(headers)
        for key in given:
            if (name := self._keys.name_of(key)) is not None:
                return name
        wrong = "this API key is unknown" if given else "this server needs an API key"
        raise UnauthorizedError(f"{wrong}; {HOW}")


def _keys_of(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the keys in a request's headers."""
    found: list[bytes] = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append(value.strip())
        elif name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                found.append(rest.strip())
    return [key for key in found if key]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


# -- sources of keys


def open_gate(file: str, open_areas: str, environment: Mapping[str, str]) -> ApiKeyGate:
    """Create the gate of a server from its settings.

    Args:
        file: file with keys; empty: none.
        open_areas: words of `config.AREAS`, separated by commas.
        environment: may contain VARIABLE.

    Raises:
        ConfigError: the file cannot be read or contains no key, a line is not a key, or the variable is set and empty.
    """
    listed = environment.get(VARIABLE)
    if listed is not None and not listed.strip():
        raise ConfigError(f"{VARIABLE} is empty; it must contain a key, such as NAME: KEY; unset it to serve without keys")
    areas = [word.strip() for word in open_areas.split(",") if word.strip()]
    if not file and listed is None:
        return ApiKeyGate(None, areas)
    keys = {} if not file else parse_keys(_read(file), file)
    if listed is not None:
        more = parse_keys(listed.replace(",", "\n"), VARIABLE)
        keys |= {(name if name not in keys else f"{name} of {VARIABLE}"): key for name, key in more.items()}
    return ApiKeyGate(ApiKeys(keys), areas)


def _read(file: str) -> str:
    try:
        text, mode = Path(file).read_text("utf-8"), Path(file).stat().st_mode
    except OSError as error:
        raise ConfigError(f"the API keys cannot be read from {file!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the API keys cannot be read from {file!r}: the file is not UTF-8 text") from None
    if mode & stat.S_IROTH:
        reason = "other users of this machine can read the API keys; run chmod o-r on the file"
        event("keys_readable", logging.WARNING, file=file, mode=f"{stat.S_IMODE(mode):04o}", reason=reason)
    return text


def parse_keys(text: str, source: str) -> dict[str, str]:
    """Parse keys by name: one `KEY` or `NAME: KEY` per line; empty lines and lines that start with # are ignored.

    Args:
        text: content of the file.
        source: name of the source in errors, which never contain keys.

    Raises:
        ConfigError: a line is not a key or has a name without a key, two lines have the same name, or there is no key.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        if _EMPTY.fullmatch(said):
            raise ConfigError(f"line {number} of {source} has an empty key; a line is KEY or NAME: KEY")
        named = _NAMED.fullmatch(said)
        name, key = named.groups() if named else (f"key-{number}", said)
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"line {number} of {source} is not an API key; a line is KEY or NAME: KEY, in ASCII, without spaces"
            )
        if name in found:
            raise ConfigError(f"line {number} of {source} repeats the name {name!r}; each key needs its own name")
        found[name] = key
    if not found:
        raise ConfigError(f"{source} contains no API key; a line is KEY or NAME: KEY")
    return found
