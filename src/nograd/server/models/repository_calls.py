"""The calls of the repository extension: from a model's name and a JSON body to the value of the response's body."""

from __future__ import annotations

from typing import Any

import msgspec

from nograd.errors import ProtocolError
from nograd.server.models.repository import Repository

__all__ = ["change_model", "list_models", "refuse_parameters"]

HARMLESS = "unload_dependents"
"""A parameter without effect here: no model depends on another."""


class _IndexRequest(msgspec.Struct, frozen=True):
    ready: bool = False


class _ChangeRequest(msgspec.Struct, frozen=True):
    parameters: dict[str, Any] = {}


async def list_models(repository: Repository, body: bytes) -> Any:
    """Return the models that are served or can be loaded."""
    repository.require()
    return await repository.index(ready=_read(body, _IndexRequest).ready)


async def change_model(repository: Repository, name: str, what: str, body: bytes) -> Any:
    """Load or unload a model.

    Args:
        repository: repository of the server.
        name: name of the model.
        what: `load` or `unload`.
        body: body of the request; may be empty.
    """
    repository.require()
    refuse_parameters(_read(body, _ChangeRequest).parameters)
    await (repository.load(name) if what == "load" else repository.unload(name))
    return {}


def refuse_parameters(parameters: Any) -> None:
    """Raise ProtocolError if a client sends a model's files or configuration, which could contain code."""
    for name in parameters:
        if name != HARMLESS:
            raise ProtocolError(
                f"parameter {name!r} is not supported: models are loaded from the server's configuration and "
                "folder; change them there, and load again"
            )


def _read(body: bytes, kind: type[Any]) -> Any:
    if not body.strip():
        return kind()
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the body does not fit this call: {error}") from None
