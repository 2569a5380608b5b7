"""The HTTP front: one ASGI application over an InferenceService. The same application runs under any ASGI server."""

from __future__ import annotations

from nograd.errors import NogradError, UnsupportedError
from nograd.server.call import Call
from nograd.server.http.asgi import ClientLeftError, ClientWatch, Receive, Scope, Send
from nograd.server.http.handlers import Request, Site
from nograd.server.http.pages import page_replies
from nograd.server.http.replies import Reply, compress_body, error_reply, plain_form
from nograd.server.http.request_options import parse_options
from nograd.server.http.routes import ROUTES, Found, Route, find_route
from nograd.server.models.service import InferenceService
from nograd.server.protocol.embeddings import Embeddings, error_form
from nograd.server.security.origins import ORIGIN, Cors, StateGuard, parse_list
from nograd.server.telemetry.access_log import CLIENT_LEFT

__all__ = ["App"]


class App:
    """ASGI application: health, metadata, infer, embeddings, metrics, its own description and the live page."""

    def __init__(self, service: InferenceService) -> None:
        self.service = service
        self.infer_paths = service.infer_paths
        self.max_body_bytes = service.config.max_body_bytes
        self.routes: list[Route] = [each for each in ROUTES if service.config.has_repository or not each.is_repository]
        """Routes of this server."""

        config = service.config
        self.cors = Cors(parse_list(config.cors_origins))
        """Pages that may read responses."""

        self._guard = StateGuard.of(config.host, config.allowed_hosts, self.cors)
        self._site = Site(service, Embeddings(service), page_replies(), ClientWatch(), self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise UnsupportedError(f"connections of type {scope['type']!r} are not served")
        client = scope.get("client")
        call = Call(
            self.service, "http", scope["method"], scope["path"],
            options=parse_options(scope["headers"]), client=client[0] if client else None,
        )  # fmt: skip
        if call.method == "OPTIONS" and (allowed := self.cors.preflight(scope["headers"])) is not None:
            await _send(send, call, Reply(200, b"text/plain", b"", allowed))  # a browser sends it without the key
            return
        try:
            reply = await self._answer(call, scope, receive)
        except ClientLeftError:
            call.finish(CLIENT_LEFT)
            return
        except Exception as error:  # noqa: BLE001  every error becomes a response
            call.error = error
            form = error_form if call.path.startswith("/v1/") else plain_form
            reply = error_reply(error, f"{call.method} {call.path}", form)
        if self.cors:
            origin = next((value for name, value in scope["headers"] if name == ORIGIN), None)
            reply = reply._replace(headers=(*reply.headers, *self.cors.headers(origin)))
        await _send(send, call, reply)

    async def _answer(self, call: Call, scope: Scope, receive: Receive) -> Reply:
        """Return the reply of the request's route. A request without a valid key learns nothing about the routes."""
        found: Found | NogradError
        try:
            found = find_route(call.method, scope.get("raw_path") or call.path.encode(), self._site.pages, self.service.names)
        except NogradError as error:
            found = error
        if call.method == "POST":
            self._trace(call, scope, "" if isinstance(found, NogradError) else found[0].path)
        call.enter(scope["headers"], call.path)
        if isinstance(found, NogradError):
            raise found
        route, names = found
        if route.changes_state:
            self._guard.check(scope["headers"])
        return await route.handler(Request(self._site, call, scope, receive, names))

    def _trace(self, call: Call, scope: Scope, route: str) -> None:
        """Begin the trace of a request that may run a model."""
        attributes = {"http.request.method": call.method, "url.path": call.path, "url.scheme": scope.get("scheme", "http")}
        if route:
            attributes["http.route"] = route
        call.trace(f"{call.method} {route}".strip(), scope["headers"], attributes)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop the models, for servers that speak ASGI's lifespan protocol."""
        await receive()
        try:
            await self.service.start()
        except Exception as error:  # noqa: BLE001  the ASGI server reports it and ends
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.service.stop()
        self.service.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _send(send: Send, call: Call, reply: Reply) -> None:
    """Send a reply; a response to HEAD has no body."""
    body, headers, is_head = reply.body, reply.headers, call.method == "HEAD"
    if not is_head:
        body, coding = await compress_body(body, reply.content_type, call.options.accept_encoding)
        headers += coding
    call.finish(reply.status, len(body))
    head = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(body)), *headers, *call.options.echoed]
    await send({"type": "http.response.start", "status": reply.status, "headers": head})
    await send({"type": "http.response.body", "body": b"" if is_head else body})
