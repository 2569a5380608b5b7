"""The HTTP front: one ASGI application over an InferenceService. The same application runs under any ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from math import ceil
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from urllib.parse import unquote

import orjson

from nograd.errors import (
    MethodError,
    ModelError,
    ModelNotFoundError,
    NogradError,
    OverloadedError,
    ProtocolError,
    UnauthorizedError,
    UnsupportedError,
)
from nograd.server.access import CLIENT_LEFT, Facts, http_access, sentence
from nograd.server.asgi import ClientLeftError, ClientWatch, Receive, Scope, Send
from nograd.server.asked import Asked, asked_of
from nograd.server.binary import BinaryAnswer
from nograd.server.bodies import read_body
from nograd.server.embeddings import Embeddings, error_form
from nograd.server.encodings import COMPRESSED_FROM, coding_of, compressed
from nograd.server.logs import failure
from nograd.server.metrics import CONTENT_TYPE
from nograd.server.openapi import document
from nograd.server.pages import PAGE_HEADERS, page_replies
from nograd.server.protocol import status_of
from nograd.server.repository_calls import PREFIX as REPOSITORY
from nograd.server.repository_calls import ROUTES as REPOSITORY_ROUTES
from nograd.server.repository_calls import repository_call
from nograd.server.service import InferenceService
from nograd.server.tracing import Trace, Tracing, timing_for

if TYPE_CHECKING:
    from nograd.server.table import Find

__all__ = ["JSON", "OCTETS", "App", "Headers", "Reply", "answer_reply", "encoded", "error_reply", "header_length", "told"]

Answer = TypeVar("Answer")

Reply: TypeAlias = tuple[int, bytes, bytes]
"""Status, content type, body."""

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"
OCTETS = b"application/octet-stream"

MODEL_ACTIONS = {"": "GET", "ready": "GET", "infer": "POST", "stats": "GET", "config": "GET"}
"""What is below a model's path, and its method."""


CHALLENGE: Headers = ((b"www-authenticate", b'Bearer realm="nograd"'),)


