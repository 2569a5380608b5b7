"""All models of one server: found by name, started, drained and stopped. No HTTP here; `http` is a thin front of it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from nograd import __version__
from nograd.errors import ConfigError, ModelNotFoundError
from nograd.predictor import Predictor
from nograd.server.access import AccessLog
from nograd.server.caching import open_caches
from nograd.server.config import ServeConfig
from nograd.server.keys import open_door
from nograd.server.liveness import device_stacks
from nograd.server.logs import event, write
from nograd.server.metrics import Metrics
from nograd.server.served import ServedModel
from nograd.server.tracing import open_tracing

__all__ = ["InferenceService"]

EXTENSIONS = ("binary_tensor_data", "statistics", "model_configuration", "schedule_policy")
"""Of the protocol, as Triton names them: what works, and no more."""


class InferenceService:
    """All models of one server."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.draining = False
        self.drained = asyncio.Event()
        self.door = open_door(config.api_keys_file, config.open_without_key, os.environ)
        self.access = AccessLog(config.log_format, write) if config.access_log else None
        self.tracing = open_tracing(config.traces)
        self._models: dict[str, ServedModel] = {}
        self.infer_paths: dict[bytes, ServedModel] = {}
        """Paths of infer calls, as clients write them; the same in other letters (percent-encoded) is found by `model`."""

        self._is_troubled = False
        self._dropped_told = 0
        self._flights = open_caches(config)
        self._begun = time.monotonic()

    def add(self, name: str, predictor: Predictor) -> ServedModel:
        """Serve a model under a name; it answers after `start`."""
        model = ServedModel(name, predictor, self.config, self.metrics, self._flights)
        self._models[name] = model
        base = f"/v2/models/{quote(name, safe='')}"
        for path in (f"{base}/infer", f"{base}/versions/{model.version}/infer"):
            self.infer_paths[path.encode()] = model
        return model

    async def start(self) -> None:
        """Warm all models and open them."""
        if self.access is not None:
            self.access.open()
        for model in self._models.values():
            await model.start()

    def drain(self) -> None:
        """Turn readiness false and refuse new requests; what was accepted is still answered."""
        if not self.draining:
            event("draining", grace_s=self.config.grace_s)
        self.draining = True
        self.drained.set()
        for model in self._models.values():
            model.drain()

    async def stop(self) -> None:
        """Answer what was accepted, within the grace, and end."""
        self.drain()
        await asyncio.gather(*(model.stop() for model in self._models.values()))
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
            self.door = open_door(self.config.api_keys_file, self.config.open_without_key, os.environ)
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
        """All models, in the order in which they were added."""
        return tuple(self._models.values())

    @property
    def ready(self) -> bool:
        """True when every model answers."""
        return not self.draining and all(model.ready for model in self._models.values()) and not self.trouble()

    def trouble(self) -> str:
        """Return why only a restart would help, in one sentence; empty where nothing is wrong. The log hears of it once."""
        troubles = [trouble for model in self._models.values() if (trouble := model.trouble())]
        if bool(troubles) != self._is_troubled:
            self._is_troubled = bool(troubles)
            if troubles:
                event("not_live", logging.ERROR, error="; ".join(troubles), stacks=device_stacks() or None)
            else:
                event("live_again", logging.WARNING)
        return "; ".join(troubles)

    def model(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model by name.

        Raises:
            ModelNotFoundError: no model, or no version, of that name is served.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelNotFoundError(f"there is no model {name!r}; served here: {', '.join(map(repr, self._models))}")
        if version is not None and version != model.version:
            raise ModelNotFoundError(f"model {name!r} has no version {version!r}; served here: {model.version!r}")
        return model

    def metadata(self) -> dict[str, Any]:
        """Return the protocol's server metadata; `extensions` lists what works beyond the protocol."""
        return {"name": "nograd", "version": __version__, "extensions": list(EXTENSIONS)}

    def statistics(self, name: str = "", version: str | None = None) -> dict[str, Any]:
        """Return the statistics of a model, or of all where no name is given.

        Raises:
            ModelNotFoundError: as `model`.
        """
        models = [self.model(name, version)] if name else self._models.values()
        return {"model_stats": [model.statistics() for model in models]}

    def snapshot(self) -> dict[str, Any]:
        """Return what the live page shows."""
        server = {
            "name": "nograd",
            "version": __version__,
            "uptime_s": time.monotonic() - self._begun,
            "ready": self.ready,
            "draining": self.draining,
        }
        return {"server": server, "models": [model.snapshot() for model in self._models.values()]}

    def metrics_text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        for model in self._models.values():
            model.refresh_metrics()
        self.metrics.live.set(not self.trouble())
        if self.access is not None:
            self.metrics.dropped.inc(self.access.dropped - self._dropped_told)
            self._dropped_told = self.access.dropped
        return self.metrics.text()
