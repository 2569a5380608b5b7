"""The checklist: every check in the order in which they run. This module does not import torch."""

from __future__ import annotations

from typing import Any

from nograd.checks import (
    batching,
    caching,
    devices,
    drain,
    errors,
    gradients,
    load,
    memory,
    mode,
    optimisation,
    precision,
    serving,
    sharing,
    warmup,
)
from nograd.checks.drain import StartedServer
from nograd.checks.subject import ModelSubject, TorchSubject
from nograd.client.http import ServerSubject
from nograd.report.verdict import Check

__all__ = ["EVERY", "MODELS", "MODELS_LAST", "MODULES", "SERVERS", "STARTED"]

MODULES: tuple[Check[TorchSubject], ...] = (
    *mode.CHECKS, *gradients.CHECKS, *devices.CHECKS, *sharing.CHECKS, *caching.MODULE_CHECKS, *precision.MODULE_CHECKS,
    *optimisation.MODULE_CHECKS,
)  # fmt: skip
"""Checks of torch modules."""

MODELS: tuple[Check[ModelSubject], ...] = (
    *warmup.CHECKS, *batching.CHECKS, *caching.CHECKS, *optimisation.CHECKS, *precision.CHECKS, *memory.CHECKS,
)  # fmt: skip
"""Checks of anything that runs."""

MODELS_LAST: tuple[Check[ModelSubject], ...] = errors.CHECKS
"""Checks of anything that runs, to run last: their effects on a model may persist."""

SERVERS: tuple[Check[ServerSubject], ...] = (*serving.CHECKS, *load.CHECKS)
"""Checks of running servers."""

STARTED: tuple[Check[StartedServer], ...] = drain.CHECKS
"""Checks of a server that may be stopped."""

EVERY: tuple[Check[Any], ...] = (*MODELS, *MODULES, *MODELS_LAST, *SERVERS, *STARTED)
"""All checks."""