class App:
    """ASGI application: health, metadata, infer, embeddings, metrics, its own description and the live page."""

    def __init__(self, service: InferenceService) -> None:
        self.service = self._service = service
        self.infer_paths = service.infer_paths
        self.max_body_bytes = service.config.max_body_bytes
        self._watch = ClientWatch()
        self._embeddings = Embeddings(service)
        self._pages = page_replies()
        self._gets: dict[str, Callable[[], Reply]] = {
            "/v2": lambda: _json(200, service.metadata()),
            "/v2/": lambda: _json(200, service.metadata()),
            "/v2/health/live": self._server_live,
            "/v2/health/ready": self._server_ready,
            "/v2/models/stats": lambda: _json(200, service.statistics()),
            "/metrics": lambda: (200, CONTENT_TYPE.encode(), service.metrics_text()),
            "/live.json": lambda: _json(200, service.snapshot()),
            "/openapi.json": lambda: _json(200, document(service, self.routes)),
            "/v1/models": lambda: _json(200, self._embeddings.models()),
        }
        self._posts: dict[str, Callable[[Scope, Receive], Awaitable[Reply]]] = {
            "/cache/clear": self._clear_cache,
            "/v1/embeddings": self._embed,
        }

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Method and path of all that is answered; `{model}` and `{version}` stand for names. What GET answers, HEAD does."""
        bases = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        below = [(method, f"{base}/{action}".rstrip("/")) for base in bases for action, method in MODEL_ACTIONS.items()]
        gets = [("GET", path) for path in ("/", "/page/{file}", *self._gets, "/v1/models/{model}")]
        repository = REPOSITORY_ROUTES if self._service.config.has_repository else ()
        return [*gets, *(("POST", path) for path in (*self._posts, *repository)), *below]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise UnsupportedError(f"connections of type {scope['type']!r} are not served")
        headers: Headers = ()
        asked = asked_of(scope["headers"])
        facts = scope["nograd"] = Facts()
        if self._service.tracing is not None and scope["method"] == "POST":
            facts.trace = self._trace(self._service.tracing, scope)
        try:
            facts.key = self._service.door.enter(scope["headers"], scope["path"])
            if scope["path"].startswith("/v2/models/") and scope["path"] not in self._gets:
                (status, kind, body), headers = await self._model(scope, receive, asked)
            else:
                status, kind, body = await self._reply(scope, receive)
                headers = PAGE_HEADERS if scope["path"] in self._pages else ()
        except ClientLeftError:
            facts.request_id = None  # what was answered last was another's
            self._note(scope, facts, CLIENT_LEFT, 0)
            return
        except Exception as error:  # noqa: BLE001  every error is told to the client
            facts.error = sentence(error)
            form = error_form if scope["path"].startswith("/v1/") else _error_form
            (status, kind, body), headers = error_reply(error, f"{scope['method']} {scope['path']}", form)
        if scope["method"] != "HEAD":
            body, coding = await encoded(body, kind, asked.accepts)
            headers += coding
        head = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers, *asked.echoed]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        self._note(scope, facts, status, len(body))

    def _note(self, scope: Scope, facts: Facts, status: int, bytes_out: int) -> None:
        if self._service.access is not None:
            self._service.access.note(http_access(scope, facts, status, bytes_out))
        if facts.trace is not None:
            more = {"http.response.status_code": status}
            facts.trace.end(status, model=facts.model, request_id=facts.request_id, error=facts.error, more=more)

    def _trace(self, tracing: Tracing, scope: Scope) -> Trace:
        """Return the trace of a POST: what models are run for."""
        path: str = scope["path"]
        route = "/v2/models/{model}/infer" if path.startswith("/v2/models/") else path if path in self._posts else ""
        known = {"http.request.method": "POST", "url.path": path, "url.scheme": scope.get("scheme", "http")}
        return tracing.begin(f"POST {route}".strip(), scope["headers"], {**known, **({"http.route": route} if route else {})})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop the models, for servers that speak ASGI's lifespan protocol."""
        await receive()
        try:
            await self._service.start()
        except Exception as error:  # noqa: BLE001  the ASGI server reports it and ends
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._service.stop()
        self._service.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path: str = scope["path"]
        if path in self._posts:
            _require(scope, "POST")
            return await self._posts[path](scope, receive)
        if path in ("/metrics", "/live.json") and (peers := self._service.peers) is not None:
            _require(scope, "GET", "HEAD")
            if path == "/live.json":
                return _json(200, await peers.snapshot(self._service.snapshot))
            return 200, CONTENT_TYPE.encode(), await peers.metrics(self._service.metrics_text())
        if path.startswith(REPOSITORY):
            return await self._repository(scope, receive)
        if path not in self._pages and path not in self._gets and not path.startswith("/v1/models/"):
            raise ModelNotFoundError(f"there is nothing at {path}; the protocol's paths begin with /v2, /openapi.json has all")
        _require(scope, "GET", "HEAD")
        if path in self._pages:
            return self._pages[path]
        return (
            self._gets[path]() if path in self._gets else _json(200, self._embeddings.model(path.removeprefix("/v1/models/")))
        )

    async def _repository(self, scope: Scope, receive: Receive) -> Reply:
        """Serve what begins with /v2/repository/."""
        call = repository_call(scope.get("raw_path") or scope["path"].encode())
        _require(scope, "POST")
        body = await self._json_body(scope, receive, "a call of the repository")
        return _json(200, await call(self._service.repository, body))

    async def _json_body(self, scope: Scope, receive: Receive, what: str) -> bytes:
        """Return the body of a request that has no tensors in binary."""
        body = await read_body(scope, receive, self._service.config.max_body_bytes)
        if not isinstance(body, bytes):
            raise ProtocolError(f"{what} is JSON alone; leave Inference-Header-Content-Length out")
        scope["nograd"].bytes_in = len(body)
        return body

    async def _clear_cache(self, _scope: Scope, _receive: Receive) -> Reply:
        return _json(200, {"cleared": self._service.clear_cache(), "kept_in": self._service.far_cache_url})

    async def _embed(self, scope: Scope, receive: Receive) -> Reply:
        timeout_s = asked_of(scope["headers"]).timeout_s
        body = await self._json_body(scope, receive, "a request for embeddings")
        timing = timing_for(scope["nograd"].trace, asked=False)
        return 200, JSON, await self._while_there(receive, self._embeddings.answer(body, timeout_s, timing))

    async def _model(self, scope: Scope, receive: Receive, asked: Asked) -> tuple[Reply, Headers]:
        """Serve /v2/models/{name}[/versions/{version}][/ready|/infer|/stats|/config]."""
        name, version, action = _model_path(scope.get("raw_path") or scope["path"].encode())
        if action == "infer":
            _require(scope, "POST")
            return await self._infer(partial(self._service.model, name, version), scope, receive, asked)
        _require(scope, "GET", "HEAD")
        if action == "ready":
            ready = self._service.is_ready(name, version)
            return _json(200 if ready else 503, {"name": name, "ready": ready}), ()
        if action == "stats":
            return _json(200, self._service.statistics(name, version)), ()
        if action == "config":
            return _json(200, self._service.model(name, version).configuration()), ()
        return _json(200, self._service.model_metadata(name, version)), ()

    async def _infer(self, find: Find, scope: Scope, receive: Receive, asked: Asked) -> tuple[Reply, Headers]:
        model, facts = find(), cast("Facts", scope["nograd"])
        facts.model = model.name
        try:
            timeout_s = asked.timeout_s
            body = await read_body(scope, receive, self._service.config.max_body_bytes)
        except NogradError as error:
            model.note_error(error)
            raise
        model = find()  # while the body came, it may have been replaced
        timing = timing_for(facts.trace, asked=asked.times)
        json, tail = (body, None) if isinstance(body, bytes) else body
        answering = model.infer(json, tail, timeout_s=timeout_s, timing=timing)
        facts.bytes_in = len(json) + len(tail or b"")
        try:
            reply, headers = answer_reply(await self._while_there(receive, answering))
        finally:
            facts.request_id = model.answered_id
        return reply, headers if timing is None or not asked.times else (*headers, (b"server-timing", timing.header()))

    async def _while_there(self, receive: Receive, answering: Awaitable[Answer]) -> Answer:
        """Return the answer to a request whose body was read, unless the client leaves meanwhile.

        Raises:
            ClientLeftError: it did.
        """
        worker = self._watch.begin(receive)
        try:
            return await answering
        except asyncio.CancelledError:
            if self._watch.has_left(worker):
                raise ClientLeftError from None
            raise
        finally:
            self._watch.end(worker)

    def _server_live(self) -> Reply:
        trouble = self._service.trouble()
        return _json(503, {"live": False, "error": trouble}) if trouble else _json(200, {"live": True})

    def _server_ready(self) -> Reply:
        ready = self._service.ready
        return _json(200 if ready else 503, {"ready": ready, "live": not self._service.trouble()})


