"""A server asked for one and a half times what it can do, through HTTP: who is answered in time, who is refused, how fast.

`python -m benchmarks.overload_http [--seconds=60]`. The model is simulated (5 ms and 1 ms a row, 32 rows at most), so that the
device is what is short. Requests come by Poisson's law, whatever becomes of those before them, and have 200 ms each.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any

from benchmarks.common import HERE, RESULTS, report
from benchmarks.peers import OURS, Run, environment_of, installed
from benchmarks.processes import Tree
from nograd.bench.arrivals import arrivals
from nograd.bench.load import Clients, OpenLoop, Plan, measure
from nograd.bench.samples import Samples
from nograd.bench.sending import Pool
from nograd.bench.target import Target

PORT, PATH = 18600, "/v2/models/m/infer"
GOAL_S, TIMES, REFUSED_MS, GROWN_MB = 0.2, 1.5, 5.0, 2.0
BODY = json.dumps(
    {
        "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.5]}],
        "parameters": {"timeout": int(1e6 * GOAL_S)},
    }
).encode()


class Watch(threading.Thread):
    """Asks beside the load, some times a second, at no fixed interval: batches have one, and looks at the server's memory."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(daemon=True)
        self.tree, self.ended = tree, threading.Event()
        self.refusals: list[tuple[float, str | None]] = []
        """Milliseconds, and what Retry-After said, of each."""

        self.memory_mb: list[float] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        number = 0
        while not self.ended.wait(random.uniform(0.05, 0.15)):
            begun = time.perf_counter()
            connection.request("POST", PATH, BODY, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 503:
                self.refusals.append((1000 * (time.perf_counter() - begun), answer.headers["retry-after"]))
            if number % 10 == 0:
                self.memory_mb.append(self.tree.memory_mb())
            number += 1


async def overload(target: Target, rate: float, seconds: float) -> tuple[Samples, float]:
    """Put the load on; return what became of each request, and when the load began."""
    plan = Plan(duration_s=seconds, warmup_s=2.0)
    async with Pool(target, time.perf_counter, timeout_s=30, max_connections=1024) as pool:
        load = OpenLoop(pool.submit, arrivals("poisson", rate), time.perf_counter, time.perf_counter(), plan)
        begun = time.perf_counter() + plan.warmup_s
        while (delay := load.pump()) is not None:  # noqa: ASYNC110  it waits for the time, not for an event
            await asyncio.sleep(delay)
        await pool.wait_quiet()
    return pool.samples, begun


def p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98] if len(values) > 1 else float("inf")


def main(arguments: Sequence[str]) -> None:
    options = dict(each.removeprefix("--").split("=") for each in arguments)
    seconds = float(options.get("seconds", 60))
    RESULTS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context((RESULTS / "overload_http.log").open("wb"))
        folder = installed("nograd")
        command = OURS.command(Run(folder, "benchmarks.models:simulated", PORT))
        tree = Tree(command, HERE.parent, environment_of(OURS, folder, "", PORT), log)
        stack.callback(tree.end)
        target = Target.of(f"http://127.0.0.1:{PORT}{PATH}", [BODY])
        tree.wait_until_ready(PORT)
        capacity = asyncio.run(measure(target, Clients(64), Plan(duration_s=10, warmup_s=2))).rate.per_s
        watch = Watch(tree)
        watch.start()
        cpu_s = tree.cpu_s()
        samples, begun = asyncio.run(overload(target, TIMES * capacity, seconds))
        cpu_s = tree.cpu_s() - cpu_s
        watch.ended.set()
        watch.join()
    judge(samples, begun, seconds, capacity, watch, cpu_s)


def judge(samples: Samples, begun: float, seconds: float, capacity: float, watch: Watch, cpu_s: float) -> None:
    """Report, and say whether the goals are met."""
    rows = [
        (due, done, outcome)
        for due, done, outcome in zip(samples.due, samples.done, samples.outcome, strict=True)
        if begun <= due < begun + seconds
    ]
    outcomes = Counter(outcome for *_, outcome in rows)
    served_ms = [1000 * (done - due) for due, done, outcome in rows if outcome == 200]
    refused_ms = [1000 * (done - due) for due, done, outcome in rows if outcome == 503]
    good = sum(each <= 1000 * GOAL_S for each in served_ms) / seconds
    share, told = good / capacity, all(after for _, after in watch.refusals)
    memory = watch.memory_mb[len(watch.memory_mb) // 3 :]  # behind the start
    grown_mb = median(memory[-5:]) - median(memory[:5])
    said = ", ".join(f"{status}: {count}" for status, count in sorted(outcomes.items()))
    table = [
        ["capacity/s", "offered/s", "in time/s", "of capacity", "p50 ms", "p99 ms", "refused p50 ms", "p99 ms",
         "memory's growth MB", "CPU ms each", "answers"],
        [f"{capacity:.0f}", f"{len(rows) / seconds:.0f}", f"{good:.0f}", f"{share:.3f}", f"{median(served_ms):.1f}",
         f"{p99(served_ms):.1f}", f"{median(refused_ms):.2f}", f"{p99(refused_ms):.2f}", f"{grown_mb:.2f}",
         f"{1000 * cpu_s / len(samples):.3f}", said],
    ]  # fmt: skip
    data: dict[str, Any] = {
        "capacity_per_s": capacity, "in_time_per_s": good, "served_p50_ms": median(served_ms), "served_p99_ms": p99(served_ms),
        "refused_p50_ms": median(refused_ms), "refused_p99_ms": p99(refused_ms), "memory_mb": watch.memory_mb,
        "asked_beside": watch.refusals, "outcomes": {str(status): count for status, count in outcomes.items()},
    }  # fmt: skip
    met = (
        share >= 0.9
        and p99(served_ms) <= 1000 * GOAL_S
        and median(refused_ms) < REFUSED_MS
        and told
        and len(watch.refusals) > 0
        and grown_mb < GROWN_MB
    )
    goal = (
        f"150 % load: in time 90 % of capacity ({share:.1%}), p99 of the served under {1000 * GOAL_S:.0f} ms "
        f"({p99(served_ms):.0f}), refused in under {REFUSED_MS:.0f} ms ({median(refused_ms):.2f}) with Retry-After ({told}), "
        f"memory flat ({grown_mb:+.2f} MB)"
    )
    report("overload_http", table, data, goal=goal, met=met)


if __name__ == "__main__":
    main(sys.argv[1:])
