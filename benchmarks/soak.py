"""Minutes of everything at once: reloads, clients that leave, bad requests, Redis killed and started anew; answers checked.

`python -m benchmarks.soak [--minutes=10] [--clients=32]`. A small net behind a cache in memory and in Redis, at 80 % of what
these clients get when nothing is wrong. Each request has one answer, which is compared with the net's own; memory is looked at
every second.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import linear_regression, quantiles
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.common import HERE, RESULTS, free_port, report
from benchmarks.peers import OURS, environment_of, installed
from benchmarks.processes import Tree

PORT, INFER = 18650, "/v2/models/m/infer"
ROWS, WIDTH, LOAD, TIMEOUT_S = 4096, 16, 0.8, 30.0
LEAVES, POISONS, STARTS_ANEW = 0.01, 0.01, 0.001
"""Shares of requests whose client leaves at once, that are wrong, and before which the client opens a new connection."""

RELOAD_S, REDIS_UP_S, REDIS_DOWN_S = 15.0, 25.0, 5.0


class Soak:
    """The clients, and what they found."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.rows = rng.random((ROWS, WIDTH), np.float32)
        self.right = models.wide().predict(self.rows)
        heads = "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
        bodies = [json.dumps({"inputs": [_entry(row)]}) for row in self.rows.tolist()]
        self.requests = [(heads.format(INFER, len(body)) + body).encode() for body in bodies]
        body = json.dumps({"inputs": [_entry(self.rows[0, :5].tolist())]})
        self.poison = (heads.format(INFER, len(body)) + body).encode()
        self.outcomes: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.random = random.Random(0)

    async def client(self, until: float, pause: float) -> None:
        """Ask until a time, `pause` seconds between two starts on average; 0: without a pause."""
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        due = time.perf_counter()
        while due < until:
            if pause:
                due += self.random.expovariate(1 / pause)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            else:
                due = time.perf_counter()
            chance = self.random.random() if pause else 1.0
            if chance < LEAVES + STARTS_ANEW:
                if chance < LEAVES:
                    writer.write(self.requests[self._row()])
                    self.outcomes["left"] += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
                continue
            is_poison = chance > 1 - POISONS and bool(pause)
            row = self._row()
            sent = time.perf_counter()
            writer.write(self.poison if is_poison else self.requests[row])
            async with asyncio.timeout(TIMEOUT_S):
                status, body = await _answer(reader)
            self.latencies.append(time.perf_counter() - sent)
            self.outcomes[self._judged(status, body, None if is_poison else row)] += 1
        writer.close()

    def _row(self) -> int:
        return min(ROWS - 1, int(self.random.paretovariate(0.5)) - 1)

    def _judged(self, status: int, body: bytes, row: int | None) -> str:
        """Return what came of a request, in a word."""
        if row is None:
            return "wrong, and refused" if status == 400 else f"wrong, and answered {status}"
        if status != 200:
            return f"failed with {status}"
        data = json.loads(body)["outputs"][0]["data"]
        return "right" if np.allclose(data, self.right[row], rtol=1e-4, atol=1e-5) else "somebody else's or false"


def _entry(row: Sequence[float]) -> dict[str, Any]:
    return {"name": "input", "shape": [1, len(row)], "datatype": "FP32", "data": row}


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    return int(head[9:12]), await reader.readexactly(int(fields[b"content-length"]))


class Redis:
    """A server that is killed and started again."""

    def __init__(self, folder: str) -> None:
        self.port = free_port()
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


