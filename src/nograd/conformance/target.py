"""Target: the examined server, behind one function that sends a request and returns the response."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import quote

from nograd.client.http import Answer
from nograd.client.requests import example_request

__all__ = ["Send", "ServerTarget", "examined"]

Send: TypeAlias = Callable[[str, str, bytes, Mapping[str, str]], Answer]
"""Method, path, body, headers -> response. The function never raises for an error of the server."""

JSON: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server, one of its models, and a request that this model should answer."""

    send: Send
    model: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    """Extensions that the server announces."""

    request: Mapping[str, Any] = field(default_factory=dict)
    """A request for the model; empty if the metadata name no inputs."""

    base: Answer | None = None
    """The response to `request` if its status is 200, else None."""

    @property
    def path(self) -> str:
        """Path of the model."""
        return f"/v2/models/{quote(self.model, safe='')}"

    @property
    def inputs(self) -> Sequence[Mapping[str, Any]]:
        """Inputs of the request."""
        found: Sequence[Mapping[str, Any]] = self.request["inputs"]
        return found

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions in the metadata."""
        found = self.metadata.get("versions")
        return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()

    @property
    def is_batched(self) -> bool:
        """True if the first dimension of every input may vary."""
        shapes = [each.get("shape") for each in self.metadata.get("inputs", [])]
        return all(isinstance(shape, list) and shape[:1] == [-1] for shape in shapes)

    def get(self, path: str) -> Answer:
        """Return the response to a GET."""
        return self.send("GET", path, b"", {})

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the response to a POST; the body is JSON unless the headers say otherwise."""
        return self.send("POST", path, body, JSON if headers is None else headers)

    def infer(self, body: Mapping[str, Any]) -> Answer:
        """Return the response to an infer call with JSON."""
        return self.post(f"{self.path}/infer", json.dumps(body, ensure_ascii=False).encode())

    def with_input(self, at: int = 0, **changes: Any) -> dict[str, Any]:
        """Return the request with one input changed."""
        return {"inputs": [{**each, **changes} if place == at else each for place, each in enumerate(self.inputs)]}

    def of_kind(self, *datatypes: str) -> int | None:
        """Return the position of the first input with one of these datatypes."""
        return next((at for at, each in enumerate(self.inputs) if each["datatype"] in datatypes), None)


def examined(send: Send, model: str, request: Mapping[str, Any] | None = None) -> ServerTarget:
    """Return a server as a target, with its metadata, its extensions and the model's metadata.

    Args:
        send: function that sends a request.
        model: name of the model.
        request: a request that the model answers; None: made from its metadata.
    """
    target = ServerTarget(send, model)
    server_metadata, metadata = target.get("/v2").json, target.get(target.path).json
    extensions = server_metadata.get("extensions") if isinstance(server_metadata, dict) else None
    known = frozenset(each for each in extensions if isinstance(each, str)) if isinstance(extensions, list) else frozenset()
    metadata = metadata if isinstance(metadata, dict) else {}
    if request is None:
        try:
            request = example_request(metadata)
        except (KeyError, TypeError, AttributeError):
            request = {}
    request = {"inputs": request["inputs"]} if request.get("inputs") else {}
    target = replace(target, metadata=metadata, extensions=known, request=request)
    base = target.infer(request) if request else None
    return replace(target, base=base if base is not None and base.status == 200 else None)
