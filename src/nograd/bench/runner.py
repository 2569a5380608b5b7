"""Run loads against a server, one after the other."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nograd.bench.load import Clients, Load, Plan, measure
from nograd.bench.report import BenchReport
from nograd.bench.summary import Summary
from nograd.bench.target import target_of

__all__ = ["bench", "describe_interruption", "run"]

T = TypeVar("T")


def bench(
    url: str,
    loads: Sequence[Clients | Load],
    plan: Plan,
    *,
    data: Path | None = None,
    on_load: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Run one load after the other against a server, and return the measurements. Ctrl-C returns those so far.

    Args:
        url: URL of a server, or of one of its models.
        loads: the loads, in the order in which they run.
        plan: duration and limits of each load.
        data: a file with requests, or with texts; default: requests built from the model's metadata.
        on_load: called with the name of each load before it starts.

    Raises:
        ModelLoadError: no server answers at the URL, or its models are unknown.
        ConfigError: there is nothing to send.
        UnavailableError: the status of the first response is not 200.
        KeyboardInterrupt: Ctrl-C came before anything was measured.
    """
    target, said = target_of(url, data)
    summaries: list[Summary] = []
    interrupted = ""
    for load in loads:
        on_load(str(load))
        try:
            summaries.append(run(measure(target, load, plan)))
        except KeyboardInterrupt:
            if not summaries:
                raise
            interrupted = describe_interruption(summaries, len(loads))
            break
        if summaries[-1].is_partial:
            interrupted = describe_interruption(summaries, len(loads))
            break
    return BenchReport(said, tuple(summaries), time.strftime("%Y-%m-%d %H:%M", time.gmtime()), interrupted)


def describe_interruption(summaries: Sequence[Summary], num_loads: int) -> str:
    """Return a sentence on what Ctrl-C ended.

    Args:
        summaries: the loads that were measured; the last one may be partial.
        num_loads: loads that were requested.
    """
    last, missing = summaries[-1], num_loads - len(summaries)
    parts = [f"{last.label} was measured for {last.seconds:.3g} s only"] if last.is_partial else []
    if missing:
        parts.append(f"{missing} of {num_loads} loads {'was' if missing == 1 else 'were'} not measured")
    return f"interrupted by Ctrl-C: {'; '.join(parts)}"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result, on uvloop except on Windows."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
