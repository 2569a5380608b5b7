"""A server of the protocol that can be told to do one thing wrong; and one that loses what it holds when it is told to stop."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}

METRICS = b"# TYPE requests_total counter\nrequests_total 1\n# TYPE seconds histogram\nseconds_count 1\n"


class Server(ThreadingHTTPServer):
    """Doubles `x`; `fault` is what it does wrong."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.answered = 0
        self.lock = threading.Lock()
        self.running = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, each in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        fault = self.server.fault
        found: dict[str, Any] = {
            "/v2": {"name": "test", "version": "1", "extensions": []},
            "/v2/health/live": {"live": True},
            "/v2/health/ready": {"ready": True},
            "/v2/models/m/ready": {"ready": True},
            "/v2/models/m": METADATA if fault != "no versions" else {**METADATA, "versions": []},
        }
        if fault == "not ready" and self.path.endswith("ready"):
            self.reply(503, {"error": "warming up"})
        elif fault == "no metadata" and self.path == "/v2/models/m":
            self.reply(404, {"error": "nothing here"})
        elif self.path == "/metrics" and fault != "no metrics":
            self.reply(200, METRICS if fault != "no histogram" else METRICS.replace(b"histogram", b"gauge"))
        elif self.path in found:
            self.reply(200, found[self.path])
        elif self.path.endswith("/infer"):
            self.reply(200 if fault == "any method" else 405, {"error": "POST it"})
        else:
            self.reply(404, {"error": "there is nothing here"})

    def do_DELETE(self) -> None:
        self.reply(405, {"error": "not here"})

    def do_POST(self) -> None:
        fault = self.server.fault
        length = int(self.headers.get("Content-Length", 0))
        if length > 2**30:
            self.close_connection = True
            self.reply(200 if fault == "no limit" else 413, {"error": "too large"})
            return
        body = self.rfile.read(length)
        if self.path == "/v2/repository/index":
            self.reply(200, [{"name": "m"}])
        elif self.path != "/v2/models/m/infer":
            self.reply(500 if fault == "500 for unknown" else 404, {"error": "there is no such model"})
        else:
            self.infer(body)

    def infer(self, body: bytes) -> None:
        fault = self.server.fault
        try:
            request = json.loads(body)
            (given,) = request["inputs"]
            rows = check(given)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            said: Any = {"error": f"not a request: {type(error).__name__}"}
            if fault == "tracebacks":
                said = {"error": "Traceback (most recent call last): ..."}
            elif fault == "mute":
                said = {}
            self.reply(500 if fault == "500 for bad requests" else 400, said)
            return
        if request.get("parameters", {}).get("timeout") == 1 and fault != "no time-out":
            self.reply(504 if fault != "400 for a time-out" else 400, {"error": "too late"})
            return
        self.answer(given, rows)

    def answer(self, given: dict[str, Any], rows: int) -> None:
        fault = self.server.fault
        if rows > 1 and fault in ("500 under load", "rude under load"):
            self.reply(500 if fault == "500 under load" else 503, {"error": "busy"})
            return
        if rows > 1 and fault == "polite under load":
            self.reply(503, {"error": "busy"}, {"Retry-After": "1"})
            return
        if rows > 1:
            with self.server.lock:
                self.server.answered += 1
        if fault == "dead after load" and self.server.answered and rows == 1:
            self.reply(500, {"error": "broken"})
            return
        data = [2 * value for value in given["data"]]
        if fault == "mixes requests":
            data = self.mixed(data)
        name = "z" if fault == "another output" else "y"
        output = {"name": name, "datatype": "FP32", "shape": [rows, 2], "data": data}
        self.reply(200, {"model_name": "m", "outputs": [output]})

    def mixed(self, data: list[float]) -> list[float]:
        """Answer wrongly once sixteen requests were answered rightly: alone they were sent one after another."""
        with self.server.lock:
            self.server.running += 1
            return data if self.server.running <= 16 else [value + 1 for value in data]


def check(given: dict[str, Any]) -> int:
    """Return the rows of the one input, or raise."""
    rows, size = given["shape"]
    data = given["data"]
    if given["name"] != "x" or given["datatype"] != "FP32" or size != 2 or rows < 1 or len(data) != rows * size:
        raise ValueError("another input")
    if not all(isinstance(value, int | float) for value in data):
        raise TypeError("no numbers")
    return int(rows)


@contextmanager
def serving_badly(fault: str) -> Iterator[Server]:
    """Serve in a thread for as long as the context lasts."""
    with Server(fault) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Holding(Handler):
    """Never answers an infer call, so that a stop loses it."""

    def infer(self, body: bytes) -> None:
        threading.Event().wait(30)


if __name__ == "__main__":
    with Server("") as holding:
        holding.RequestHandlerClass = Holding
        sys.stdout.write(f"ready: {holding.url}\n")
        sys.stdout.flush()
        holding.serve_forever()
