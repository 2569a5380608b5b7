"""The real DynamicBatcher over a simulated executor (5 ms + 1 ms a row, 32 rows at most, 865 requests/s at most), open loop.

BentoML's dispatcher runs on the same harness in turn, in an interpreter of its own: `BENTOML_PYTHON` names it; without it, the
benchmark makes a virtual environment below `benchmarks/results`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import HERE, RESULTS, report, spread
from benchmarks.models import Executor
from benchmarks.open_loop import CAP, GOAL_S, drive, execute, lone
from nograd import DynamicBatcher, Predictor, measure_cost

ROUNDS, SECONDS, RATES = 3, 5.0, (20, 400, 700, 1200)


def bentoml_python() -> str:
    """Return an interpreter that has bentoml."""
    if found := os.environ.get("BENTOML_PYTHON"):
        return found
    folder = RESULTS / "venv-bentoml"
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "bentoml"], check=True)
    return str(folder / "bin" / "python")


def ask(peer: subprocess.Popen[str], rate: float, seconds: float, seed: int) -> Any:
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(json.dumps([rate, seconds, seed]) + "\n")
    peer.stdin.flush()
    return json.loads(peer.stdout.readline())


async def ours(rate: float, seconds: float, seed: int) -> dict[str, float]:
    predictor = Predictor(Executor())
    row = {"x": np.zeros((1, 1), np.float32)}
    curve = measure_cost(predictor, row, CAP)
    async with DynamicBatcher(predictor, max_batch_size=CAP, cost=curve, inline=False) as batcher:

        async def submit() -> None:
            await batcher.run([row], timeout_s=GOAL_S)

        if not rate:
            return {"lone_ms": await lone(submit)}
        return await drive(submit, rate=rate, seconds=seconds, seed=seed)


def direct_ms() -> float:
    times = []
    for _ in range(100):
        begun = time.perf_counter()
        execute(1)
        times.append(time.perf_counter() - begun)
    return 1e3 * median(times)


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    command = [bentoml_python(), str(Path(HERE) / "bentoml_overload.py")]
    found: dict[str, dict[int, list[dict[str, float]]]] = {"nograd": {}, "bentoml": {}}
    waits: dict[str, list[float]] = {"direct": [], "nograd": [], "bentoml": []}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        for turn in range(ROUNDS):
            waits["direct"].append(direct_ms())
            waits["nograd"].append(asyncio.run(ours(0, 0, 0))["lone_ms"])
            waits["bentoml"].append(ask(peer, 0, 0, 0)["lone_ms"])
            for rate in RATES:
                found["nograd"].setdefault(rate, []).append(asyncio.run(ours(rate, SECONDS, turn)))
                found["bentoml"].setdefault(rate, []).append(ask(peer, rate, SECONDS, turn))
        assert peer.stdin is not None
        peer.stdin.close()
    table = [["requests/s", "batcher", "within 200 ms, %", "answered, %", "p50 ms", "p99 ms"]]
    for rate in RATES:
        for name, runs in found.items():
            columns = [spread([100 * run[key] for run in runs[rate]]) for key in ("goodput", "answered")]
            columns += [spread([run[key] for run in runs[rate]]) for key in ("p50_ms", "p99_ms")]
            table.append([str(rate), name, *columns])
    table += [["lone", name, "", "", spread(times), ""] for name, times in waits.items()]
    middle = {rate: {key: median(run[key] for run in runs) for key in runs[0]} for rate, runs in found["nograd"].items()}
    extra_ms = median(waits["nograd"]) - median(waits["direct"])
    met = all(middle[rate]["goodput"] == 1 for rate in RATES[:3]) and extra_ms <= 1
    met = met and middle[1200]["goodput"] >= 0.7 and middle[1200]["p99_ms"] < 1e3 * GOAL_S
    goal = "all within 200 ms at 20, 400, 700/s; a lone one within 1 ms of direct; 70 % and p99 below 200 ms at 1200/s"
    report("overload", table, {"runs": found, "lone_ms": waits}, goal=goal, met=met)


if __name__ == "__main__":
    main()