@lru_cache(maxsize=1024)
def _model_path(raw: bytes) -> tuple[str, str | None, str]:
    """Return name, version and action ('' or one of `ACTIONS`) of a path below /v2/models/; names may be percent-encoded."""
    path = raw.split(b"?")[0].decode("latin-1")
    name, *rest = (unquote(part) for part in path.split("/")[3:])
    version = rest[1] if len(rest) > 1 and rest[0] == "versions" else None
    action = rest[2:] if version is not None else rest
    found = "/".join(action)
    if found not in MODEL_ACTIONS or action == [""]:
        known = " and ".join(f"'/{each}'" for each in MODEL_ACTIONS if each)
        raise ModelNotFoundError(f"there is nothing at {unquote(path)}; a model has '', {known}")
    return name, version, found


async def encoded(body: bytes, kind: bytes, accepts: bytes | None) -> tuple[bytes, Headers]:
    """Return an answer's body as it is sent, and the headers that say how; where it is long, a thread compresses it.

    Args:
        body: of the answer.
        kind: its content type.
        accepts: `Accept-Encoding` of the request; None without.
    """
    coding = coding_of(accepts, kind, len(body))
    if coding.name and len(body) < COMPRESSED_FROM:
        body = compressed(body, coding.name)
    elif coding.name:
        body = await asyncio.to_thread(compressed, body, coding.name)
    return body, coding.headers


def _json(status: int, value: Any) -> Reply:
    return status, JSON, orjson.dumps(value)


def _require(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise MethodError(f"{scope['path']} takes {' or '.join(methods)}, not {scope['method']}", methods)


def _error_headers(error: Exception) -> Headers:
    if isinstance(error, MethodError):
        return ((b"allow", ", ".join(error.allowed).encode()),)
    if isinstance(error, UnauthorizedError):
        return CHALLENGE
    if status_of(error) == 503:
        wait_s = error.retry_after_s if isinstance(error, OverloadedError) else 1.0
        return ((b"retry-after", b"%d" % ceil(max(1.0, wait_s))),)
    return ()


def _error_form(_error: Exception, sentence: str) -> Mapping[str, Any]:
    return {"error": sentence}


def error_reply(
    error: Exception, request: str, form: Callable[[Exception, str], Mapping[str, Any]] = _error_form
) -> tuple[Reply, Headers]:
    """Return the reply to a request that failed; arguments as `told`, and the form of the body."""
    return _json(status_of(error), form(error, told(error, request))), _error_headers(error)


def told(error: Exception, request: str) -> str:
    """Return what a client is told: our own errors whole, others by their kind only (their text may hold what is not the
    client's). What the model or we have raised goes to the log, with its traceback.

    Args:
        error: what was raised.
        request: method and path, for the log.
    """
    if isinstance(error, NogradError):
        if isinstance(error, ModelError):
            failure(request, error)
        return str(error)
    context = {"message": f"{request} failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
    return f"the server failed on this request: {type(error).__name__}"


def answer_reply(answer: bytes | BinaryAnswer) -> tuple[Reply, Headers]:
    """Return an infer call's answer as it is sent."""
    if isinstance(answer, bytes):
        return (200, JSON, answer), ()
    return (200, OCTETS, answer.body), header_length(answer)


def header_length(answer: BinaryAnswer) -> Headers:
    """Return the header that says where an answer's tensors begin."""
    return ((b"inference-header-content-length", b"%d" % len(answer.json)),)
