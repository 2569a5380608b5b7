"""A server of the eager MiniLM while two other programs keep both cores busy: with libgomp's own spinning, and with nograd's.

`python -m benchmarks.busy`. One client, the same sentences, in turn; then the same on the machine as it is.
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from statistics import median
from unittest.mock import patch

from benchmarks.common import RESULTS, busy, load, report, running, sentences, spread

ROUNDS, REQUESTS = 3, 200
OWN = "300000"
"""What libgomp does where nothing is set and no thread is too many."""

GOAL = 2.0


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "busy_bodies.jsonl"
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]} for text in sentences()[:REQUESTS]]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    found: dict[str, dict[str, list[float]]] = {}
    serve = ["nograd", "serve", "minilm", "--cache-size", "0", "--port"]
    with patch.dict(os.environ, {"GOMP_SPINCOUNT": OWN}), running([*serve, "18341"], 18341, "/v2/health/ready") as theirs:
        os.environ.pop("GOMP_SPINCOUNT")
        with running([*serve, "18342"], 18342, "/v2/health/ready") as ours:
            for number in range(ROUNDS + 1):
                for state in ("busy", "as it is"):
                    with busy() if state == "busy" else nullcontext():
                        for name, server in (("libgomp's own", theirs), ("nograd's", ours)):
                            one = load(server, "/v2/models/minilm/infer", bodies, clients=1, requests=REQUESTS)
                            each = found.setdefault(f"{state}: {name}", {})
                            for key in ("p50_ms", "p99_ms", "server_cpu_us") if number else ():
                                each.setdefault(key, []).append(one[key])
    table = [["machine: spinning", "p50 ms", "p99 ms", "CPU ms each"]]
    for name, each in found.items():
        cpu = spread([value / 1000 for value in each["server_cpu_us"]])
        table.append([name, spread(each["p50_ms"]), spread(each["p99_ms"]), cpu])
    faster = median(found["busy: libgomp's own"]["p50_ms"]) / median(found["busy: nograd's"]["p50_ms"])
    cost = median(found["as it is: nograd's"]["p50_ms"]) / median(found["as it is: libgomp's own"]["p50_ms"])
    table.append(["nograd's over libgomp's", f"busy: {faster:.2f}x faster", f"as it is: {cost:.2f}x the time", ""])
    met = faster >= GOAL and cost <= 1.1
    report("busy", table, found, goal=f"{GOAL:g} times faster where it is busy, at most 1.1 times the time else", met=met)


if __name__ == "__main__":
    main()
