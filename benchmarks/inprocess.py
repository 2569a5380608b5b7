"""What a DynamicBatcher costs in one process: 20,000 tiny requests, 256 at a time, a model that does nothing.

Beside it, each in turn: a bare asyncio queue that promises nothing (no deadline, no bound, no cancelling, one bad item fails
all), and the package `batched` (`pip install batched`). CPU time of the whole process; the plain event loop for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import numpy as np
from batched import aio  # type: ignore[import-not-found, import-untyped, unused-ignore]

from benchmarks.common import ratios, report, spread
from nograd import Backend, CostCurve, DynamicBatcher, Predictor, Signature, TensorSpec
from nograd.core.tensors import Array, Batch

ROUNDS, REQUESTS, CLIENTS, CAP = 7, 20_000, 256, 32
GOALS = (10.0, 3.0)
ROW: Array = np.arange(16, dtype=np.float32)[None]


class Nothing(Backend):
    """Answers with its input."""

    name, device, lanes = "nothing", "cpu", 1
    signature = Signature((TensorSpec("x", "float32", (16,)),), (TensorSpec("y", "float32", (16,)),))

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"]}


async def measured(call: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Return CPU microseconds a request, and requests per second."""
    left = REQUESTS

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await call()
    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return (time.process_time() - cpu) / REQUESTS * 1e6, REQUESTS / (time.perf_counter() - begun)


async def nograd_thread() -> tuple[float, float]:
    async with DynamicBatcher(Predictor(Nothing()), max_batch_size=CAP) as batcher:
        return await measured(lambda: batcher.predict(ROW, timeout_s=30.0))


async def nograd_inline() -> tuple[float, float]:
    cost = CostCurve((1, CAP), (1e-5, 5e-5))
    async with DynamicBatcher(Predictor(Nothing()), max_batch_size=CAP, cost=cost) as batcher:
        return await measured(lambda: batcher.predict(ROW, timeout_s=30.0))


async def bare_queue() -> tuple[float, float]:
    queue: asyncio.Queue[tuple[Array, asyncio.Future[Array]]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def consume() -> None:
        while True:
            items = [await queue.get()]
            while len(items) < CAP and not queue.empty():
                items.append(queue.get_nowait())
            for row, future in items:
                future.set_result(row)

    async def call() -> Array:
        future: asyncio.Future[Array] = loop.create_future()
        await queue.put((ROW, future))
        return await future

    consumer = asyncio.create_task(consume())
    found = await measured(call)
    consumer.cancel()
    return found


async def package_batched() -> tuple[float, float]:
    @aio.dynamically(batch_size=CAP, timeout_ms=2.0)  # type: ignore[untyped-decorator, misc, unused-ignore]
    async def call(rows: list[Any]) -> list[Any]:
        return list(rows)

    row = tuple(ROW[0].tolist())
    return await measured(lambda: call(row))


def main() -> None:
    kinds = {
        "nograd, inline": nograd_inline,
        "nograd, thread": nograd_thread,
        "bare queue": bare_queue,
        "batched": package_batched,
    }
    cpu: dict[str, list[float]] = {name: [] for name in kinds}
    rate: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(ROUNDS + 1):
        for name, kind in kinds.items():
            found = asyncio.run(kind())
            if turn:
                cpu[name].append(found[0])
                rate[name].append(found[1])
    table = [["", "CPU us/request", "requests/s"], *([name, spread(cpu[name]), spread(rate[name])] for name in kinds)]
    faster = ratios(rate["nograd, inline"], rate["batched"])
    table.append(["nograd, inline / batched", "", spread(faster)])
    met = median(cpu["nograd, inline"]) <= GOALS[0] and median(faster) >= GOALS[1]
    report("inprocess", table, {"cpu_us": cpu, "per_s": rate}, goal="10 us CPU a request; 3x the rate of `batched`", met=met)


if __name__ == "__main__":
    main()
