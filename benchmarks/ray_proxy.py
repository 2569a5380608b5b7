"""What Ray's proxy costs: a Linear(16, 4) as `nograd serve` and as `nograd serve --ray` with one replica, in turn.

`python -m benchmarks.ray_proxy`. One client, then 16. CPU time is that of all processes of a server; Ray's are stopped where
they stand while the other server is measured, for what they do at rest would count against it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from statistics import median

from benchmarks.common import HERE, RESULTS, Server, load, ratios, report, spread
from benchmarks.processes import Tree

ROUNDS, CLIENTS = 5, (1, 16)
REQUESTS = {"nograd serve": 10_000, "the same, --ray": 2_000}
PATH = "/v2/models/tiny/infer"


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "ray_proxy_bodies.jsonl"
    rows = [[round(((i * 7 + j * 3) % 17) / 17 - 0.5, 4) for j in range(16)] for i in range(64)]
    inputs = [{"name": "input", "shape": [1, 16], "datatype": "FP32", "data": row} for row in rows]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    serve = [sys.executable, "-m", "nograd", "serve", "benchmarks.models:tiny", "--cache-size", "0", "--port"]
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {clients: [] for clients in CLIENTS} for name in REQUESTS}
    with ExitStack() as stack:
        log = stack.enter_context((RESULTS / "ray_proxy.log").open("wb"))

        def started(port: int, *options: str) -> tuple[Tree, Server]:
            tree = Tree([*serve, str(port), *options], HERE.parent, os.environ, log)
            stack.callback(tree.end)
            tree.wait_until_ready(port)
            return tree, Server(f"http://127.0.0.1:{port}", tree.process.pid)

        servers = dict(zip(REQUESTS, (started(18351), started(18352, "--ray", "--replicas", "1")), strict=True))
        on_ray, _ = servers["the same, --ray"]
        for number in range(ROUNDS + 1):
            for clients in CLIENTS:
                for name, (tree, server) in servers.items():
                    if tree is not on_ray:
                        on_ray.stop()
                    before = tree.cpu_s()
                    one = load(server, PATH, bodies, clients=clients, requests=REQUESTS[name])
                    one["server_cpu_us"] = (tree.cpu_s() - before) / REQUESTS[name] * 1e6
                    on_ray.go()
                    if number:  # the first round warms up
                        found[name][clients].append(one)
    table = [["server", "clients", "p50 ms", "requests/s", "CPU us/request"]]
    for name, by_clients in found.items():
        for clients, runs in by_clients.items():
            columns = [spread([run[key] for run in runs]) for key in ("p50_ms", "per_s", "server_cpu_us")]
            table.append([name, str(clients), *columns])
    alone, proxied = (found[name] for name in REQUESTS)
    more = {clients: ratios(*([run["server_cpu_us"] for run in by[clients]] for by in (proxied, alone))) for clients in CLIENTS}
    for clients, ratio in more.items():
        table.append(["CPU, Ray over alone", str(clients), "", "", f"{spread(ratio)}x"])
    failed = sum(run["failed"] for by_clients in found.values() for runs in by_clients.values() for run in runs)
    report(
        "ray_proxy",
        table,
        {**found, "ratio": {clients: median(ratio) for clients, ratio in more.items()}},
        goal="every request is answered (the ratio is told, not aimed at)",
        met=not failed,
    )


if __name__ == "__main__":
    main()
