"""MiniLM over sentences of 5-120 words: 64 clients of a DynamicBatcher, against batches of 32 in the order of arrival, and
against BatchPredictor over the same sentences. One process, one model, in turn.

`python -m benchmarks.mixed [tuned|eager ...]`: with the bundle that `nograd tune` picks here, and with the eager model.

Whatever runs torch does so in a thread that ends, as everything in nograd does (ADR 4): two threads that have run torch share
the cores badly for ever after.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from statistics import median

import numpy as np

import nograd
from benchmarks.common import ratios, report, sentences, spread, tuned_minilm
from nograd.batching import BatchRecord
from nograd.batching.collate import run_together
from nograd.core.tensors import Array, Batch
from nograd.runtime.threads import in_own_thread

ROUNDS, COUNT, CLIENTS = 5, 1536, 64
SUBJECTS = ("tuned", "eager")
GOALS = {"arrival order, 32": 2.0, "BatchPredictor": 0.9}
TOLERANCE = 1e-5


def measure(model: str) -> tuple[dict[str, dict[str, list[float]]], float, float]:
    """Return rates and CPU milliseconds of each round by who answered, the largest difference to one by one, and the share of
    padding.
    """
    predictor = nograd.load(model)
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
    return {name: {"per_s": rates[name], "cpu_ms": cpu_ms[name]} for name in names}, error, padding


def main(subjects: Sequence[str]) -> None:
    table = [["model", "", "sentences/s", "CPU ms each", "64 clients over it"]]
    data, met = {}, True
    for subject in subjects or SUBJECTS:
        with tuned_minilm() if subject == "tuned" else nullcontext("minilm") as model:
            found, error, padding = measure(str(model))
        served = found["64 clients"]["per_s"]
        over = {name: ratios(served, each["per_s"]) for name, each in found.items()}
        table += [
            [subject, name, spread(each["per_s"]), spread(each["cpu_ms"]), spread(over[name])] for name, each in found.items()
        ]
        table.append([subject, "largest difference to one by one", f"{error:.1e}", "", ""])
        table.append([subject, "padding share, 64 clients", f"{padding:.3f}", "", ""])
        met = met and error <= TOLERANCE and all(median(over[name]) >= goal for name, goal in GOALS.items())
        data[subject] = {"found": found, "error": error, "padding": padding}
    goal = "2x the rate of arrival order, 0.9x of offline, answers within 1e-5 of one by one"
    report("mixed", table, data, goal=goal, met=met)


if __name__ == "__main__":
    main(sys.argv[1:])
