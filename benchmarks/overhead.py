"""What a lone request pays for the server: p50 over HTTP against `predictor.predict` of the same sentence.

Measured in turn, 25 sentences at a time: torch's worker threads go on spinning for some milliseconds after a run, and would
take the core from a server asked right after it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from urllib.parse import urlsplit

from benchmarks.common import report, running, sentences, spread
from nograd import load

SENTENCES, BLOCK, GOAL_MS = 400, 25, 1.0


def times_ms(call: Callable[[str], None], texts: Sequence[str]) -> list[float]:
    """Time each call; the first of a block warms up and is not counted."""
    times = []
    for text in [texts[0], *texts]:
        begun = time.perf_counter()
        call(text)
        times.append((time.perf_counter() - begun) * 1000)
    return times[1:]


def main() -> None:
    predictor = load("minilm")
    texts = [text for text in sentences() if 10 <= len(text.split()) <= 30][:SENTENCES]
    direct_ms: list[float] = []
    served_ms: list[float] = []
    with running(["nograd", "serve", "minilm", "--port", "18311", "--cache-mb", "0"], 18311, "/v2/health/ready") as server:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)

        def direct(text: str) -> None:
            predictor.predict(text)

        def served(text: str) -> None:
            body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]})
            connection.request("POST", "/v2/models/minilm/infer", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            assert len(answer["outputs"][0]["data"]) == 384

        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            direct_ms += times_ms(direct, block)
            connection.close()  # the server may have closed an idle connection; the next request opens a new one
            served_ms += times_ms(served, block)
        connection.close()
    extra = [b - a for a, b in zip(direct_ms, served_ms, strict=True)]
    table = [
        ["what", "ms (median of sentences, range)"],
        ["predictor.predict", spread(direct_ms)],
        ["served over HTTP", spread(served_ms)],
        ["difference, sentence by sentence", spread(extra)],
    ]
    over_ms = median(served_ms) - median(direct_ms)
    table.append(["p50 served - p50 direct", f"{over_ms:.3f}"])
    data = {"direct_ms": direct_ms, "served_ms": served_ms, "p50_difference_ms": over_ms}
    report("overhead", table, data, goal=f"p50 at most {GOAL_MS} ms above direct", met=over_ms <= GOAL_MS)


if __name__ == "__main__":
    main()
