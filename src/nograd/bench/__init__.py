"""`nograd bench`: load against any server of the Open Inference Protocol, and what became of it."""

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
    """Put one load after the other on a server, and return what was measured.

    Args:
        url: of a server, or of one of its models.
        loads: in the order in which they are put on.
        plan: how long each.
        data: a file with requests, or with texts; default: requests made of the model's metadata.
        on_load: told the name of each load before it begins.

    Raises:
        ModelLoadError: nothing answers there, or its models are not known.
        ConfigError: there is nothing to send.
        UnavailableError: the first request is not answered 200.
    """
    target, said = target_of(url, data)
    summaries = []
    for load in loads:
        on_load(str(load))
        summaries.append(run(measure(target, load, plan)))
    return Report(said, tuple(summaries), time.strftime("%Y-%m-%d %H:%M", time.gmtime()))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
