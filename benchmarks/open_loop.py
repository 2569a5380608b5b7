"""Open-loop traffic into an `async def submit`: Poisson arrivals that do not wait for answers. Imports nothing of nograd."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from statistics import median, quantiles
from typing import Any

__all__ = ["CAP", "GOAL_S", "drive", "execute", "lone"]

CAP, GOAL_S = 32, 0.2


def execute(rows: int) -> None:
    """The simulated executor: 5 ms and 1 ms a row, without holding the interpreter."""
    time.sleep((5 + rows) / 1000)


async def drive(submit: Callable[[], Awaitable[Any]], *, rate: float, seconds: float, seed: int) -> dict[str, float]:
    """Send requests for some seconds; return the share answered within the goal, and latencies in ms of those answered."""
    random_ = random.Random(seed)
    begun = time.perf_counter() + 0.05
    latencies: list[float] = []
    failed = 0

    async def one(due: float) -> None:
        nonlocal failed
        try:
            await submit()
        except Exception:  # noqa: BLE001  refused or late, whatever the batcher calls it
            failed += 1
        else:
            latencies.append(time.perf_counter() - due)

    tasks = []
    at = begun
    while at < begun + seconds:
        at += random_.expovariate(rate)
        delay = at - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(at)))
    await asyncio.gather(*tasks)
    good = sum(latency <= GOAL_S for latency in latencies)
    times = sorted(latencies) or [float("inf")] * 2
    p99 = quantiles(times, n=100)[98] if len(times) > 1 else times[0]
    return {
        "goodput": good / len(tasks),
        "answered": len(latencies) / len(tasks),
        "p50_ms": 1e3 * median(times),
        "p99_ms": 1e3 * p99,
    }


async def lone(submit: Callable[[], Awaitable[Any]], count: int = 100) -> float:
    """Return the median milliseconds of a request that nobody else disturbs."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await submit()
        times.append(time.perf_counter() - begun)
    return 1e3 * median(times)
