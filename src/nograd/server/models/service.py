"""All models of one server: lookup by name, start, draining and stop. HTTP is in `http`."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nograd import __version__
from nograd.errors import ConfigError
from nograd.predictors.predictor import Predictor
from nograd.runtime.imports import fresh_imports
from nograd.server.models.caching import open_caches
from nograd.server.models.liveness import device_stacks
from nograd.server.models.repository import Repository
from nograd.server.models.served import ServedModel
from nograd.server.models.table import ModelTable
from nograd.server.security.api_keys import open_gate
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig, name_of, open_model
from nograd.server.telemetry.access_log import AccessLog
from nograd.server.telemetry.logs import dropped_lines, event, write
from nograd.server.telemetry.metrics import Metrics
from nograd.server.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from nograd.server.replicas import PeerView

__all__ = ["InferenceService"]

EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "schedule_policy")
"""Supported extensions of the protocol, by Triton's names."""


class InferenceService:
    """All models of one server.

    Args:
        config: of the server.
        known: models that clients may load if the repository is on, including those that are not added.
        open_model: loads a model; blocks.
    """

    def __init__(
        self,
        config: ServeConfig,
        known: Sequence[ModelConfig] = (),
        open_model: Callable[[ModelConfig, ServeConfig], Predictor] = open_model,
    ) -> None:
        self.config = config
        self.metrics = Metrics()
        self.peers: PeerView | None = None
        """The other processes at this address, if there are several."""

        self.draining = False
        self.drained = asyncio.Event()
        self.door = open_gate(config.api_keys_file, config.open_without_key, os.environ)
        self.access = AccessLog(config.log_format, write) if config.access_log else None
        self.tracing = open_tracing(config.traces)
        self._table = ModelTable()
        self.infer_paths = self._table.infer_paths
        self._is_troubled = False
        self._dropped_told = 0
        self._log_dropped = dropped_lines()
        self._flights = open_caches(config)
        self._begun = time.monotonic()
        self.repository = Repository(self._table, config, known, partial(_open_again, open_model, config), self._make_model)

    def add(self, name: str, predictor: Predictor, version: str = "1") -> ServedModel:
        """Serve a predictor under a name, after `start`. The last added version of a name is the newest.

        Raises:
            ConfigError: the name and version exist already.
        """
        return self._add(ModelConfig("a predictor", name, version), predictor)

    def add_configured(self, model: ModelConfig, predictor: Predictor) -> ServedModel:
        """Serve a configured model with its own limits; like `add`, but clients may reload it if the repository is on."""
        named = replace(model, name=model.name or predictor.name or name_of(model.model))
        served = self._add(named, predictor)
        self.repository.note(named)
        return served

    def _add(self, model: ModelConfig, predictor: Predictor) -> ServedModel:
        if model.version in self._table.names().get(model.name, {}):
            raise ConfigError(
                f"{model.model} is {model.name!r}, version {model.version!r}, as another model is; give it another name or "
                "version: NAME=MODEL, NAME:VERSION=MODEL"
            )
        served = self._make_model(model, predictor)
        self._table.add(served)
        return served

    def _make_model(self, model: ModelConfig, predictor: Predictor) -> ServedModel:
        flights = self._flights if model.cache else None
        return ServedModel(model.name, predictor, model.settings(self.config), self.metrics, flights, version=model.version)

    async def start(self) -> None:
        """Warm up and open all models one after the other, so that each is measured alone."""
        if self.access is not None:
            self.access.open()
        for model in list(self._table):
            await model.start()

    def announce_stop(self) -> None:
        """Turn readiness false; requests are still accepted."""
        if not self.draining:
            event("draining", grace_s=self.config.grace_s, lame_duck_s=self.config.lame_duck_s)
        self.draining = True
        self.drained.set()

    def drain(self) -> None:
        """Turn readiness false and reject new requests; accepted requests are still answered."""
        self.announce_stop()
        for model in self._table:
            model.drain()

    async def stop(self) -> None:
        """Answer what was accepted, within the grace, and end."""
        self.drain()
        await self.repository.stop()
        await asyncio.gather(*(model.stop() for model in self._table))
        if self._flights is not None:
            await self._flights.close()

    def close(self) -> None:
        """Write the last lines of the access log and send the last spans, after `stop` and the last answers."""
        if self.access is not None:
            self.access.close()
        if self.tracing is not None:
            self.tracing.close()

    def reload_keys(self) -> None:
        """Reload the API keys; if they cannot be read, the current ones stay."""
        try:
            self.door = open_gate(self.config.api_keys_file, self.config.open_without_key, os.environ)
        except ConfigError as error:
            event("keys_not_reloaded", logging.ERROR, error=str(error))
            return
        event("keys_reloaded", keys=self.door.size)

    @property
    def far_cache_url(self) -> str:
        """URL of the remote cache, with masked credentials; empty without one."""
        if not self.config.cache_url or self._flights is None:
            return ""
        from nograd.caching.redis import without_password

        return without_password(self.config.cache_url)

    def clear_cache(self) -> int:
        """Remove all cached answers from memory; return their number. Redis is not changed."""
        if self._flights is None:
            return 0
        entries = self._flights.near.statistics().entries
        self._flights.near.clear()
        return entries

    @property
    def models(self) -> Sequence[ServedModel]:
        """Every version of every model, in the order in which they were added."""
        return tuple(self._table)

    @property
    def ready(self) -> bool:
        """True when every model answers."""
        return not self.draining and all(model.ready for model in self._table) and not self.trouble()

    def trouble(self) -> str:
        """Return why a restart is needed, in one sentence; empty if everything works. It is logged once."""
        troubles = [trouble for model in self._table if (trouble := model.trouble())]
        if bool(troubles) != self._is_troubled:
            self._is_troubled = bool(troubles)
            if troubles:
                event("not_live", logging.ERROR, error="; ".join(troubles), stacks=device_stacks() or None)
            else:
                event("live_again", logging.WARNING)
        return "; ".join(troubles)

    def model(self, name: str, version: str | None = None) -> ServedModel:
        """Return the model with the requested version; without a version, the newest ready one.

        Raises:
            ModelNotFoundError: no model, or no version, of that name is served.
        """
        return self._table.find(name, version)

    def is_ready(self, name: str, version: str | None = None) -> bool:
        """Return whether clients should send requests to this model; false while the server stops.

        Raises:
            ModelNotFoundError: as for `model`.
        """
        return self.model(name, version).ready and not self.draining

    @property
    def names(self) -> Container[str]:
        """Names of the served models."""
        return self._table.names()

    def max_texts(self) -> int:
        """Return how many texts a request may have whose model is not known yet."""
        return max((model.limits.max_texts(model.inputs.inputs) for model in self.models), default=0)

    def model_metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Return the protocol's metadata of a model, with all its versions.

        Raises:
            ModelNotFoundError: as for `model`.
        """
        return {**self.model(name, version).metadata(), "versions": list(self._table.names()[name])}

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's server metadata; `extensions` lists what works beyond the protocol."""
        extensions = [*EXTENSIONS, *(["model_repository"] if self.config.has_repository else [])]
        return {"name": "nograd", "version": __version__, "extensions": extensions}

    def statistics(self, name: str = "", version: str | None = None) -> dict[str, Any]:
        """Return the statistics of a version of a model, of all its versions, or without a name of all models.

        Raises:
            ModelNotFoundError: as for `model`.
        """
        models: Sequence[ServedModel] = self.models
        if name:
            found = self.model(name, version)
            models = [found] if version is not None else list(self._table.names()[name].values())
        return {"model_stats": [model.statistics() for model in models]}

    def snapshot(self) -> dict[str, Any]:
        """Return the data of the live page."""
        server: dict[str, Any] = {
            "name": "nograd",
            "version": __version__,
            "uptime_s": time.monotonic() - self._begun,
            "ready": self.ready,
            "draining": self.draining,
            "lost": any(model.is_lost for model in self._table),
        }
        if self.peers is not None:
            server |= self.peers.described
        return {"server": server, "models": [model.snapshot() for model in self._table]}

    def metrics_text(self) -> bytes:
        """Return all metrics in Prometheus' text format; the versions of a name are counted together."""
        for model in self._table:
            model.refresh_metrics()
        for name in self.repository.names():
            versions = list(self._table.names().get(name, {}).values())
            self.metrics.refresh_model(
                name,
                ready=any(model.ready for model in versions),
                queue_rows=sum(model.queue_rows for model in versions),
                backlog_s=sum(model.backlog_s for model in versions),
            )
        self.metrics.live.set(not self.trouble())
        if self.access is not None:
            self.metrics.dropped.inc(self.access.dropped - self._dropped_told)
            self._dropped_told = self.access.dropped
        dropped = dropped_lines()
        self.metrics.log_dropped.inc(dropped - self._log_dropped)
        self._log_dropped = dropped
        return self.metrics.text()


def _open_again(
    open_model: Callable[[ModelConfig, ServeConfig], Predictor], config: ServeConfig, model: ModelConfig
) -> Predictor:
    """Load a model with the current code of its files, like a new server would."""
    with fresh_imports():
        return open_model(model, config)
