"""A closed-loop HTTP load: `python -m benchmarks.load URL BODIES CLIENTS REQUESTS` prints rate and latencies as JSON.

BODIES is a file with one JSON body a line, cycled over. What sends is `nograd bench`'s generator, here without its questions
about models, so that a server that is no model server can be measured, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nograd.bench import Clients, Plan, measure, run
from nograd.bench.target import Target


def main() -> None:
    url, bodies, clients, requests = sys.argv[1:]
    target = Target.of(url, Path(bodies).read_bytes().splitlines())
    found = run(measure(target, Clients(int(clients)), Plan(warmup_s=0, requests=int(requests), timeout_s=300)))
    lost = {what: count for what, count in found.errors.items() if not what[0].isdigit()}
    if lost:
        raise SystemExit(f"{found.requests} requests were sent, and not all answered: {lost}")
    at = {f"{name}_ms": 1000 * (found.percentiles[name] or found.max_s or 0.0) for name in ("p50", "p95", "p99")}
    failed = found.requests - found.answered
    out = {"per_s": found.requests / found.seconds, **at, "failed": failed, "wall_s": found.seconds}
    sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
