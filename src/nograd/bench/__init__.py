"""`nograd bench`: send load to any server of the Open Inference Protocol, and measure the responses."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nograd.bench.load import Clients, Load, Plan, measure
from nograd.bench.report import Report
from nograd.bench.target import target_of

__all__ = ["Clients", "Load", "Plan", "Report", "bench", "measure", "run"]

T = TypeVar("T")


def bench(
    url: str,
    loads: Sequence[Clients | Load],
    plan: Plan,
    *,
    data: Path | None = None,
    on_load: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run one load after the other against a server, and return the measurements.

    Args:
        url: URL of a server, or of one of its models.
        loads: the loads, in the order in which they run.
        plan: duration and limits of each load.
        data: a file with requests, or with texts; default: requests made from the model's metadata.
        on_load: called with the name of each load before it starts.

    Raises:
        ModelLoadError: no server answers at the URL, or its models are unknown.
        ConfigError: there is nothing to send.
        UnavailableError: the status of the first response is not 200.
    """
    target, said = target_of(url, data)
    summaries = []
    for load in loads:
        on_load(str(load))
        summaries.append(run(measure(target, load, plan)))
    return Report(said, tuple(summaries), time.strftime("%Y-%m-%d %H:%M", time.gmtime()))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result, on uvloop except on Windows."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
