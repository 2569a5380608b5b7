"""The gRPC server: the protocol's methods over an InferenceService, in the event loop of the HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from nograd.errors import DeadlineError, PortInUseError, UnauthorizedError
from nograd.server.call import Call
from nograd.server.grpc.calls import CODES, KeyInterceptor, begin_call, enter_call, finish_call
from nograd.server.grpc.health import HEALTH, Health
from nograd.server.grpc.limits import server_options
from nograd.server.grpc.messages import (
    POOL,
    SERVICE,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    filled,
    parse,
)
from nograd.server.grpc.stream import in_order
from nograd.server.grpc.tensors import message, read, write
from nograd.server.grpc.wire import require_few_fields
from nograd.server.http.replies import describe_error
from nograd.server.models.repository_calls import refuse_parameters
from nograd.server.models.served import ServedModel
from nograd.server.models.service import InferenceService
from nograd.server.protocol.long_data import LONG_DATA
from nograd.server.protocol.statuses import status_of
from nograd.server.telemetry.access_log import CLIENT_LEFT

__all__ = ["GrpcFront"]

DETAIL_BYTES = 1200
"""Maximum length of an error message in UTF-8: percent-encoding triples it, and clients accept 8 KiB."""

STREAM = "ModelStreamInfer"

MOST_S = 1e6
"""Deadlines beyond this are ignored, in seconds."""

for _file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):  # for reflection
    POOL.AddSerializedFile(_file.serialized_pb)


Method: TypeAlias = Callable[[bytes, Call, Any], Awaitable[bytes]]
"""Takes serialized message, record and gRPC context; returns a serialized message."""


class GrpcFront:
    """A gRPC server for a service's models.

    Args:
        service: its settings contain the address; its models need not be ready.
    """

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._health = Health(service)
        self._server = grpc.aio.server(
            interceptors=() if service.door.is_open else (KeyInterceptor(service),),
            options=server_options(service.config, shares_port=service.peers is not None),
        )
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_load,
            "RepositoryModelUnload": self._repository_unload,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._answering(name, method)) for name, method in methods.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers), self._health.handler()))
        reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), self._server, pool=POOL)

    async def start(self) -> int:
        """Start listening; return the port.

        Raises:
            PortInUseError: the port is not available.
        """
        address = self._service.config.address(self._service.config.grpc_port or 0)
        try:
            port = self._listen(address)
        except RuntimeError:
            raise PortInUseError(f"gRPC cannot listen on {address}; choose another with --grpc-port") from None
        await self._server.start()
        return port

    def _listen(self, address: str) -> int:
        tls = self._service.config.tls
        if tls is None:
            port: int = self._server.add_insecure_port(address)
        else:
            key, cert, ca = tls.read()
            credentials = grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=ca is not None)
            port = self._server.add_secure_port(address, credentials)
        return port

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; running calls may finish within `grace_s` seconds. The service is stopped first, so there
        are few.
        """
        self._health.close()
        await self._server.stop(grace_s)

    # -- the methods: serialized message in, serialized message out

    async def _server_live(self, body: bytes, _call: Call, _context: Any) -> bytes:
        parse(ServerLiveRequest, body)
        return _done(ServerLiveResponse(live=not self._service.trouble()))

    async def _server_ready(self, body: bytes, _call: Call, _context: Any) -> bytes:
        parse(ServerReadyRequest, body)
        return _done(ServerReadyResponse(ready=self._service.ready))

    async def _server_metadata(self, body: bytes, _call: Call, _context: Any) -> bytes:
        parse(ServerMetadataRequest, body)
        return _done(ServerMetadataResponse(**self._service.metadata()))

    async def _model_ready(self, body: bytes, _call: Call, _context: Any) -> bytes:
        request = parse(ModelReadyRequest, body)
        return _done(ModelReadyResponse(ready=self._service.is_ready(request.name, request.version or None)))

    async def _model_metadata(self, body: bytes, _call: Call, _context: Any) -> bytes:
        request = parse(ModelMetadataRequest, body)
        return _done(ModelMetadataResponse(**self._service.model_metadata(request.name, request.version or None)))

    async def _model_infer(self, body: bytes, call: Call, context: Any) -> bytes:
        request = await self._parse_request(body)
        model = self._service.model(request.model_name, request.model_version or None)
        call.measure()
        return await model.infer_as(
            call, partial(_read, request, model, context), write, nbytes=_num_converted(model, request, body)
        )

    async def _parse_request(self, body: bytes) -> Any:
        """Return a ModelInferRequest; a thread parses a long one, after its fields were counted.

        Raises:
            ProtocolError: the bytes are not such a message.
            TooLargeError: it has too many fields.
        """
        if len(body) <= LONG_DATA:
            return parse(ModelInferRequest, body)
        max_texts = self._service.max_texts()

        def parse_long() -> Any:
            require_few_fields(body, max_texts=max_texts)
            return parse(ModelInferRequest, body)

        return await asyncio.to_thread(parse_long)

    def _answering(self, name: str, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Wrap a method for gRPC: errors become a status code with HTTP's message, and every call is recorded."""

        async def answer(body: bytes, context: Any) -> bytes:
            call = begin_call(self._service, name, body, context, traced=name == "ModelInfer")
            try:
                enter_call(call, self._service, context)
                answer = await method(body, call, context)
            except asyncio.CancelledError:
                finish_call(call, CLIENT_LEFT)
                raise
            except Exception as error:
                call.error, status = error, status_of(error)
                finish_call(call, status)
                sentence = describe_error(error, f"gRPC {name}").encode()[:DETAIL_BYTES].decode(errors="ignore")
                await context.abort(CODES[status], sentence)
                raise
            finish_call(call, 200, len(answer))
            return answer

        return answer

    async def _model_config(self, body: bytes, _call: Call, _context: Any) -> bytes:
        request = parse(ModelConfigRequest, body)
        found = self._service.model(request.name, request.version or None).configuration()
        return _done(filled(ModelConfigResponse, {"config": found}))

    async def _model_statistics(self, body: bytes, _call: Call, _context: Any) -> bytes:
        request = parse(ModelStatisticsRequest, body)
        return _done(filled(ModelStatisticsResponse, self._service.statistics(request.name, request.version or None)))

    async def _repository_index(self, body: bytes, _call: Call, _context: Any) -> bytes:
        found = await self._service.repository.index(ready=parse(RepositoryIndexRequest, body).ready)
        return _done(filled(RepositoryIndexResponse, {"models": found}))

    async def _repository_load(self, body: bytes, _call: Call, _context: Any) -> bytes:
        await self._service.repository.load(self._to_change(parse(RepositoryModelLoadRequest, body)))
        return _done(RepositoryModelLoadResponse())

    async def _repository_unload(self, body: bytes, _call: Call, _context: Any) -> bytes:
        await self._service.repository.unload(self._to_change(parse(RepositoryModelUnloadRequest, body)))
        return _done(RepositoryModelUnloadResponse())

    def _to_change(self, request: Any) -> str:
        """Return the name of the model to load or unload, if the request is allowed."""
        self._service.repository.require()
        refuse_parameters(request.parameters)
        name: str = request.model_name
        return name

    async def _model_stream_infer(self, bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            enter_call(begin_call(self._service, STREAM, b"", context), self._service, context)
        except UnauthorizedError as error:
            await context.abort(CODES[401], str(error))
        async for answer in in_order(bodies, partial(self._streamed, context=context)):
            yield answer

    async def _streamed(self, body: bytes, context: Any) -> bytes:
        """Return the answer to one request of a stream, which may be an error."""
        request_id, call = "", begin_call(self._service, STREAM, body, context, traced=True)
        try:
            enter_call(call, self._service, context)  # its name is for the access log
            request = await self._parse_request(body)
            request_id = request.id
            model = self._service.model(request.model_name, request.model_version or None)
            call.measure()
            read_it, nbytes = partial(_read, request, model, context), _num_converted(model, request, body)
            answer = await model.infer_as(call, read_it, message, nbytes=nbytes)
        except Exception as error:  # noqa: BLE001  the client gets it, and the stream continues
            call.error = error
            finish_call(call, status_of(error))
            failed = ModelStreamInferResponse(error_message=describe_error(error, f"gRPC {STREAM}"))
            failed.infer_response.id = request_id
            return _done(failed)
        answer.parameters["triton_final_response"].bool_param = True  # each request has one answer
        response = _done(ModelStreamInferResponse(infer_response=answer))
        finish_call(call, 200, len(response))
        return response


def _num_converted(model: ServedModel, request: Any, body: bytes) -> int:
    """Return the bytes that must be converted, or whose rows the cache has keys of."""
    return model.bytes_to_convert(len(body)) if request.raw_input_contents else len(body)


def _read(request: Any, model: ServedModel, context: Any) -> Any:
    left_s = context.time_remaining()
    if left_s is not None and left_s <= 0:
        raise DeadlineError("the call's deadline has passed")
    return read(request, model.inputs.inputs, None if left_s is None or left_s > MOST_S else left_s, model.limits)


def _done(message: Any) -> bytes:
    done: bytes = message.SerializeToString()
    return done
