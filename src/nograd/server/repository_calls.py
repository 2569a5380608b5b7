"""The repository extension's calls over HTTP: a path and a body in, what the answer's body holds out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import msgspec

from nograd.errors import ModelNotFoundError, ProtocolError
from nograd.server.repository import Repository

__all__ = ["PREFIX", "ROUTES", "RepositoryCall", "refuse_parameters", "repository_call"]

PREFIX = "/v2/repository/"

ROUTES = (f"{PREFIX}index", f"{PREFIX}models/{{model}}/load", f"{PREFIX}models/{{model}}/unload")

RepositoryCall = Callable[[Repository, bytes], Awaitable[Any]]

HARMLESS = "unload_dependents"
"""A parameter that says nothing here: no model depends on another."""


class _Index(msgspec.Struct, frozen=True):
    ready: bool = False


class _Change(msgspec.Struct, frozen=True):
    parameters: dict[str, Any] = {}


def repository_call(raw: bytes) -> RepositoryCall:
    """Return what a path below `PREFIX` asks for; the repository's own name, which Triton allows before it, may be there.

    Args:
        raw: the path as it was sent; names may be percent-encoded.

    Raises:
        ModelNotFoundError: there is no such path.
    """
    path = raw.split(b"?")[0].decode("latin-1")
    words = path.removeprefix(PREFIX).split("/")
    for asked in (words, words[1:]):
        if asked == ["index"]:
            return _index
        if len(asked) == 3 and asked[0] == "models" and asked[1] and asked[2] in ("load", "unload"):
            return partial(_change, unquote(asked[1]), asked[2])
    raise ModelNotFoundError(f"there is nothing at {unquote(path)}; the repository has {', '.join(ROUTES)}")


async def _index(repository: Repository, body: bytes) -> Any:
    repository.require()
    return await repository.index(ready=_read(body, _Index).ready)


async def _change(name: str, what: str, repository: Repository, body: bytes) -> Any:
    repository.require()
    refuse_parameters(_read(body, _Change).parameters)
    await (repository.load(name) if what == "load" else repository.unload(name))
    return {}


def refuse_parameters(parameters: Any) -> None:
    """Raise ProtocolError where a client sends along what a model should be: that could be any code."""
    for name in parameters:
        if name != HARMLESS:
            raise ProtocolError(
                f"parameter {name!r} is not taken: models are loaded as the server has them, from its configuration and "
                "its folder; change them there, and load again"
            )


def _read(body: bytes, kind: type[Any]) -> Any:
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the body is not what this call takes: {error}") from None
