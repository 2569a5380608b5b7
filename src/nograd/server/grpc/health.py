"""grpc.health.v1 for load balancers and probes. It reads the service's readiness directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from nograd.server.grpc.messages import SERVICE
from nograd.server.models.service import InferenceService

__all__ = ["HEALTH", "Health"]

HEALTH = "grpc.health.v1.Health"

LOOK_S = 1.0
"""Interval of readiness checks for watchers, in seconds; a stop of the server is sent immediately."""


class Health:
    """Health of the whole server, under the names '' and `inference.GRPCInferenceService`."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._closed = asyncio.Event()

    def handler(self) -> Any:
        """Return the handler for a gRPC server."""
        request, answer = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, request, answer),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request, answer),
        }
        return grpc.method_handlers_generic_handler(HEALTH, methods)

    def close(self) -> None:
        """End the streams of watchers."""
        self._closed.set()

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in ("", SERVICE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return self._answer()

    async def _watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        if request.service not in ("", SERVICE):
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            await self._closed.wait()
            return
        last = self._answer()
        yield last
        while not self._service.draining:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._service.drained.wait(), LOOK_S)
            if (now := self._answer()) != last:
                yield now
                last = now
        await self._closed.wait()

    def _answer(self) -> Any:
        kinds = health_pb2.HealthCheckResponse
        return kinds(status=kinds.SERVING if self._service.ready else kinds.NOT_SERVING)
