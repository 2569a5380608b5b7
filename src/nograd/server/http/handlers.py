"""Handlers of the HTTP routes: each returns the reply to a request. `routes` maps paths to handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from nograd.errors import ProtocolError
from nograd.server.http.asgi import ClientLeftError, ClientWatch, Receive, Scope
from nograd.server.http.bodies import read_body
from nograd.server.http.openapi import document
from nograd.server.http.pages import PAGE_HEADERS
from nograd.server.http.replies import JSON, Reply, infer_reply, json_reply
from nograd.server.models.repository_calls import change_model, list_models
from nograd.server.telemetry.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nograd.server.call import Call
    from nograd.server.http.routes import Route
    from nograd.server.models.service import InferenceService
    from nograd.server.protocol.embeddings import Embeddings

__all__ = ["Request", "Site"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Site:
    """State shared by all requests of one HTTP front."""

    service: InferenceService
    embeddings: Embeddings
    pages: Mapping[str, Reply]
    """Files of the live page, by path."""

    watch: ClientWatch
    routes: Sequence[Route]
    """Routes of this server, for its OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, for handlers."""

    site: Site
    call: Call
    scope: Scope
    receive: Receive
    names: Mapping[str, str]
    """Values of the placeholders of the route's path, decoded."""

    @property
    def service(self) -> InferenceService:
        """The models."""
        return self.site.service

    async def json_body(self, what: str) -> bytes:
        """Return the body of a request that has no binary tensors.

        Args:
            what: the request, for the error message.
        """
        body = await read_body(self.scope, self.receive, self.service.config.max_body_bytes)
        if not isinstance(body, bytes):
            raise ProtocolError(f"{what} contains only JSON; omit Inference-Header-Content-Length")
        self.call.bytes_in = len(body)
        return body

    async def unless_client_leaves(self, answering: Awaitable[Answer]) -> Answer:
        """Return the answer to a request whose body was read; cancel the work if the client disconnects first.

        Raises:
            ClientLeftError: the client disconnected.
        """
        watch = self.site.watch
        worker = watch.begin(self.receive)
        try:
            return await answering
        except asyncio.CancelledError:
            if watch.has_left(worker):
                raise ClientLeftError from None
            raise
        finally:
            watch.end(worker)


# -- the server


async def page(request: Request) -> Reply:
    """Return a file of the live page; the route has checked that it exists."""
    return request.site.pages[request.scope["path"]]._replace(headers=PAGE_HEADERS)


async def live_data(request: Request) -> Reply:
    """Return the live page's data, from the other workers too."""
    workers, service = request.service.peers, request.service
    return json_reply(200, service.snapshot() if workers is None else await workers.snapshot(service.snapshot))


async def metrics(request: Request) -> Reply:
    """Return the metrics in Prometheus' text format, from the other workers too."""
    workers, text = request.service.peers, request.service.metrics_text()
    return Reply(200, CONTENT_TYPE.encode(), text if workers is None else await workers.metrics(text))


async def openapi(request: Request) -> Reply:
    """Return the OpenAPI document of this server."""
    return json_reply(200, document(request.service, request.site.routes))


async def clear_cache(request: Request) -> Reply:
    """Remove all responses from the cache in memory."""
    service = request.service
    return json_reply(200, {"cleared": service.clear_cache(), "kept_in": service.far_cache_url})


async def server_metadata(request: Request) -> Reply:
    """Return the protocol's server metadata."""
    return json_reply(200, request.service.metadata())


async def server_live(request: Request) -> Reply:
    """Return 503 if the server must be restarted."""
    trouble = request.service.trouble()
    return json_reply(503, {"live": False, "error": trouble}) if trouble else json_reply(200, {"live": True})


async def server_ready(request: Request) -> Reply:
    """Return 503 unless all models answer."""
    ready, trouble = request.service.ready, request.service.trouble()
    error = {"error": trouble} if trouble else {}
    return json_reply(200 if ready else 503, {"ready": ready, "live": not trouble, **error})


async def statistics(request: Request) -> Reply:
    """Return the statistics of one version of a model, of all its versions, or of all models."""
    return json_reply(200, request.service.statistics(request.names.get("model", ""), request.names.get("version")))


# -- one model


async def model_metadata(request: Request) -> Reply:
    """Return the protocol's model metadata."""
    return json_reply(200, request.service.model_metadata(request.names["model"], request.names.get("version")))


async def model_ready(request: Request) -> Reply:
    """Return 503 unless the model answers."""
    name = request.names["model"]
    ready = request.service.is_ready(name, request.names.get("version"))
    return json_reply(200 if ready else 503, {"name": name, "ready": ready})


async def model_configuration(request: Request) -> Reply:
    """Return the model's configuration in Triton's form."""
    model = request.service.model(request.names["model"], request.names.get("version"))
    return json_reply(200, model.configuration())


async def infer(request: Request) -> Reply:
    """Run a model on a request's tensors."""
    call, service = request.call, request.service
    name, version = request.names["model"], request.names.get("version")
    model = call.model = service.model(name, version)
    timeout_s = call.options.timeout_s
    body = await read_body(request.scope, request.receive, service.config.max_body_bytes)
    if not model.ready:  # a reload may have replaced it while the body arrived
        model = service.model(name, version)
    json, tail = (body, None) if isinstance(body, bytes) else body
    call.bytes_in = len(json) + len(tail or b"")
    call.measure()
    reply = infer_reply(await request.unless_client_leaves(model.infer(call, json, tail, timeout_s=timeout_s)))
    if call.timing is None or not call.options.wants_timing:
        return reply
    return reply._replace(headers=(*reply.headers, (b"server-timing", call.timing.header())))


# -- OpenAI's API


async def list_embedders(request: Request) -> Reply:
    """Return OpenAI's list of models."""
    return json_reply(200, request.site.embeddings.models())


async def describe_embedder(request: Request) -> Reply:
    """Return OpenAI's description of a model."""
    return json_reply(200, request.site.embeddings.model(request.names["model"]))


async def embeddings(request: Request) -> Reply:
    """Return the embeddings of texts."""
    call = request.call
    timeout_s = call.options.timeout_s
    body = await request.json_body("a request for embeddings")
    call.measure()
    answering = request.site.embeddings.answer(call, body, timeout_s)
    return Reply(200, JSON, await request.unless_client_leaves(answering))


# -- the repository extension


async def repository_index(request: Request) -> Reply:
    """List the models that are served or can be loaded."""
    return json_reply(200, await list_models(request.service.repository, await _repository_body(request)))


async def repository_load(request: Request) -> Reply:
    """Load or reload a model."""
    return await _change(request, "load")


async def repository_unload(request: Request) -> Reply:
    """Unload a model."""
    return await _change(request, "unload")


async def _change(request: Request, what: str) -> Reply:
    body = await _repository_body(request)
    return json_reply(200, await change_model(request.service.repository, request.names["model"], what, body))


async def _repository_body(request: Request) -> bytes:
    return await request.json_body("a call of the repository")
