"""MiniLM under 16 and 64 clients against BatchPredictor over the same sentences, same backend, measured in turn.

`python -m benchmarks.minilm [tuned|eager ...]`: with the bundle that `nograd tune` picks here, as `make demo` serves it, and
with the eager model and torch's default threads. The server chooses its batches from what waits, BatchPredictor from a window
of 512 sentences sorted by length; given 16 at a time, it sees what a server of 16 clients sees.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from benchmarks.common import HERE, RESULTS, load, ratios, report, running, sentences, spread, tuned_minilm

ROUNDS, REQUESTS, GOAL = 5, 512, 0.9
CLIENTS = (16, 64)
SUBJECTS = ("tuned", "eager")


def offline(model: str) -> None:
    """In a process of its own: read how many sentences to embed, and how many at a time; print the cost; again."""
    import nograd

    bulk = nograd.BatchPredictor(nograd.load(model))
    texts = sentences()
    list(bulk.predict(texts[:64]))
    for line in sys.stdin:
        count, window = map(int, line.split())
        begun, cpu = time.perf_counter(), time.process_time()
        for start in range(0, count, window):
            list(bulk.predict(texts[start : start + window]))
        per_s, cpu_ms = count / (time.perf_counter() - begun), (time.process_time() - cpu) / count * 1e3
        sys.stdout.write(json.dumps([per_s, cpu_ms]) + "\n")
        sys.stdout.flush()


def measure(model: str, bodies: Path) -> dict[str, dict[str, list[float]]]:
    """Return rates, CPU milliseconds and p99 milliseconds of each round, by who answered."""
    command = [sys.executable, "-m", "benchmarks.minilm", "offline", model]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    windows = {"BatchPredictor": REQUESTS, **{f"BatchPredictor, {count} at a time": count for count in CLIENTS}}
    names = [*windows, *(f"server, {clients} clients" for clients in CLIENTS)]
    found = {name: {"per_s": [], "cpu_ms": [], "p99_ms": []} for name in names}  # type: dict[str, dict[str, list[float]]]
    serving = ["nograd", "serve", model, "--port", "18312", "--cache-size", "0"]
    with worker, running(serving, 18312, "/v2/health/ready") as server:
        assert worker.stdin is not None
        assert worker.stdout is not None
        load(server, "/v2/models/minilm/infer", bodies, clients=16, requests=64)
        for _ in range(ROUNDS):
            for name, window in windows.items():
                worker.stdin.write(f"{REQUESTS} {window}\n")
                worker.stdin.flush()
                per_s, cpu = json.loads(worker.stdout.readline())
                found[name]["per_s"].append(per_s)
                found[name]["cpu_ms"].append(cpu)
            for clients in CLIENTS:
                one = load(server, "/v2/models/minilm/infer", bodies, clients=clients, requests=REQUESTS)
                each = found[f"server, {clients} clients"]
                each["per_s"].append(one["per_s"])
                each["cpu_ms"].append(one["server_cpu_us"] / 1000)
                each["p99_ms"].append(one["p99_ms"])
        worker.stdin.close()
    return found


def main(subjects: Sequence[str]) -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "minilm_bodies.jsonl"
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]} for text in sentences()[:REQUESTS]]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    table = [["model", "what", "sentences/s", "of BatchPredictor", "CPU ms each", "p99 ms"]]
    data, met = {}, True
    for subject in subjects or SUBJECTS:
        with tuned_minilm() if subject == "tuned" else nullcontext("minilm") as model:
            data[subject] = measure(str(model), bodies)
        offline_per_s = data[subject]["BatchPredictor"]["per_s"]
        for name, each in data[subject].items():
            share = ratios(each["per_s"], offline_per_s)
            met = met and (median(share) >= GOAL or not name.startswith("server"))
            p99 = spread(each["p99_ms"]) if each["p99_ms"] else ""
            table.append([subject, name, spread(each["per_s"]), spread(share), spread(each["cpu_ms"]), p99])
    report("minilm", table, data, goal=f"served rate at least {GOAL:.0%} of BatchPredictor", met=met)


if __name__ == "__main__":
    offline(sys.argv[2]) if sys.argv[1:2] == ["offline"] else main(sys.argv[1:])
