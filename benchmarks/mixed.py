"""MiniLM over sentences of 5-120 words: 64 clients of a DynamicBatcher, against batches of 32 in the order of arrival, and
against BatchPredictor over the same sentences. One process, one model, in turn.

Whatever runs torch does so in a thread that ends, as everything in nograd does (ADR 4): two threads that have run torch share
the cores badly for ever after.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

import nograd
from benchmarks.common import ratios, report, sentences, spread
from nograd.batching import BatchRecord
from nograd.batching.collate import run_together
from nograd.tensors import Array, Batch
from nograd.threads import in_own_thread

ROUNDS, COUNT, CLIENTS = 5, 1536, 64
GOALS = (2.0, 0.9)
TOLERANCE = 1e-5


def main() -> None:
    predictor = nograd.load("minilm")
    texts = sentences()[:COUNT]
    curve = in_own_thread(lambda: nograd.measure_cost(predictor, predictor.prepare_item(texts[0], 0))).result()
    names = ("arrival order, 32", "BatchPredictor", "64 clients")
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu_ms: dict[str, list[float]] = {name: [] for name in names}
    records: list[BatchRecord] = []
    answers: dict[str, Array] = {}

    def arrival_order() -> Array:
        found: list[Batch] = []
        for start in range(0, COUNT, 32):
            parts = [predictor.prepare_item(text, 0) for text in texts[start : start + 32]]
            found += run_together(parts, predictor.run, predictor.signature)
        return np.concatenate([outputs["embedding"] for outputs in found])

    def offline() -> Array:
        return np.stack([answer["embedding"] for answer in nograd.BatchPredictor(predictor).predict(texts)])

    async def served() -> Array:
        found: dict[int, Array] = {}
        todo: Iterator[int] = iter(range(COUNT))
        async with nograd.DynamicBatcher(predictor, cost=curve, observer=records.append) as batcher:

            async def client() -> None:
                for index in todo:
                    found[index] = (await batcher.predict([texts[index]]))[0]["embedding"]

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return np.stack([found[index] for index in range(COUNT)])

    runs: tuple[Callable[[], Array], ...] = (
        lambda: in_own_thread(arrival_order).result(),
        offline,
        lambda: asyncio.run(served()),
    )
    for turn in range(ROUNDS + 1):
        for name, run in zip(names, runs, strict=True):
            begun, cpu = time.perf_counter(), time.process_time()
            answers[name] = run()
            if turn:  # the first round warms up
                rates[name].append(COUNT / (time.perf_counter() - begun))
                cpu_ms[name].append((time.process_time() - cpu) / COUNT * 1e3)
    alone = in_own_thread(lambda: np.stack([predictor.predict([text])[0]["embedding"] for text in texts])).result()
    error = float(np.abs(answers["64 clients"] - alone).max())
    padding = sum(record.padding_share * record.rows for record in records) / sum(record.rows for record in records)
    table = [["", "sentences/s", "CPU ms each"], *([name, spread(rates[name]), spread(cpu_ms[name])] for name in names)]
    over = [ratios(rates["64 clients"], rates[name]) for name in names[:2]]
    table += [[f"64 clients / {name}", spread(ratio), ""] for name, ratio in zip(names, over, strict=False)]
    table += [["largest difference to one by one", f"{error:.1e}", ""], ["padding share, 64 clients", f"{padding:.3f}", ""]]
    met = all(median(ratio) >= goal for ratio, goal in zip(over, GOALS, strict=True)) and error <= TOLERANCE
    goal = "2x the rate of arrival order, 0.9x of offline, answers within 1e-5 of one by one"
    report("mixed", table, {"per_s": rates, "cpu_ms": cpu_ms, "error": error, "padding": padding}, goal=goal, met=met)


if __name__ == "__main__":
    main()
