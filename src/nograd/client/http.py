"""A small HTTP client for checks, and ServerSubject: a running server, one of its models, and a request that it answers.

Every wait is bounded. What the network does to a request is an answer, too: status 0, with the error as its text.
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
    """What came back."""

    status: int
    """0: nothing did, `text` says why."""

    headers: Mapping[str, str]
    """By lower-case name."""

    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none."""
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
        """What a refusal says in the protocol's `error`; empty where it does not."""
        found = self.json
        return found["error"] if isinstance(found, dict) and isinstance(found.get("error"), str) else ""


@dataclass(frozen=True, slots=True)
class ServerSubject:
    """A server that speaks the Open Inference Protocol, and one of its models."""

    url: str
    """Scheme, host and port."""

    model: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The model's, empty where it gave none."""

    server: str = ""
    """The server's name, as its metadata say."""

    example: Mapping[str, Any] | None = None
    """A request that the server itself shows."""

    timeout_s: float = TIMEOUT_S

    @property
    def infer_path(self) -> str:
        """Where the model answers."""
        return f"{self.model_path}/infer"

    @property
    def model_path(self) -> str:
        """Where the model's metadata are."""
        return f"/v2/models/{quote(self.model, safe='')}"

    def get(self, path: str) -> Answer:
        """Return the answer to a GET."""
        return self.ask("GET", path)

    def infer(self, body: Mapping[str, Any]) -> Answer:
        """Return the answer to an infer call."""
        return self.ask("POST", self.infer_path, json.dumps(body).encode())

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a request whose body is JSON; never raises for what a server or network does."""
        return self.send(method, path, body, {"Content-Type": "application/json", **(headers or {})})

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Return the answer to one request on a connection of its own, with these headers and no others of its own making."""
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
    """Return the answer to the request that was sent on a connection."""
    reply = connection.getresponse()
    body = reply.read(MAX_ANSWER_BYTES)
    headers = {name.lower(): value for name, value in reply.getheaders()}
    return Answer(reply.status, headers, body, time.monotonic() - begun)


def server_subject(url: str, *, timeout_s: float = TIMEOUT_S) -> ServerSubject:
    """Ask a server what it is and what it serves.

    Args:
        url: of the server, whose first model is taken, or of one model: `http://host:8000/v2/models/NAME`.
        timeout_s: seconds that one request may take.

    Raises:
        ConfigError: it is no URL of http or https.
        ModelLoadError: nothing answers there, or nothing tells which models there are.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the URL is {url!r}; it must be http://host:port, or http://host:port/v2/models/NAME")
    base = ServerSubject(f"{parts.scheme}://{parts.netloc}", "", timeout_s=timeout_s)
    answer = base.get("/v2")
    if answer.status == 0:
        raise ModelLoadError(f"nothing answers at {base.url}: {answer.text}")
    told = answer.json if isinstance(answer.json, dict) else {}
    live = base.get("/live.json").json
    models = live.get("models") if isinstance(live, dict) else None
    shown = {str(each["name"]): each for each in models or [] if isinstance(each, dict) and "name" in each}
    model = _named(parts.path) or next(iter(shown), "") or _indexed(base)
    if not model:
        raise ModelLoadError(f"{base.url} does not list its models; give the model's own URL: {base.url}/v2/models/NAME")
    found = ServerSubject(base.url, model, server=str(told.get("name", "")), timeout_s=timeout_s)
    metadata = found.get(found.model_path)
    if shown and model not in shown and metadata.status == 404:
        raise ModelLoadError(f"{base.url} has no model {model!r}; it serves {', '.join(map(repr, shown))}")
    known = metadata.json if metadata.status == 200 and isinstance(metadata.json, dict) else {}
    return ServerSubject(found.url, model, known, found.server, shown.get(model, {}).get("example"), timeout_s)


def _named(path: str) -> str:
    """Return the model that a path names."""
    pieces = path.strip("/").split("/")
    return unquote(pieces[2]) if len(pieces) >= 3 and pieces[:2] == ["v2", "models"] else ""


def _indexed(base: ServerSubject) -> str:
    """Return the first model of the protocol's repository extension."""
    listed = base.ask("POST", "/v2/repository/index", b"{}").json
    return str(listed[0].get("name", "")) if isinstance(listed, list) and listed and isinstance(listed[0], dict) else ""
