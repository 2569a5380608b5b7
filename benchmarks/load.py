"""A small closed-loop HTTP load: `python -m benchmarks.load URL BODIES CLIENTS REQUESTS` prints rate and latencies as JSON.

BODIES is a file with one JSON body a line, cycled over. Each client keeps one connection and sends its next request when
the last was answered. Raw asyncio: about 20 us of CPU a request, so that the client is a small part of what a 2-core
machine does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.transport: asyncio.Transport
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        request = self.load.next_request()
        if request is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.find(b"content-length: ", 0, head)
        length = int(self.buffer[at + 16 : self.buffer.find(b"\r\n", at)])
        if len(self.buffer) < head + 4 + length:
            return
        self.load.note(time.perf_counter() - self.sent, self.buffer[9:12])
        self.buffer = b""
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.load.lost()


class Load:
    """All connections of one run."""

    def __init__(self, url: str, bodies: list[bytes], clients: int, requests: int) -> None:
        self.target = urlsplit(url)
        head = f"POST {self.target.path} HTTP/1.1\r\nhost: {self.target.netloc}\r\n"
        head += "content-type: application/json\r\ncontent-length: "
        self.requests = [head.encode() + b"%d\r\n\r\n" % len(body) + body for body in bodies]
        self.clients, self.left, self.total = clients, requests, requests
        self.latencies: list[float] = []
        self.failed = 0
        self.done = asyncio.Event()

    def next_request(self) -> bytes | None:
        if self.left == 0:
            return None
        self.left -= 1
        return self.requests[(self.total - self.left - 1) % len(self.requests)]

    def note(self, latency_s: float, status: bytes) -> None:
        self.latencies.append(latency_s)
        self.failed += status != b"200"

    def lost(self) -> None:
        self.clients -= 1
        if self.clients == 0:
            self.done.set()

    async def run(self) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        host, port = self.target.hostname or "127.0.0.1", self.target.port or 80
        begun = time.perf_counter()
        for _ in range(self.clients):
            await loop.create_connection(lambda: Client(self), host, port)
        await asyncio.wait_for(self.done.wait(), 300)
        wall = time.perf_counter() - begun
        if len(self.latencies) != self.total:
            raise SystemExit(f"{self.total} requests were sent, {len(self.latencies)} answered")
        times = sorted(self.latencies)
        at = {f"p{p}_ms": times[min(len(times) - 1, len(times) * p // 100)] * 1000 for p in (50, 95, 99)}
        return {"per_s": len(times) / wall, **at, "failed": self.failed, "wall_s": wall}


def main() -> None:
    url, bodies, clients, requests = sys.argv[1:]
    lines = Path(bodies).read_bytes().splitlines()

    async def run() -> dict[str, float]:
        return await Load(url, lines, int(clients), int(requests)).run()

    sys.stdout.write(json.dumps(uvloop.run(run())) + "\n")


if __name__ == "__main__":
    main()
