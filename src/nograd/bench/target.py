"""Target of a load as bytes: an address, and complete requests that are sent repeatedly."""

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
"""Number of different requests that are made from a model's metadata."""


@dataclass(frozen=True, slots=True)
class Target:
    """Requests that are ready to be written to a connection."""

    host: str
    port: int
    requests: Sequence[bytes]
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str, bodies: Sequence[bytes]) -> Target:
        """Return a target that POSTs JSON bodies to a URL, in rotation.

        Raises:
            ConfigError: the URL is not an http or https URL, or there is no body.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the URL is {url!r}; it must be http://host:port/path")
        if not bodies:
            raise ConfigError("there is nothing to send: the data contain no request")
        head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\ncontent-length: "
        )
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
        return cls(parts.hostname, parts.port or (443 if tls else 80), requests, tls)


def target_of(url: str, data: Path | None = None) -> tuple[Target, str]:
    """Return the target for a server's model, and its description in words.

    Args:
        url: URL of a server, or of one of its models.
        data: a file with requests (see `bodies_of`); None: requests made from the model's metadata.

    Raises:
        ModelLoadError: no server answers at the URL, or its models are unknown.
        ConfigError: there is nothing to send.
        UnavailableError: the status of the first response is not 200.
    """
    server = server_subject(url)
    if data is not None:
        bodies = bodies_of(data.read_bytes(), server.metadata)
        said = f"{len(bodies)} requests of {data.name}"
    else:
        bodies = _make_bodies(server)
        said = f"{len(bodies)} different requests of one row, built from the model's metadata"
    answer = server.ask("POST", server.infer_path, bodies[0])
    if answer.status != 200:
        raise UnavailableError(
            f"{server.url}{server.infer_path} answers the first request with {answer.status or 'nothing'}: "
            f"{answer.sentence or answer.text}; give valid requests with --data"
        )
    return Target.of(server.url + server.infer_path, bodies), f"{server.model} at {server.url}, {said}"


def _make_bodies(server: ServerSubject) -> list[bytes]:
    request = request_of(server)
    if request is None:
        raise ConfigError(
            f"the metadata of model {server.model!r} list no inputs, so no request can be built; give requests with --data"
        )
    made = (json.dumps(varied(request, number)).encode() for number in range(NUM_MADE))
    return list(dict.fromkeys(made))


def bodies_of(text: bytes, metadata: Mapping[str, Any]) -> list[bytes]:
    """Return one request body for each line that is not empty.

    Args:
        text: lines of JSON, each an infer request; or lines of plain text for a model whose only input is text.
        metadata: the model's metadata.

    Raises:
        ConfigError: the lines are not requests, and the model does not take text.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError("the data contain no line")
    if _is_request(lines[0]):
        return lines
    inputs = metadata.get("inputs", [])
    if len(inputs) != 1 or inputs[0].get("datatype") != "BYTES":
        taken = ", ".join(f"{each.get('name')} {each.get('datatype')}" for each in inputs) or "unknown inputs"
        raise ConfigError(
            'the first line is not a request (a JSON object with "inputs"), and plain text needs a model with one input of '
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
