"""A replica of Ray Serve: the server's application over the same models, with the calls by Ray and by other replicas."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from nograd import __version__
from nograd.errors import DeviceLostError
from nograd.ray.actors import device_in_actor
from nograd.ray.scaling import BACKLOG, BUSY
from nograd.runtime.openmp import spin_briefly
from nograd.runtime.threads import in_own_thread
from nograd.server.banner import greeting
from nograd.server.http.app import App
from nograd.server.models.service import InferenceService
from nograd.server.settings.model_config import open_model
from nograd.server.settings.resolution import settle
from nograd.server.telemetry.logs import configure, event
from nograd.server.workers.merging import merged

__all__ = ["ASK_S", "Replica"]

ASK_S = 2.0
"""Seconds within which the other replicas must answer. Late replicas are skipped."""


class Replica:
    """One of the server's processes."""

    async def __init__(self, content: Mapping[str, Any], deployed_by: str) -> None:  # type: ignore[misc]  # Ray awaits it
        """Load the models. They warm up when the application starts, as in every server.

        Args:
            content: settings and models, in the form of a configuration file.
            deployed_by: token of the deployment.
        """
        spin_briefly(os.environ)
        settings = settle(("the application's settings", content), {}, {})
        context = serve.get_replica_context()
        configure(settings.config.log_format, settings.config.log_level, replica=context.replica_tag)
        models = [model for model in settings.models if model.load]
        event("starting", version=__version__, models=[model.model for model in models], pid=os.getpid())
        self._tag = context.replica_tag
        self._deployed_by = deployed_by
        config = replace(settings.config, device=device_in_actor(settings.config.device))
        self._service = InferenceService(config, settings.models)
        self._service.peers = _ReplicaPeers(self._tag, context.deployment, context.app_name)
        for model in models:
            loading = in_own_thread(partial(open_model, model, config))
            self._service.add_configured(model, await asyncio.wrap_future(loading))
        self._reported_at, self._reported_busy_s = time.monotonic(), 0.0

    def __serve_build_asgi_app__(self) -> App:
        """Return the application; Ray starts and stops the models through ASGI's lifespan."""
        return App(self._service)

    def check_health(self) -> None:
        """Raise DeviceLostError if only a new process would help; Ray then starts one."""
        if trouble := self._service.trouble():
            raise DeviceLostError(trouble)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the metrics for `scaling.Backlog`: this replica's load since the last call."""
        now, busy_s = time.monotonic(), sum(model.busy_s for model in self._service.models)
        busy = (busy_s - self._reported_busy_s) / max(1e-3, now - self._reported_at)
        self._reported_at, self._reported_busy_s = now, busy_s
        return {BACKLOG: sum(model.backlog_s for model in self._service.models), BUSY: min(1.0, busy)}

    def deployed_by(self) -> str:
        """Return the token of the deployment."""
        return self._deployed_by

    def greeting(self, url: str) -> str:
        """Return the start message of a server with these models at this address."""
        return greeting(url, self._service.models)

    async def tell_metrics(self) -> tuple[str, str]:
        """Return this replica's name and its metrics."""
        return self._tag, self._service.metrics_text().decode()

    async def tell_snapshot(self) -> tuple[str, dict[str, Any]]:
        """Return this replica's name and its data for the live page."""
        return self._tag, self._service.snapshot()


class _ReplicaPeers:
    """All replicas, as one of them sees them. Ray knows the replicas, and forwards the calls."""

    def __init__(self, tag: str, deployment: str, application: str) -> None:
        self._tag = tag
        self._deployment = deployment, application

    @property
    def described(self) -> Mapping[str, Any]:
        return {"replica": self._tag}

    async def metrics(self, own: bytes) -> bytes:
        texts = {self._tag: own.decode(), **await self._call_replicas("tell_metrics")}
        return merged("replica", dict(sorted(texts.items()))).encode()

    async def snapshot(self, own: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        found = {self._tag: own(), **await self._call_replicas("tell_snapshot")}
        first = min(found)
        return {**found[first], "server": {**found[first]["server"], "replicas": sorted(found)}}

    async def _call_replicas(self, method: str) -> dict[str, Any]:
        """Return the answers of the replicas, by name; empty if Ray cannot call them now."""
        broadcast = serve.get_deployment_handle(*self._deployment).broadcast(method)
        try:
            found = await asyncio.wait_for(broadcast.results_async(return_exceptions=True), ASK_S)
        except (TimeoutError, RayError, RayServeException) as error:
            event("replicas_not_asked", logging.WARNING, error=str(error) or type(error).__name__)
            return {}
        return dict(each for each in found if not isinstance(each, BaseException))
