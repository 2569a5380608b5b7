"""BatchPredictor over 100,000 tiny rows from a generator: peak memory growth, and CPU per row beside the model's own."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.common import in_turn, report, spread
from nograd import BatchPredictor, Predictor
from nograd.core.tensors import Array

ROWS, ROUNDS = 100_000, 5
GOAL_US, GOAL_MIB = 20.0, 64.0


def rows() -> Iterator[Array]:
    for i in range(ROWS):
        yield np.full(16, i % 97, dtype=np.float32)


def cpu_us(run: Iterator[object]) -> float:
    begun = time.process_time()
    count = sum(1 for _ in run)
    assert count == ROWS
    return (time.process_time() - begun) / count * 1e6


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    torch.set_num_threads(1)
    predictor = Predictor(torch.nn.Linear(16, 4), sample=torch.rand(2, 16))
    bulk = BatchPredictor(predictor)
    batch = {"input": np.zeros((32, 16), dtype=np.float32)}

    def model_alone() -> Iterator[object]:
        for _ in range(ROWS // 32):
            yield from predictor.run(batch)["output"]

    next(bulk.predict(rows()))
    gc.collect()
    before = rss_mib()
    times = in_turn(
        ROUNDS,
        predictor=lambda: cpu_us(bulk.predict(rows())),
        model=lambda: cpu_us(model_alone()),
        rows=lambda: cpu_us(rows()),
    )
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    beside = [a - b - c for a, b, c in zip(times["predictor"], times["model"], times["rows"], strict=True)]
    table = [
        ["what", "CPU us a row"],
        ["BatchPredictor, all in all", spread(times["predictor"])],
        ["the model's batches alone", spread(times["model"])],
        ["making the rows", spread(times["rows"])],
        ["BatchPredictor beside model and rows", spread(beside)],
        ["peak memory growth, MiB", f"{growth:.1f}"],
    ]
    met = median(beside) < GOAL_US and growth < GOAL_MIB
    data = {**times, "beside": beside, "growth_mib": growth, "rows": ROWS}
    report("bulk_rows", table, data, goal=f"under {GOAL_US} us a row outside the model, under {GOAL_MIB} MiB growth", met=met)


if __name__ == "__main__":
    main()
