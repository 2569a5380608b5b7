"""Serve the winner through the real batcher under load, and predict the same arrivals from the measured curve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nograd.batching import Batcher, BatchRecord
from nograd.batching.choice import policy_for
from nograd.batching.queue import Waiting
from nograd.batching.simulation import simulate
from nograd.core.cost import CostCurve
from nograd.core.tensors import Batch, Signature
from nograd.errors import NogradError

if TYPE_CHECKING:
    from nograd.predictors.predictor import Predictor

__all__ = ["arrivals_of", "predicted_s", "serve_under_load"]


def arrivals_of(rows_per_s: float, seconds: float, seed: int) -> list[float]:
    """Return the times of Poisson arrivals, in seconds from the start."""
    gaps = np.random.default_rng(seed).exponential(1 / rows_per_s, max(2, int(rows_per_s * seconds)))
    times: list[float] = np.cumsum(gaps).tolist()
    return times


def predicted_s(
    arrivals: Sequence[float], lengths: Sequence[int], signature: Signature, cost: CostCurve, *, lanes: int, max_batch_size: int
) -> list[float]:
    """Return the predicted seconds of each request: the serving policy on a simulated device whose run times follow the curve.

    Args:
        arrivals: arrival times, in seconds.
        lengths: length of each request's row; 1 if no dimension varies.
        signature: the model's signature.
        cost: the cost curve.
        lanes: number of runs at the same time.
        max_batch_size: maximum rows in one run.
    """
    policy = policy_for(signature, max_batch_size=max_batch_size, cost=cost)
    requests = [Waiting(1, at, length=length, shape=(length,)) for at, length in zip(arrivals, lengths, strict=True)]

    def seconds(rows: int, longest: int) -> float:
        return cost.extended(rows * longest if cost.unit == "tokens" else rows)

    done = simulate(policy, requests, seconds, lanes=lanes).done
    return [done[request] - request.arrived for request in requests]


def serve_under_load(
    runner: Predictor,
    parts: Sequence[Batch],
    cost: CostCurve,
    *,
    rows_per_s: float,
    seconds: float,
    max_batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Return latencies, and the ratio of measured to predicted run times.

    The load is open loop: a slow answer delays no arrival (no coordinated omission).

    Args:
        runner: the predictor that serves.
        parts: rows to send, repeated as often as needed.
        cost: the measured cost curve.
        rows_per_s: offered load.
        seconds: duration of the arrivals.
        max_batch_size: maximum rows in one run.
        seed: random seed of the arrivals.
    """
    arrivals = arrivals_of(rows_per_s, seconds, seed)
    signature = runner.signature
    chosen = [parts[place % len(parts)] for place in np.random.default_rng(seed + 1).permutation(len(arrivals))]
    lengths = [sum(signature.sizes_of(part)) or 1 for part in chosen]
    records: list[BatchRecord] = []
    latencies, span_s = asyncio.run(_drive(runner, chosen, arrivals, cost, max_batch_size, records.append))
    predicted = predicted_s(arrivals, lengths, signature, cost, lanes=runner.lanes, max_batch_size=max_batch_size)
    known = [record for record in records if record.predicted_s]
    return {
        "offered_per_s": len(arrivals) / arrivals[-1],
        "served_per_s": len(latencies) / span_s,
        "failed": len(arrivals) - len(latencies),
        **{f"p{q}_s": float(np.quantile(latencies, q / 100)) if latencies else 0.0 for q in (50, 99)},
        **{f"predicted_p{q}_s": float(np.quantile(predicted, q / 100)) for q in (50, 99)},
        "cost_ratio": _robust_ratio(known),
        "batches": len(records),
    }


def _robust_ratio(records: Sequence[BatchRecord]) -> float:
    """Return the median of measured over predicted run time, weighted by predicted time. One stolen second hardly moves it."""
    if not records:
        return 1.0
    pairs = sorted((record.run_s / record.predicted_s, record.predicted_s) for record in records)
    weights = np.cumsum([weight for _, weight in pairs])
    return pairs[int(np.searchsorted(weights, weights[-1] / 2))][0]


async def _drive(
    runner: Predictor, parts: Sequence[Batch], arrivals: Sequence[float], cost: CostCurve, max_batch_size: int, observer: Any
) -> tuple[list[float], float]:
    latencies: list[float] = []
    begun = time.perf_counter()

    async def send(batcher: Batcher, part: Batch, due: float) -> None:
        try:
            await batcher.run([part])
        except NogradError:
            return
        latencies.append(time.perf_counter() - begun - due)

    serving = partial(Batcher, max_batch_size=max_batch_size, cost=cost, observer=observer, max_queue_rows=1 << 16)
    async with serving(runner) as batcher:
        begun = time.perf_counter()
        tasks = []
        for part, due in zip(parts, arrivals, strict=True):
            wait_s = due - (time.perf_counter() - begun)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(send(batcher, part, due)))
        await asyncio.gather(*tasks)
        span_s = time.perf_counter() - begun
    return latencies, span_s
