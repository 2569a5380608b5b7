"""All models of one server: found by name, started, drained and stopped. No HTTP here; `http` is a thin front of it."""

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
    from nograd.server.replicas import Peers

__all__ = ["InferenceService"]

EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "schedule_policy")
"""Of the protocol, as Triton names them: what works, and no more."""


class InferenceService:
    """All models of one server.

    Args:
        config: of the server.
        known: models that clients may load, where they may; others than those that are added, too.
        open_model: loads one of them, blocking.
    """

    def __init__(
        self,
        config: ServeConfig,
        known: Sequence[ModelConfig] = (),
        open_model: Callable[[ModelConfig, ServeConfig], Predictor] = open_model,
    ) -> None:
        self.config = config
        self.metrics = Metrics()
        self.peers: Peers | None = None
        """The other processes that answer at this address, where there are several."""

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
        self.repository = Repository(self._table, config, known, partial(_open_again, open_model, config), self._made)

    def add(self, name: str, predictor: Predictor, version: str = "1") -> ServedModel:
        """Serve a predictor under a name; it answers after `start`. Of several versions the last one added is the newest.

        Raises:
            ConfigError: there is one of this name and version.
        """
        return self._add(ModelConfig("a predictor", name, version), predictor)

    def add_configured(self, model: ModelConfig, predictor: Predictor) -> ServedModel:
        """Serve a model with limits of its own; as `add`, but clients may have it loaded anew, where they may at all."""
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
        served = self._made(model, predictor)
        self._table.add(served)
        return served

    def _made(self, model: ModelConfig, predictor: Predictor) -> ServedModel:
        flights = self._flights if model.cache else None
        return ServedModel(model.name, predictor, model.settings(self.config), self.metrics, flights, version=model.version)

    async def start(self) -> None:
        """Warm all models and open them, one after the other: each is measured alone."""
        if self.access is not None:
            self.access.open()
        for model in list(self._table):
            await model.start()

    def announce_stop(self) -> None:
        """Turn readiness false; requests are still taken."""
        if not self.draining:
            event("draining", grace_s=self.config.grace_s, lame_duck_s=self.config.lame_duck_s)
        self.draining = True
        self.drained.set()

    def drain(self) -> None:
        """Turn readiness false and refuse new requests; what was accepted is still answered."""
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
        """Write the last lines of the access log, send the last spans: behind `stop`, and behind the last answers."""
        if self.access is not None:
            self.access.close()
        if self.tracing is not None:
            self.tracing.close()

    def reload_keys(self) -> None:
        """Read the API keys anew; where they cannot be read, those that there are stay."""
        try:
            self.door = open_gate(self.config.api_keys_file, self.config.open_without_key, os.environ)
        except ConfigError as error:
            event("keys_not_reloaded", logging.ERROR, error=str(error))
            return
        event("keys_reloaded", keys=self.door.size)

    @property
    def far_cache_url(self) -> str:
        """Where answers are kept beside the memory, as it may be shown; empty where nowhere."""
        if not self.config.cache_url or self._flights is None:
            return ""
        from nograd.caching.redis import without_password

        return without_password(self.config.cache_url)

    def clear_cache(self) -> int:
        """Forget all answers that are kept in memory; return how many that were. What lies in Redis stays."""
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
        """Return why only a restart would help, in one sentence; empty where nothing is wrong. The log hears of it once."""
        troubles = [trouble for model in self._table if (trouble := model.trouble())]
        if bool(troubles) != self._is_troubled:
            self._is_troubled = bool(troubles)
            if troubles:
                event("not_live", logging.ERROR, error="; ".join(troubles), stacks=device_stacks() or None)
            else:
                event("live_again", logging.WARNING)
        return "; ".join(troubles)

    def model(self, name: str, version: str | None = None) -> ServedModel:
        """Return the model that answers now: of the version asked for, else the newest that is ready.

        Raises:
            ModelNotFoundError: no model, or no version, of that name is served.
        """
        return self._table.find(name, version)

    def is_ready(self, name: str, version: str | None = None) -> bool:
        """Return whether clients should send this model requests: not once the server is told to stop.

        Raises:
            ModelNotFoundError: as `model`.
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
            ModelNotFoundError: as `model`.
        """
        return {**self.model(name, version).metadata(), "versions": list(self._table.names()[name])}

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's server metadata; `extensions` lists what works beyond the protocol."""
        extensions = [*EXTENSIONS, *(["model_repository"] if self.config.has_repository else [])]
        return {"name": "nograd", "version": __version__, "extensions": extensions}

    def statistics(self, name: str = "", version: str | None = None) -> dict[str, Any]:
        """Return the statistics of a version of a model; of all its versions, where none is given; of all, without a name.

        Raises:
            ModelNotFoundError: as `model`.
        """
        models: Sequence[ServedModel] = self.models
        if name:
            found = self.model(name, version)
            models = [found] if version is not None else list(self._table.names()[name].values())
        return {"model_stats": [model.statistics() for model in models]}

    def snapshot(self) -> dict[str, Any]:
        """Return what the live page shows."""
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
    """Return a model as a server that starts now would load it: with the code that its files hold now."""
    with fresh_imports():
        return open_model(model, config)
