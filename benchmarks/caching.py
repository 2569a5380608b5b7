"""Caching: hit rates, time of a get and a put, a server under Zipf traffic, and Redis, each against what else there is.

`python -m benchmarks.caching`. Needs cachetools and theine (`make bench` installs them) and redis-server.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

import numpy as np

from benchmarks.common import free_port, in_turn, load, ratios, report, running, sentences, spread
from nograd.caching import MemoryCache, encode
from nograd.caching.memory import ENTRY_BYTES

ROUNDS = 7
REQUESTS, KEYS = 120_000, 50_000
VALUE = encode({"embedding": np.ones((1, 384), np.float32)})
ENTRY = 16 + len(VALUE) + ENTRY_BYTES
"""Bytes of one entry, the same for all: what the others are told to count, too."""

SERVED_REQUESTS, CLIENTS = 4000, 16
ASIDE_REQUESTS = 20_000


# -- hit rates


def zipf(rng: np.random.Generator, exponent: float, keys: int = KEYS, count: int = REQUESTS) -> Any:
    weights = 1 / np.arange(1, keys + 1) ** exponent
    return rng.choice(keys, count, p=weights / weights.sum())


def streams() -> dict[str, list[int]]:
    """As in the simulation that the policies were chosen by: popular keys, one-hit wonders, scans, shifts, and sessions."""
    rng = np.random.default_rng(1)
    found = {"zipf 0.8": zipf(rng, 0.8), "zipf 1.0": zipf(rng, 1.0)}
    once = found["zipf 1.0"].copy()
    is_new = rng.random(REQUESTS) < 0.4
    once[is_new] = KEYS + np.arange(is_new.sum())
    found["zipf 1.0, 40 % never again"] = once
    found["popularity shifts"] = np.where(
        np.arange(REQUESTS) < REQUESTS // 2, found["zipf 1.0"], (found["zipf 1.0"] + 17_001) % KEYS
    )
    found["sessions (35 % of the last 400)"] = sessions(rng, found["zipf 0.8"])
    return {name: stream.tolist() for name, stream in found.items()}


def sessions(rng: np.random.Generator, stream: Any) -> Any:
    recent: deque[int] = deque(maxlen=400)
    out = []
    for number in stream.tolist():
        if recent and rng.random() < 0.35:
            out.append(recent[rng.integers(len(recent))])
        else:
            recent.append(number)
            out.append(number)
    return np.array(out)


def digests(stream: list[int]) -> list[bytes]:
    """Keys as caches see them: digests."""
    from hashlib import blake2b

    known = {number: blake2b(number.to_bytes(8, "little"), digest_size=16).digest() for number in set(stream)}
    return [known[number] for number in stream]


def hit_rate(get: Callable[[bytes], Any], put: Callable[[bytes, bytes], Any], stream: list[bytes]) -> float:
    hits = 0
    for key in stream:
        if get(key) is None:
            put(key, VALUE)
        else:
            hits += 1
    return hits / len(stream)


def caches(entries: int) -> dict[str, tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]]:
    """Get and put of each, bounded to the same bytes."""
    import cachetools

    made: dict[str, tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]] = {}
    for policy in ("auto", "sieve", "lru"):
        cache = MemoryCache(entries * ENTRY, policy=policy)
        made[f"nograd {policy}"] = cache.get, cache.put
    for name, kind in (("cachetools LRU", cachetools.LRUCache), ("cachetools LFU", cachetools.LFUCache)):
        other: Any = kind(entries * ENTRY, getsizeof=lambda _: ENTRY)
        made[name] = other.get, other.__setitem__
    return made


def measure_hits() -> tuple[list[list[str]], dict[str, Any], bool]:
    rows, data, met = [], {}, True
    for name, numbers in streams().items():
        stream = digests(numbers)
        for entries in (500, 5000):
            found = {kind: hit_rate(get, put, stream) for kind, (get, put) in caches(entries).items()}
            data[f"{name}, {entries}"] = found
            rows.append([f"{name}, {entries} entries", *(f"{100 * rate:.1f} %" for rate in found.values())])
            met &= found["nograd auto"] >= max(found["cachetools LRU"], found["cachetools LFU"]) - 0.02
    head = ["hit rate at equal bytes", *found]
    return [head, *rows], data, met


# -- time of a get and a put


def measure_times() -> tuple[list[list[str]], dict[str, Any], float]:
    from cachetools import LRUCache
    from theine import Cache

    keys = digests(list(range(100_000)))
    asked = random.Random(1).sample(keys, len(keys))
    makers: dict[str, Callable[[], tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]]] = {
        f"nograd {policy}": partial(_ours, policy) for policy in ("auto", "sieve", "lru")
    }

    def cachetools_lru() -> Any:
        cache: Any = LRUCache(10**12, getsizeof=len)
        return cache.get, cache.__setitem__

    def theine() -> Any:
        cache: Any = Cache(200_000)
        return lambda key: cache.get(key)[0], cache.set

    makers |= {"cachetools LRU, no lock": cachetools_lru, "theine": theine}
    times: dict[str, dict[str, list[float]]] = {name: {"put": [], "get": [], "replace": []} for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            get, put = make()
            for kind, work in (
                ("put", partial(_each_put, put, keys)),
                ("get", partial(_each, get, asked)),
                ("replace", partial(_each_put, put, asked)),
            ):
                begun = time.perf_counter()
                work()
                times[name][kind].append((time.perf_counter() - begun) / len(keys) * 1e6)
    rows = [["us each, 100,000 entries", "get", "put new", "put again"]]
    rows += [[name, spread(found["get"]), spread(found["put"]), spread(found["replace"])] for name, found in times.items()]
    return rows, times, median(times["nograd auto"]["get"])


def _ours(policy: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes, bytes], Any]]:
    cache = MemoryCache(10**12, policy=policy)
    return cache.get, cache.put


def _each(get: Callable[[bytes], Any], keys: list[bytes]) -> None:
    for key in keys:
        get(key)


def _each_put(put: Callable[[bytes, bytes], Any], keys: list[bytes]) -> None:
    for key in keys:
        put(key, VALUE)


# -- a server


def measure_server() -> tuple[list[list[str]], dict[str, Any], float]:
    texts = sentences()
    stream = zipf(np.random.default_rng(3), 1.0, len(texts), SERVED_REQUESTS).tolist()
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        lines = [
            json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [texts[number]]}]})
            for number in stream
        ]
        bodies.write_text("\n".join(lines) + "\n")
        ports = {"without": 18341, "with": 18342}
        sizes = {"without": "0", "with": "64MB"}
        command = {
            kind: ["nograd", "serve", "minilm", "--port", str(port), "--cache-size", sizes[kind]]
            for kind, port in ports.items()
        }
        with (
            running(command["without"], ports["without"], "/v2/health/ready") as plain,
            running(command["with"], ports["with"], "/v2/health/ready") as cached,
        ):
            kept: list[dict[str, Any]] = []

            def run(server: Any) -> float:
                urlopen(Request(f"{server.url}/cache/clear", method="POST"), timeout=10).read()
                done = load(server, "/v2/models/minilm/infer", bodies, clients=CLIENTS, requests=SERVED_REQUESTS)
                assert not done["failed"], done
                kept.append(done)
                return done["per_s"]

            for server in (plain, cached):  # warm
                load(server, "/v2/models/minilm/infer", bodies, clients=4, requests=50)
            rates = in_turn(3, without=lambda: run(plain), **{"with": lambda: run(cached)})
            seen = json.loads(urlopen(f"{cached.url}/live.json", timeout=10).read())["models"][0]["cache"]
    gain = ratios(rates["with"], rates["without"])
    cpu = {kind: [done["server_cpu_us"] for done in kept[start::2]] for start, kind in enumerate(rates)}
    p50 = {kind: [done["p50_ms"] for done in kept[start::2]] for start, kind in enumerate(rates)}
    rows = [["MiniLM server, Zipf(1.0) over 2,000 sentences", "requests/s", "p50 ms", "server CPU us/request"]]
    rows += [[f"{kind} cache", spread(rates[kind]), spread(p50[kind]), spread(cpu[kind])] for kind in rates]
    share = seen["hits"] / seen["rows"]
    rows.append(["with / without", spread(gain), f"hit rate {share:.1%}, empty at the start of each round", ""])
    return rows, {"rates": rates, "gain": gain, "p50_ms": p50, "cpu_us": cpu, "hit_rate": share}, median(gain)


def measure_aside() -> tuple[list[list[str]], dict[str, Any], float]:
    """A model that takes microseconds, and requests of which no two are alike: nothing that a cache could save."""
    with tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        inputs = {"name": "input", "shape": [1, 16], "datatype": "FP32"}
        with bodies.open("w") as file:
            for number in range(ASIDE_REQUESTS):
                file.write(json.dumps({"inputs": [{**inputs, "data": [number] * 16}]}) + "\n")
        ports = {"without": 18343, "with": 18344}
        tiny = ["nograd", "serve", "benchmarks.models:tiny", "--cache-size"]
        with (
            running([*tiny, "0", "--port", str(ports["without"])], ports["without"], "/v2/health/ready") as plain,
            running([*tiny, "64MB", "--port", str(ports["with"])], ports["with"], "/v2/health/ready") as cached,
        ):

            def cpu_us(server: Any) -> float:
                return load(server, "/v2/models/tiny/infer", bodies, clients=64, requests=ASIDE_REQUESTS)["server_cpu_us"]

            times = in_turn(ROUNDS, without=lambda: cpu_us(plain), **{"with": lambda: cpu_us(cached)})
    more = ratios(times["with"], times["without"])
    rows = [["Linear(16, 4) server, no two requests alike", "server CPU us/request"]]
    rows += [[f"{kind} cache", spread(times[kind])] for kind in times]
    rows.append(["with / without", spread(more)])
    return rows, {"cpu_us": times, "ratio": more}, median(more)


# -- Redis


@contextmanager
def redis_server() -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def measure_redis() -> tuple[list[list[str]], dict[str, Any], float]:
    import redis

    from nograd.caching.codec import seal
    from nograd.caching.redis import RedisCache

    keys = digests(list(range(512)))
    with (
        redis_server() as port,
        RedisCache(f"redis://127.0.0.1:{port}/0", timeout_s=5) as cache,
        redis.Redis(port=port) as bare,
    ):
        for key in keys:
            bare.set(b"bare:" + key, seal(key, VALUE))
        cache.put_many(dict.fromkeys(keys, VALUE))

        def timed(work: Callable[[bytes], Any]) -> float:
            begun = time.perf_counter()
            for _ in range(4):
                for key in keys:
                    work(key)
            return (time.perf_counter() - begun) / (4 * len(keys)) * 1e6

        names = [b"bare:" + key for key in keys[:32]]
        times = in_turn(
            ROUNDS,
            bare_get=lambda: timed(lambda key: bare.get(b"bare:" + key)),
            nograd_get=lambda: timed(lambda key: cache.get_many([key])),
            bare_mget_32=lambda: timed(lambda _: bare.mget(names)),
            nograd_get_32=lambda: timed(lambda _: cache.get_many(keys[:32])),
        )
        assert cache.statistics().misses == cache.statistics().failures == 0
    one, many = ratios(times["nograd_get"], times["bare_get"]), ratios(times["nograd_get_32"], times["bare_mget_32"])
    rows = [[f"Redis, values of {len(VALUE)} bytes, us a call", "redis-py", "nograd", "ratio"]]
    rows.append(["one key", spread(times["bare_get"]), spread(times["nograd_get"]), spread(one)])
    rows.append(["32 keys", spread(times["bare_mget_32"]), spread(times["nograd_get_32"]), spread(many)])
    return rows, {"times_us": times, "one": one, "many": many}, median(one)


def main(parts: list[str]) -> None:
    if shutil.which("redis-server") is None:
        raise SystemExit("no redis-server; run: apt-get install redis-server")
    found: dict[str, Any] = {}
    verdicts: list[tuple[str, bool]] = []
    tables: list[list[list[str]]] = []
    if "hits" in parts:
        rows, found["hits"], good = measure_hits()
        tables.append(rows)
        verdicts.append(("auto within 2 points of the better of cachetools' LRU and LFU on every stream", good))
    if "times" in parts:
        rows, found["times"], us = measure_times()
        tables.append(rows)
        verdicts.append(("a get under 3 us at 100,000 entries", us < 3))
    if "redis" in parts:
        rows, found["redis"], ratio = measure_redis()
        tables.append(rows)
        verdicts.append(("a Redis hit at most 1.5x a bare GET", ratio <= 1.5))
    if "server" in parts:
        rows, found["server"], gain = measure_server()
        tables.append(rows)
        verdicts.append(("a server's rate at least 3x on Zipf(1.0)", gain >= 3))
    if "aside" in parts:
        rows, found["aside"], ratio = measure_aside()
        tables.append(rows)
        verdicts.append(("a cache that cannot pay costs at most 10 % of a request's CPU", ratio <= 1.1))
    for rows in tables[:-1]:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
        sys.stdout.write("\n")
    goal = "; ".join(f"{text}: {'met' if good else 'MISSED'}" for text, good in verdicts)
    report("caching", tables[-1], found, goal=goal, met=all(good for _, good in verdicts))


if __name__ == "__main__":
    main(sys.argv[1:] or ["hits", "times", "redis", "server", "aside"])
