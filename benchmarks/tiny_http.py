"""What serving costs beside HTTP itself: a Linear(16, 4) over JSON, 64 clients, against a bare uvicorn "hello", in one run.

Counted is the server's CPU time per request (user + system of its process): the client shares the machine, but not this figure.
"""

from __future__ import annotations

import json
from statistics import median

from benchmarks.common import RESULTS, load, ratios, report, running, spread

ROUNDS, CLIENTS, REQUESTS = 5, 64, 20_000
GOAL = 2.0


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "tiny_bodies.jsonl"
    rows = [[round(((i * 7 + j * 3) % 17) / 17 - 0.5, 4) for j in range(16)] for i in range(64)]
    inputs = [{"name": "input", "shape": [1, 16], "datatype": "FP32", "data": row} for row in rows]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    uvicorn = ["uvicorn", "benchmarks.models:hello", "--port", "18301", "--no-access-log", "--log-level", "warning"]
    uvicorn += ["--lifespan", "off"]
    nograd = ["nograd", "serve", "benchmarks.models:tiny", "--port", "18302", "--cache-size", "0"]
    results: dict[str, list[dict[str, float]]] = {"hello": [], "nograd": []}
    with running(uvicorn, 18301, "/") as hello, running(nograd, 18302, "/v2/health/ready") as server:
        for _ in range(ROUNDS + 1):
            results["hello"].append(load(hello, "/", bodies, clients=CLIENTS, requests=REQUESTS))
            results["nograd"].append(load(server, "/v2/models/tiny/infer", bodies, clients=CLIENTS, requests=REQUESTS))
    kept = {name: found[1:] for name, found in results.items()}  # the first round warms up
    cpu = {name: [run["server_cpu_us"] for run in found] for name, found in kept.items()}
    ratio = ratios(cpu["nograd"], cpu["hello"])
    table = [["server", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "failed"]]
    for name, found in kept.items():
        columns = [spread([run[key] for run in found]) for key in ("server_cpu_us", "per_s", "p50_ms", "p99_ms")]
        table.append([name, *columns, str(int(sum(run["failed"] for run in found)))])
    table.append(["nograd / hello", spread(ratio), "", "", "", ""])
    report("tiny_http", table, kept, goal=f"CPU per request at most {GOAL}x a bare ASGI hello", met=median(ratio) <= GOAL)


if __name__ == "__main__":
    main()
