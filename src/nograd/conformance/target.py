"""Target: the server that is examined, seen through one function that sends a request and returns the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from urllib.parse import quote

from nograd.client.http import Answer
from nograd.client.requests import example_request

__all__ = ["Send", "Target", "examined"]

Send: TypeAlias = Callable[[str, str, bytes, Mapping[str, str]], Answer]
"""Method, path, body, headers -> what came back; never raises for what a server does."""

JSON: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Target:
    """A server, one of its models, and a request that this model should answer."""

    send: Send
    model: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    """As the server announces them."""

    request: Mapping[str, Any] = field(default_factory=dict)
    """Empty where the metadata name no inputs."""

    base: Answer | None = None
    """The answer to `request`, if it was a good one."""

    @property
    def path(self) -> str:
        """Of the model."""
        return f"/v2/models/{quote(self.model, safe='')}"

    @property
    def inputs(self) -> Sequence[Mapping[str, Any]]:
        """Of the request."""
        found: Sequence[Mapping[str, Any]] = self.request["inputs"]
        return found

    @property
    def versions(self) -> tuple[str, ...]:
        """That the metadata list."""
        found = self.metadata.get("versions")
        return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()

    @property
    def is_batched(self) -> bool:
        """Whether every input's first dimension may vary."""
        shapes = [each.get("shape") for each in self.metadata.get("inputs", [])]
        return all(isinstance(shape, list) and shape[:1] == [-1] for shape in shapes)

    def get(self, path: str) -> Answer:
        """Return the answer to a GET."""
        return self.send("GET", path, b"", {})

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a POST, of JSON unless the headers say otherwise."""
        return self.send("POST", path, body, JSON if headers is None else headers)

    def infer(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to an infer call with JSON."""
        return self.post(f"{self.path}/infer", json.dumps(body, ensure_ascii=False).encode())

    def with_input(self, at: int = 0, **changes: Any) -> dict[str, Any]:
        """Return the request with one input changed."""
        return {"inputs": [{**each, **changes} if place == at else each for place, each in enumerate(self.inputs)]}

    def of_kind(self, *datatypes: str) -> int | None:
        """Return the position of the first input of one of these datatypes."""
        return next((at for at, each in enumerate(self.inputs) if each["datatype"] in datatypes), None)


def examined(send: Send, model: str, request: Mapping[str, Any] | None = None) -> Target:
    """Return a server as a target, having asked it what it is and what its model takes.

    Args:
        send: sends a request.
        model: name of the model.
        request: one that the model answers; None: made of its metadata.
    """
    target = Target(send, model)
    told, metadata = target.get("/v2").json, target.get(target.path).json
    extensions = told.get("extensions") if isinstance(told, dict) else None
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