async def trouble(redis: Redis, tree: Tree, until: float, found: dict[str, Any]) -> None:
    """Load the model anew, kill Redis and start it again, over and over; look at the memory every second."""
    reload_at, redis_at = time.perf_counter() + RELOAD_S, time.perf_counter() + REDIS_UP_S
    while time.perf_counter() < until:
        await asyncio.sleep(1)
        found["memory_mb"].append(tree.memory_mb())
        now = time.perf_counter()
        if now >= reload_at:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(b"POST /v2/repository/models/m/load HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            status, _ = await _answer(reader)
            writer.close()
            found["reloads"][str(status)] += 1
            reload_at = now + RELOAD_S
        if now >= redis_at:
            if redis.process is None:
                redis.start()
                redis_at = now + REDIS_UP_S
            else:
                redis.kill()
                found["redis_kills"] += 1
                redis_at = now + REDIS_DOWN_S


async def soak(redis: Redis, tree: Tree, minutes: float, clients: int) -> tuple[Soak, float, dict[str, Any]]:
    """Return what was found, the rate without trouble, and what trouble was made."""
    calm = Soak()
    begun = time.perf_counter()
    await asyncio.gather(*(calm.client(begun + 10, 0.0) for _ in range(clients)))
    capacity = calm.outcomes["right"] / (time.perf_counter() - begun)
    found: dict[str, Any] = {"memory_mb": [], "reloads": Counter(), "redis_kills": 0}
    one, until = Soak(), time.perf_counter() + 60 * minutes
    asking = (one.client(until, clients / (LOAD * capacity)) for _ in range(clients))
    await asyncio.gather(trouble(redis, tree, until, found), *asking)
    return one, capacity, found


def main(arguments: Sequence[str]) -> None:
    options = dict(each.removeprefix("--").split("=") for each in arguments)
    minutes, clients = float(options.get("minutes", 10)), int(options.get("clients", 32))
    if shutil.which("redis-server") is None:
        raise SystemExit("there is no redis-server; apt-get install redis-server")
    RESULTS.mkdir(exist_ok=True)
    with ExitStack() as stack:
        redis = Redis(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(redis.kill)
        log = stack.enter_context((RESULTS / "soak.log").open("wb"))
        folder = installed("nograd")
        command = [f"{folder}/python", "-m", "nograd", "serve", "benchmarks.models:wide", "--name=m", f"--port={PORT}",
            "--cache-size=1MB", f"--cache-url=redis://127.0.0.1:{redis.port}/0", "--repository"]  # fmt: skip
        tree = Tree(command, HERE.parent, environment_of(OURS, folder, "", PORT), log)
        stack.callback(tree.end)
        tree.wait_until_ready(PORT)
        one, capacity, found = asyncio.run(soak(redis, tree, minutes, clients))
    judge(one, capacity, minutes, found)


def judge(one: Soak, capacity: float, minutes: float, found: dict[str, Any]) -> None:
    """Report, and say whether all came out right."""
    memory = found["memory_mb"][len(found["memory_mb"]) // 4 :]  # behind the start, and the filling of the cache
    slope = linear_regression(range(len(memory)), memory).slope * 60
    noise = max(memory) - min(memory)
    asked = sum(one.outcomes.values()) - one.outcomes["left"]
    bad = {name: count for name, count in one.outcomes.items() if name not in ("right", "left", "wrong, and refused")}
    p50, p99 = (1000 * each for each in (quantiles(one.latencies, n=100)[at] for at in (49, 98)))
    said = ", ".join(f"{name}: {count}" for name, count in one.outcomes.most_common())
    reloads = ", ".join(f"{status}: {count}" for status, count in found["reloads"].items())
    table = [
        ["asked", "a second", "of the calm rate", "what came of them", "ms after sending, p50", "p99", "reloads",
         "Redis killed", "MB a minute"],
        [str(asked), f"{asked / minutes / 60:.0f}", f"{asked / minutes / 60 / capacity:.2f}", said, f"{p50:.2f}", f"{p99:.2f}",
         reloads, str(found["redis_kills"]), f"{slope:+.3f} (within {noise:.1f})"],
    ]  # fmt: skip
    met = not bad and set(found["reloads"]) == {"200"} and slope * minutes < max(1.0, noise)
    goal = f"every request answered once and rightly ({len(bad) or 'no'} exceptions), memory flat ({slope:+.3f} MB a minute)"
    report("soak", table, {"outcomes": one.outcomes, **found, "capacity_per_s": capacity}, goal=goal, met=met)


if __name__ == "__main__":
    main(sys.argv[1:])
