"""MiniLM under 16 and 64 clients against BatchPredictor over the same sentences, same backend, measured in turn.

Both run the eager model with torch's default threads. The server chooses its batches from what waits, BatchPredictor from a
window of 512 sentences sorted by length.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import median

from benchmarks.common import HERE, RESULTS, load, ratios, report, running, sentences, spread

ROUNDS, REQUESTS, GOAL = 3, 512, 0.9
CLIENTS = (16, 64)


def offline() -> None:
    """In a process of its own: read a count from stdin, embed that many sentences, print seconds and CPU seconds; again."""
    import nograd

    bulk = nograd.BatchPredictor(nograd.load("minilm"))
    texts = sentences()
    list(bulk.predict(texts[:64]))
    for line in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in bulk.predict(texts[: int(line)]))
        per_s, cpu_ms = count / (time.perf_counter() - begun), (time.process_time() - cpu) / count * 1e3
        sys.stdout.write(json.dumps([per_s, cpu_ms]) + "\n")
        sys.stdout.flush()


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "minilm_bodies.jsonl"
    texts = sentences()[:REQUESTS]
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]} for text in texts]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    command = [sys.executable, "-m", "benchmarks.minilm", "offline"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    rate: dict[str, list[float]] = {"BatchPredictor": [], **{f"server, {clients} clients": [] for clients in CLIENTS}}
    cpu_ms: dict[str, list[float]] = {name: [] for name in rate}
    latency: dict[str, list[float]] = {name: [] for name in rate}
    with (
        worker,
        running(["nograd", "serve", "minilm", "--port", "18312", "--cache-mb", "0"], 18312, "/v2/health/ready") as server,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        load(server, "/v2/models/minilm/infer", bodies, clients=16, requests=64)
        for _ in range(ROUNDS):
            worker.stdin.write(f"{REQUESTS}\n")
            worker.stdin.flush()
            per_s, cpu = json.loads(worker.stdout.readline())
            rate["BatchPredictor"].append(per_s)
            cpu_ms["BatchPredictor"].append(cpu)
            for clients in CLIENTS:
                found = load(server, "/v2/models/minilm/infer", bodies, clients=clients, requests=REQUESTS)
                name = f"server, {clients} clients"
                rate[name].append(found["per_s"])
                cpu_ms[name].append(found["server_cpu_us"] / 1000)
                latency[name].append(found["p99_ms"])
        worker.stdin.close()
    table = [["what", "sentences/s", "of BatchPredictor", "CPU ms each", "p99 ms"]]
    met = True
    for name, rates in rate.items():
        share = ratios(rates, rate["BatchPredictor"])
        met = met and median(share) >= GOAL
        table.append([name, spread(rates), spread(share), spread(cpu_ms[name]), spread(latency[name]) if latency[name] else ""])
    data = {"rate": rate, "cpu_ms": cpu_ms, "p99_ms": latency, "requests": REQUESTS}
    report("minilm", table, data, goal=f"served rate at least {GOAL:.0%} of BatchPredictor", met=met)


if __name__ == "__main__":
    offline() if sys.argv[1:] == ["offline"] else main()
