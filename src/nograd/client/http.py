"""A small HTTP client for checks, and ServerSubject: a running server, one of its models, and a request that it answers.

Every wait is bounded. A network error is returned as a response with status 0 and the error as its text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from nograd.errors import ConfigError, ModelLoadError

__all__ = ["Answer", "ServerSubject", "read_answer", "server_subject"]

TIMEOUT_S = 30.0

MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    """HTTP status; 0 without a response, with the reason in `text`."""

    headers: Mapping[str, str]
    """Headers by lower-case name."""

    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """The start of the body, in one line."""
        return " ".join(self.body[:200].decode("utf-8", "replace").split())

    @property
    def sentence(self) -> str:
        """The message in the protocol's `error` field; empty without one."""
        found = self.json
        return found["error"] if isinstance(found, dict) and isinstance(found.get("error"), str) else ""


@dataclass(frozen=True, slots=True)
class ServerSubject:
    """A server of the Open Inference Protocol, and one of its models."""

    url: str
    """Scheme, host and port."""

    model: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The model's metadata; empty if the server returned none."""

    server: str = ""
    """The server's name in its metadata."""

    example: Mapping[str, Any] | None = None
    """An example request from the server itself."""

    timeout_s: float = TIMEOUT_S

    @property
    def infer_path(self) -> str:
        """Path of the model's infer calls."""
        return f"{self.model_path}/infer"

    @property
    def model_path(self) -> str:
        """Path of the model's metadata."""
        return f"/v2/models/{quote(self.model, safe='')}"

    def get(self, path: str) -> Answer:
        """Return the response to a GET."""
        return self.ask("GET", path)

    def infer(self, body: Mapping[str, Any]) -> Answer:
        """Return the response to an infer call."""
        return self.ask("POST", self.infer_path, json.dumps(body).encode())

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the response to a request whose body is JSON. It never raises for errors of the server or network."""
        return self.send(method, path, body, {"Content-Type": "application/json", **(headers or {})})

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return the response to one request on a new connection, with exactly these headers."""
        begun = time.monotonic()
        connection = self.connect()
        try:
            connection.request(method, path, body or None, dict(headers))
            return read_answer(connection, begun)
        except (OSError, HTTPException, ValueError) as failure:
            return Answer(0, {}, f"{type(failure).__name__}: {failure}".encode(), time.monotonic() - begun)
        finally:
            connection.close()

    def connect(self) -> HTTPConnection:
        """Return a connection that is not open yet."""
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.timeout_s)


def read_answer(connection: HTTPConnection, begun: float) -> Answer:
    """Return the response to the request that was sent on a connection."""
    reply = connection.getresponse()
    body = reply.read(MAX_ANSWER_BYTES)
    headers = {name.lower(): value for name, value in reply.getheaders()}
    return Answer(reply.status, headers, body, time.monotonic() - begun)


def server_subject(url: str, *, timeout_s: float = TIMEOUT_S) -> ServerSubject:
    """Read a server's metadata and its models.

    Args:
        url: URL of the server, whose first model is used, or of one model: `http://host:8000/v2/models/NAME`.
        timeout_s: maximum seconds of one request.

    Raises:
        ConfigError: the URL is not an http or https URL.
        ModelLoadError: no server answers at the URL, or its models are unknown.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the URL is {url!r}; it must be http://host:port, or http://host:port/v2/models/NAME")
    base = ServerSubject(f"{parts.scheme}://{parts.netloc}", "", timeout_s=timeout_s)
    answer = base.get("/v2")
    if answer.status == 0:
        raise ModelLoadError(f"nothing answers at {base.url}: {answer.text}")
    server_metadata = answer.json if isinstance(answer.json, dict) else {}
    live = base.get("/live.json").json
    models = live.get("models") if isinstance(live, dict) else None
    shown = {str(each["name"]): each for each in models or [] if isinstance(each, dict) and "name" in each}
    model = _model_in(parts.path) or next(iter(shown), "") or _first_indexed(base)
    if not model:
        raise ModelLoadError(f"{base.url} does not list its models; give the model's own URL: {base.url}/v2/models/NAME")
    found = ServerSubject(base.url, model, server=str(server_metadata.get("name", "")), timeout_s=timeout_s)
    metadata = found.get(found.model_path)
    if shown and model not in shown and metadata.status == 404:
        raise ModelLoadError(f"{base.url} has no model {model!r}; it serves {', '.join(map(repr, shown))}")
    known = metadata.json if metadata.status == 200 and isinstance(metadata.json, dict) else {}
    return ServerSubject(found.url, model, known, found.server, shown.get(model, {}).get("example"), timeout_s)


def _model_in(path: str) -> str:
    """Return the model in a path; empty without one."""
    pieces = path.strip("/").split("/")
    return unquote(pieces[2]) if len(pieces) >= 3 and pieces[:2] == ["v2", "models"] else ""


def _first_indexed(base: ServerSubject) -> str:
    """Return the first model of the protocol's repository extension."""
    listed = base.ask("POST", "/v2/repository/index", b"{}").json
    return str(listed[0].get("name", "")) if isinstance(listed, list) and listed and isinstance(listed[0], dict) else ""
