"""Where a load goes, as bytes: an address, and whole requests that are sent over and over."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nograd.client.http import ServerSubject, server_subject
from nograd.client.requests import request_of, varied
from nograd.errors import ConfigError, UnavailableError

__all__ = ["Target", "bodies_of", "target_of"]

NUM_MADE = 1024
"""Different requests that are made of a model's metadata."""


@dataclass(frozen=True, slots=True)
class Target:
    """Requests that are ready to be written to a connection."""

    host: str
    port: int
    requests: Sequence[bytes]
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str, bodies: Sequence[bytes]) -> Target:
        """Return a target that POSTs JSON bodies to a URL, in turn.

        Raises:
            ConfigError: it is no URL of http or https, or there is no body.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the URL is {url!r}; it must be http://host:port/path")
        if not bodies:
            raise ConfigError("there is nothing to send: the data hold no request")
        head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\ncontent-length: "
        )
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
        return cls(parts.hostname, parts.port or (443 if tls else 80), requests, tls)


def target_of(url: str, data: Path | None = None) -> tuple[Target, str]:
    """Return what to send to a server's model, and in words what that is.

    Args:
        url: of a server, or of one of its models.
        data: a file with requests (see `bodies_of`); None: requests made of the model's metadata.

    Raises:
        ModelLoadError: nothing answers there, or its models are not known.
        ConfigError: there is nothing to send.
        UnavailableError: the first request is not answered 200.
    """
    server = server_subject(url)
    if data is not None:
        bodies = bodies_of(data.read_bytes(), server.metadata)
        said = f"{len(bodies)} requests of {data.name}"
    else:
        bodies = _made(server)
        said = f"{len(bodies)} different requests of one row, made of the model's metadata"
    answer = server.ask("POST", server.infer_path, bodies[0])
    if answer.status != 200:
        raise UnavailableError(
            f"{server.url}{server.infer_path} answers the first request with {answer.status or 'nothing'}: "
            f"{answer.sentence or answer.text}; give requests that it takes with --data"
        )
    return Target.of(server.url + server.infer_path, bodies), f"{server.model} at {server.url}, {said}"


def _made(server: ServerSubject) -> list[bytes]:
    request = request_of(server)
    if request is None:
        raise ConfigError(f"model {server.model!r} tells no inputs, so that no request can be made: give some with --data")
    made = (json.dumps(varied(request, number)).encode() for number in range(NUM_MADE))
    return list(dict.fromkeys(made))


def bodies_of(text: bytes, metadata: Mapping[str, Any]) -> list[bytes]:
    """Return one request body for each line that is not empty.

    Args:
        text: lines of JSON, each an infer request; or lines of plain text for a model whose one input is text.
        metadata: the model's.

    Raises:
        ConfigError: lines are no requests, and the model does not take text.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError("the data hold no line")
    if _is_request(lines[0]):
        return lines
    inputs = metadata.get("inputs", [])
    if len(inputs) != 1 or inputs[0].get("datatype") != "BYTES":
        taken = ", ".join(f"{each.get('name')} {each.get('datatype')}" for each in inputs) or "nothing that is told"
        raise ConfigError(
            'the first line is no request (a JSON object with "inputs"), and plain text is only for a model with one input of '
            f"text; this one takes {taken}"
        )
    name, shape = inputs[0]["name"], [1] * max(len(inputs[0]["shape"]), 1)
    one = {"name": name, "datatype": "BYTES", "shape": shape}
    return [json.dumps({"inputs": [{**one, "data": [line.decode("utf-8", "replace")]}]}).encode() for line in lines]


def _is_request(line: bytes) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and "inputs" in found
