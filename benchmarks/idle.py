"""CPU of a server that nobody asks anything: tiny and MiniLM, 20 s each after one answered request."""

from __future__ import annotations

import json
import time
from statistics import median
from urllib.request import Request, urlopen

from benchmarks.common import Server, report, running, spread

ROUNDS, SECONDS, GOAL = 3, 20.0, 0.002

BODIES = {
    "tiny": {"name": "input", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16},
    "minilm": {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a sentence"]},
}


def share(server: Server, model: str) -> float:
    """Return the CPU seconds per second, after one request."""
    body = json.dumps({"inputs": [BODIES[model]]}).encode()
    with urlopen(
        Request(f"{server.url}/v2/models/{model}/infer", body, {"content-type": "application/json"}), timeout=60
    ) as answer:
        assert answer.status == 200
    time.sleep(2)  # what the request set in motion has ended
    before = server.cpu_s()
    time.sleep(SECONDS)
    return (server.cpu_s() - before) / SECONDS


def main() -> None:
    found: dict[str, list[float]] = {}
    models = {"tiny": "benchmarks.models:tiny", "minilm": "minilm"}
    for port, (name, source) in enumerate(models.items(), 18321):
        with running(["nograd", "serve", source, "--port", str(port)], port, "/v2/health/ready") as server:
            found[name] = [share(server, name) for _ in range(ROUNDS)]
    table = [
        ["server", "CPU, % of a core"],
        *([name, spread([100 * each for each in shares])] for name, shares in found.items()),
    ]
    met = all(median(shares) <= GOAL for shares in found.values())
    report("idle", table, found, goal=f"at most {GOAL:.1%} of a core", met=met)


if __name__ == "__main__":
    main()
