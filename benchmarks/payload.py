"""A 10 MB tensor in and out, in binary: bytes per second, and by how much the server's memory grows, beside two peers.

`python -m benchmarks.payload [PEER ...] [--rounds=5] [--requests=20]`. nograd and pytriton over HTTP's binary form; MLServer
has none, so over gRPC with raw contents. One request at a time, in turn, the other servers stopped where they stand.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import HERE, RESULTS, ratios, report, spread
from benchmarks.peers import OURS, PEERS, Run, environment_of, installed
from benchmarks.processes import Tree

ELEMENTS = 10 * 2**20 // 4
MEGABYTES = 4 * ELEMENTS / 1e6
FIRST_PORT, START_S = 18500, 120.0

Ask = Callable[[], bytes]
"""Sends the tensor; returns the answer's bytes of it."""


def tensor() -> bytes:
    return np.random.default_rng(0).random(ELEMENTS, np.float32).tobytes()


def http_asker(port: int) -> Ask:
    """Return what asks over HTTP's binary form."""
    described = {"name": "input", "shape": [1, ELEMENTS], "datatype": "FP32", "parameters": {"binary_data_size": 4 * ELEMENTS}}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    lines = [
        "POST /v2/models/m/infer HTTP/1.1", "host: x", "content-type: application/octet-stream",
        f"inference-header-content-length: {len(head)}", f"content-length: {len(head) + 4 * ELEMENTS}", "", "",
    ]  # fmt: skip
    start, body = "\r\n".join(lines).encode() + head, tensor()
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    room = bytearray(4 * ELEMENTS + 65536)

    def ask() -> bytes:
        connection.sendall(start)
        connection.sendall(body)
        size, end, length = 0, -1, 0
        view = memoryview(room)
        while end < 0 or size < end + length:
            got = connection.recv_into(view[size:])
            if not got:
                raise ConnectionError("the server has closed the connection")
            size += got
            if end < 0 and (at := room.find(b"\r\n\r\n", 0, size)) >= 0:
                end = at + 4
                fields = [line.partition(b":") for line in bytes(room[:at]).split(b"\r\n")[1:]]
                said = {name.lower(): value.strip() for name, _, value in fields}
                length, json_bytes = int(said[b"content-length"]), int(said.get(b"inference-header-content-length", b"0"))
        if not room.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(bytes(view[: end + length]))
        return bytes(view[end + json_bytes : end + length])

    return ask


def grpc_asker(port: int) -> Ask:
    """Return what asks over gRPC, with raw contents."""
    import grpc

    from nograd.server.grpc.messages import SERVICE, ModelInferRequest, ModelInferResponse

    request = ModelInferRequest(model_name="m", raw_input_contents=[tensor()])
    request.inputs.add(name="input", datatype="FP32", shape=[1, ELEMENTS])
    body = request.SerializeToString()
    limits = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    infer = grpc.insecure_channel(f"127.0.0.1:{port}", options=limits).unary_unary(f"/{SERVICE}/ModelInfer")

    def ask() -> bytes:
        answer = ModelInferResponse.FromString(infer(body, timeout=60))
        if answer.raw_output_contents:
            found: bytes = answer.raw_output_contents[0]
            return found
        return np.array(answer.outputs[0].contents.fp32_contents, np.float32).tobytes()

    return ask


def memory_mb(tree: Tree, what: str) -> float:
    """Return `VmRSS` or `VmHWM`, the most since `forget_peak`, of all processes of a server."""
    lines = [line for pid in tree.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1024


def forget_peak(tree: Tree) -> None:
    for pid in tree.pids():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def asker(name: str, port: int) -> Ask:
    """Return what asks over a new connection: a server closes one that idles while the others have their turns."""
    return grpc_asker(port + 1) if name == "mlserver" else http_asker(port)


def started(name: str, port: int, stack: ExitStack) -> Tree:
    """Start a server and wait until it answers rightly."""
    peer = PEERS.get(name, OURS)
    folder = installed(name)
    log = stack.enter_context((RESULTS / f"payload-{name}.log").open("wb"))
    model = "benchmarks.models:payload" if name == "nograd" else "payload"
    tree = Tree(peer.command(Run(folder, model, port)), HERE.parent, environment_of(peer, folder, "payload", port), log)
    stack.callback(tree.end)
    right = np.frombuffer(tensor(), np.float32) + np.float32(1)
    begun = time.perf_counter()
    while True:
        try:
            if np.array_equal(np.frombuffer(asker(name, port)(), np.float32), right):
                return tree
            raise SystemExit(f"{name} answers something else")
        except Exception as error:  # noqa: BLE001  it does not answer yet, in whatever words
            if tree.process.poll() is not None or time.perf_counter() - begun > START_S:
                raise SystemExit(f"{name} does not answer: {error}; {log.name} says more") from None
            time.sleep(0.2)


def main(arguments: Sequence[str]) -> None:
    options = dict(each.removeprefix("--").split("=") for each in arguments if each.startswith("--"))
    names = ["nograd", *([each for each in arguments if not each.startswith("--")] or ["mlserver", "pytriton"])]
    rounds, requests = int(options.get("rounds", 5)), int(options.get("requests", 20))
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, dict[str, list[float]]] = {name: {"mb_per_s": [], "grown_mb": [], "cpu_ms": []} for name in names}
    with ExitStack() as stack:
        servers = {}
        for number, name in enumerate(names):
            port = FIRST_PORT + 5 * number
            servers[name] = started(name, port, stack), port
            servers[name][0].stop()
        for turn in range(rounds + 1):  # the first warms up
            for name, (tree, port) in servers.items():
                tree.go()
                ask = asker(name, port)
                ask()  # opens the connection
                forget_peak(tree)
                before_mb, cpu, begun = memory_mb(tree, "VmRSS"), tree.cpu_s(), time.perf_counter()
                for _ in range(requests):
                    ask()
                seconds = time.perf_counter() - begun
                if turn:
                    found[name]["mb_per_s"].append(2 * MEGABYTES * requests / seconds)
                    found[name]["cpu_ms"].append(1000 * (tree.cpu_s() - cpu) / requests)
                    found[name]["grown_mb"].append(memory_mb(tree, "VmHWM") - before_mb)
                tree.stop()
    table = [["server", "MB/s, both ways", "nograd's times that", "CPU ms each", "memory's peak above its start, MB"]]
    for name, each in found.items():
        times = spread(ratios(found["nograd"]["mb_per_s"], each["mb_per_s"]))
        table.append([name, spread(each["mb_per_s"]), times, spread(each["cpu_ms"]), spread(each["grown_mb"])])
    faster = min(median(ratios(found["nograd"]["mb_per_s"], found[name]["mb_per_s"])) for name in names[1:])
    grown = max(found["nograd"]["grown_mb"])
    goal = f"3x the others ({faster:.2f}x), memory grows by less than 3 tensors ({grown:.1f} of {3 * MEGABYTES:.0f} MB)"
    report("payload", table, found, goal=goal, met=faster >= 3 and grown < 3 * MEGABYTES)


if __name__ == "__main__":
    main(sys.argv[1:])
