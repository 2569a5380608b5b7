"""What a call over gRPC costs the server beside HTTP with JSON: a Linear(16, 4), 64 calls at once, both fronts of one server.

Counted is the server's CPU time per request (user + system, all threads): clients share the machine, but not this figure.
ServerLive, which does nothing, is what gRPC costs by itself.
`python -m benchmarks.grpc METHOD CALLS` is the client alone: 64 tasks on one channel, each call after its answer.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from itertools import repeat
from statistics import median

import numpy as np

from benchmarks.common import HERE, RESULTS, Server, load, ratios, report, running, spread

ROUNDS, CLIENTS, REQUESTS = 5, 64, 10_000
PORT, GRPC_PORT = 18303, 18304


def rows() -> list[list[float]]:
    return [[round(((i * 7 + j * 3) % 17) / 17 - 0.5, 4) for j in range(16)] for i in range(64)]


async def send(method: str, calls: int) -> dict[str, float]:
    import grpc

    from nograd.server.grpc.messages import SERVICE, ModelInferRequest, ModelInferResponse

    bodies: list[bytes] = []
    for row in rows():
        request = ModelInferRequest(model_name="tiny", raw_input_contents=[np.array(row, np.float32).tobytes()])
        request.inputs.add(name="input", datatype="FP32", shape=[1, 16])
        bodies.append(request.SerializeToString() if method == "ModelInfer" else b"")
    taken: list[float] = []
    todo = repeat(None, calls)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/{method}")

        async def client(body: bytes) -> None:
            for _ in todo:
                begun = time.perf_counter()
                answer = await infer(body)
                taken.append(time.perf_counter() - begun)
                if body and len(ModelInferResponse.FromString(answer).raw_output_contents[0]) != 16:
                    raise SystemExit(f"a wrong answer: {answer!r}")

        begun = time.perf_counter()
        await asyncio.gather(*map(client, bodies[:CLIENTS]))
        wall_s = time.perf_counter() - begun
    at = {f"p{p}_ms": float(np.percentile(taken, p)) * 1000 for p in (50, 99)}
    return {"per_s": calls / wall_s, **at, "failed": 0}


def grpc_load(server: Server, method: str) -> dict[str, float]:
    before = server.cpu_s()
    command = [sys.executable, "-m", "benchmarks.grpc", method, str(REQUESTS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    result: dict[str, float] = json.loads(done.stdout)
    result["server_cpu_us"] = (server.cpu_s() - before) / REQUESTS * 1e6
    return result


def main() -> None:
    RESULTS.mkdir(exist_ok=True)
    bodies = RESULTS / "grpc_bodies.jsonl"
    inputs = [{"name": "input", "shape": [1, 16], "datatype": "FP32", "data": row} for row in rows()]
    bodies.write_text("\n".join(json.dumps({"inputs": [one]}) for one in inputs))
    nograd = [
        "nograd",
        "serve",
        "benchmarks.models:tiny",
        "--port",
        str(PORT),
        "--grpc-port",
        str(GRPC_PORT),
        "--cache-size",
        "0",
    ]
    results: dict[str, list[dict[str, float]]] = {"HTTP, JSON": [], "gRPC, raw": [], "gRPC, ServerLive": []}
    with running(nograd, PORT, "/v2/health/ready") as server:
        for _ in range(ROUNDS + 1):
            results["HTTP, JSON"].append(load(server, "/v2/models/tiny/infer", bodies, clients=CLIENTS, requests=REQUESTS))
            results["gRPC, raw"].append(grpc_load(server, "ModelInfer"))
            results["gRPC, ServerLive"].append(grpc_load(server, "ServerLive"))
    kept = {name: found[1:] for name, found in results.items()}  # the first round warms up
    table = [["front", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "failed"]]
    for name, found in kept.items():
        columns = [spread([run[key] for run in found]) for key in ("server_cpu_us", "per_s", "p50_ms", "p99_ms")]
        table.append([name, *columns, str(int(sum(run["failed"] for run in found)))])
    cpu = {name: [run["server_cpu_us"] for run in found] for name, found in kept.items()}
    ratio = ratios(cpu["gRPC, raw"], cpu["HTTP, JSON"])
    table.append(["gRPC / HTTP", spread(ratio), "", "", "", ""])
    failed = sum(run["failed"] for found in kept.values() for run in found)
    report(
        "grpc",
        table,
        {**kept, "ratio": median(ratio)},
        goal="every call is answered (the ratio is told, not aimed at)",
        met=not failed,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(asyncio.run(send(sys.argv[1], int(sys.argv[2])))) + "\n")
    else:
        main()
