"""What a lone request pays for the server: p50 over HTTP against `predictor.predict` of the same sentence.

Measured in turn, 25 sentences at a time: torch's worker threads go on spinning for some milliseconds after a run, and would
take the core from a server asked right after it. The client is a bare socket: Python's http.client takes 0.4 ms itself.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from statistics import median
from urllib.parse import urlsplit

from benchmarks.common import report, running, sentences, spread
from nograd import load

SENTENCES, BLOCK, GOAL_MS = 400, 25, 1.0


def times_ms(call: Callable[[str], object], texts: Sequence[str]) -> list[float]:
    """Time each call; the first of a block warms up and is not counted."""
    times = []
    for text in [texts[0], *texts]:
        begun = time.perf_counter()
        call(text)
        times.append((time.perf_counter() - begun) * 1000)
    return times[1:]


def request_of(text: str) -> bytes:
    """Return an infer call as it is sent."""
    body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}).encode()
    head = f"POST /v2/models/minilm/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def asked(connection: socket.socket, request: bytes) -> bytes:
    """Return the body of the answer to a request."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _received(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += _received(connection)
    return body


def _received(connection: socket.socket) -> bytes:
    found = connection.recv(65536)
    if not found:
        raise SystemExit("the server has closed the connection")
    return found


def main() -> None:
    predictor = load("minilm")
    texts = [text for text in sentences() if 10 <= len(text.split()) <= 30][:SENTENCES]
    direct_ms: list[float] = []
    served_ms: list[float] = []
    with running(["nograd", "serve", "minilm", "--port", "18311", "--cache-size", "0"], 18311, "/v2/health/ready") as server:
        address = urlsplit(server.url)
        answers: list[bytes] = []
        with socket.create_connection((address.hostname, address.port or 0), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            requests = {text: request_of(text) for text in texts}
            for start in range(0, len(texts), BLOCK):
                block = texts[start : start + BLOCK]
                direct_ms += times_ms(predictor.predict, block)
                served_ms += times_ms(lambda text: answers.append(asked(connection, requests[text])), block)
        assert all(len(json.loads(answer)["outputs"][0]["data"]) == 384 for answer in answers)
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
