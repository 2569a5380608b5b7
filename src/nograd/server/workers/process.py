"""A worker process: `python -m nograd.server.workers.process`, with its order as the first line of stdin."""

from __future__ import annotations

import json
import os

from nograd.errors import NogradError
from nograd.runtime.exits import leave
from nograd.runtime.stderr import queued_stderr
from nograd.server.command import run_server
from nograd.server.workers.plan import Order
from nograd.server.workers.worker_peers import WorkerPeers

__all__ = ["main"]

STDIN = 0


def main() -> int:
    """Serve according to the order until stopped; return the exit code."""
    order = Order.from_line(_first_line())
    os.set_blocking(order.report_to, False)  # a hung supervisor must not block a worker
    peers = WorkerPeers(order.worker, order.count, order.folder, STDIN, beat=lambda: os.write(order.report_to, b"{}\n"))

    def report(banner: str) -> None:
        os.write(order.report_to, json.dumps({"banner": banner}).encode() + b"\n")

    with queued_stderr() as stderr:
        try:
            run_server(order.settings, report, peers)
        except NogradError as error:
            stderr.write(f"nograd: {error}\n")
            return 2
    return 0


def _first_line() -> bytes:
    """Read the first line of stdin, and nothing after it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(STDIN, 1)
        if not byte:
            raise SystemExit("there was no order; this is what `nograd serve --workers` starts")
        line += byte
    return bytes(line)


if __name__ == "__main__":
    leave(main())
