"""nograd and other servers, side by side: the same models, the same load, in turn.

`python -m benchmarks.serving tiny|minilm [PEER ...] [--rounds=3] [--seconds=4]`. Every server is started once, its start is
timed and its first answer compared with the model's own; then each is let run while all others are stopped where they stand,
round after round. Rates count good answers; the client, `nograd bench`'s closed loop, shares the machine's cores.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import HERE, RESULTS, ratios, report, sentences, spread, tuned_minilm
from benchmarks.peers import OURS, PEERS, Peer, Run, body_of, environment_of, installed
from benchmarks.peers.work import load as load_model
from benchmarks.processes import Tree
from nograd.bench import Clients, Plan, measure, run
from nograd.bench.target import Target

CLIENTS = {"tiny": (1, 64), "minilm": (1, 16, 64)}
START_S, SETTLE_S, IDLE_S = 180.0, 1.0, 4.0
FIRST_PORT = 18400

TOLERANCE = {"tiny": 1e-5, "minilm": 1e-4}
INT8_COSINE = 0.98


@dataclass(slots=True)
class Contender:
    """A server under test, and what was found."""

    name: str
    peer: Peer
    port: int
    tree: Tree
    start_s: float
    difference: float
    idle_mb: float = 0.0
    idle_percent: float = 0.0


def items_of(workload: str) -> list[Any]:
    """Return what is asked for, over and over."""
    if workload == "minilm":
        return sentences()
    return [[round(((i * 7 + j * 3) % 17) / 17 - 0.5, 4) for j in range(16)] for i in range(64)]


def ask(port: int, path: str, body: bytes) -> Any:
    """Return a server's answer to one request, or None where it does not answer well yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        found = answer.read()
        return json.loads(found) if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def started(name: str, peer: Peer, workload: str, model: str, port: int, right: Sequence[float]) -> Iterator[Contender]:
    """Start a server, wait for its first good answer, compare it; end it."""
    folder = installed(name)
    with (RESULTS / f"serving-{workload}-{name.replace(' ', '-')}.log").open("wb") as log:
        begun = time.perf_counter()
        tree = Tree(peer.command(Run(folder, model, port)), HERE.parent, environment_of(peer, folder, workload, port), log)
        try:
            body = body_of(peer, workload, items_of(workload)[0])
            while (found := ask(port, peer.path(workload), body)) is None:
                if tree.process.poll() is not None or time.perf_counter() - begun > START_S:
                    raise RuntimeError(f"{name} does not answer; {log.name} says why")
                time.sleep(0.02)
            start_s = time.perf_counter() - begun
            answer = peer.answer(found)
            answer = answer[0] if isinstance(answer[0], list) else answer
            difference = max(abs(a - b) for a, b in zip(answer, right, strict=True))
            yield Contender(name, peer, port, tree, start_s, difference)
        finally:
            tree.end()


def look_at_idle(contender: Contender) -> None:
    """Note what the server takes while nobody asks."""
    time.sleep(SETTLE_S)
    before, begun = contender.tree.cpu_s(), time.perf_counter()
    time.sleep(IDLE_S)
    contender.idle_percent = 100 * (contender.tree.cpu_s() - before) / (time.perf_counter() - begun)
    contender.idle_mb = contender.tree.memory_mb()


def put_load(contender: Contender, workload: str, clients: int, seconds: float) -> dict[str, float]:
    """Load one server, all others being stopped; return rate, latencies and processor time."""
    contender.tree.go()
    try:
        bodies = [body_of(contender.peer, workload, item) for item in items_of(workload)]
        target = Target.of(f"http://127.0.0.1:{contender.port}{contender.peer.path(workload)}", bodies)
        run(measure(target, Clients(clients), Plan(duration_s=min(1.0, seconds), warmup_s=0, timeout_s=120)))
        before = contender.tree.cpu_s()
        found = run(measure(target, Clients(clients), Plan(duration_s=seconds, warmup_s=0, timeout_s=120)))
        cpu_s = contender.tree.cpu_s() - before
        at = {f"{name}_ms": 1000 * (found.percentiles[name] or found.max_s or 0.0) for name in ("p50", "p99")}
        cpu_ms = 1000 * cpu_s / max(1, found.answered)
        return {"per_s": found.answered / found.seconds, **at, "cpu_ms": cpu_ms, "failed": found.requests - found.answered}
    finally:
        contender.tree.stop()


def quantized(folder: Path) -> Path:
    """Tune MiniLM with a tolerance that lets 8-bit integers in, and give the bundle."""
    bundle = folder / "minilm-int8"
    command = ["tune", "minilm", "--data", str(HERE / "data" / "sentences.txt"), "--budget", "90s", "--goal", "throughput"]
    command += ["--tolerance", f"cosine={INT8_COSINE}", "--output", str(bundle)]
    subprocess.run([sys.executable, "-m", "nograd", *command], check=True, stdout=sys.stderr, cwd=HERE.parent)
    return bundle


def contenders(workload: str, peers: Sequence[str], stack: ExitStack) -> list[Contender]:
    """Start all, one after the other."""
    right = load_model(workload)([items_of(workload)[0]])[0]
    wanted: list[tuple[str, Peer, str]] = [("nograd", OURS, "benchmarks.models:tiny" if workload == "tiny" else "minilm")]
    if workload == "minilm":
        bundle = stack.enter_context(tuned_minilm(goal="throughput"))
        wanted.append(("nograd tuned", OURS, str(bundle)))
        wanted.append(("nograd cosine .98", OURS, str(quantized(bundle.parent))))
    wanted += [(name, PEERS[name], workload) for name in peers]
    found = []
    for number, (name, peer, model) in enumerate(wanted):
        try:
            one = stack.enter_context(started(name, peer, workload, model, FIRST_PORT + 5 * number, right))
        except RuntimeError as error:
            sys.stderr.write(f"{error}\n")
            continue
        look_at_idle(one)
        one.tree.stop()
        found.append(one)
        sys.stderr.write(f"{name}: {one.start_s:.1f} s to the first answer, off by {one.difference:.1e}\n")
    return found


def main(arguments: Sequence[str]) -> None:
    options = dict(each.removeprefix("--").split("=") for each in arguments if each.startswith("--"))
    workload, *names = [each for each in arguments if not each.startswith("--")]
    rounds, seconds = int(options.get("rounds", 3)), float(options.get("seconds", 4))
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    with ExitStack() as stack:
        all_of_them = contenders(workload, names or [name for name in PEERS if name != "pytriton"], stack)
        for _ in range(rounds):
            for clients in CLIENTS[workload]:
                for each in all_of_them:
                    kept = found.setdefault(each.name, {}).setdefault(clients, {})
                    for key, value in put_load(each, workload, clients, seconds).items():
                        kept.setdefault(key, []).append(value)
        after = {each.name: put_load(each, workload, 1, seconds)["p50_ms"] for each in all_of_them}
    table = [["server", "clients", "answers/s", "of nograd's rate", "p50 ms", "p99 ms", "CPU ms each", "failed"]]
    for name, by_clients in found.items():
        for clients, kept in by_clients.items():
            share = spread(ratios(kept["per_s"], found["nograd"][clients]["per_s"]))
            columns = [spread(kept[key]) for key in ("p50_ms", "p99_ms", "cpu_ms")]
            table.append([name, str(clients), spread(kept["per_s"]), share, *columns, f"{sum(kept['failed']):.0f}"])
    table.append(["server", "start s", "idle MB", "idle % of a core", "off by", "lone p50 ms before", "after the load", ""])
    for one in all_of_them:
        lone = median(found[one.name][1]["p50_ms"])
        row = [f"{one.start_s:.1f}", f"{one.idle_mb:.0f}", f"{one.idle_percent:.1f}", f"{one.difference:.1e}", f"{lone:.3g}"]
        table.append([one.name, *row, f"{after[one.name]:.3g}", ""])
    met, goal = judged(workload, found)
    data = {
        "load": found,
        "idle": [[one.name, one.start_s, one.idle_mb, one.idle_percent, one.difference] for one in all_of_them],
    }
    report(f"serving_{workload}", table, {**data, "after": after}, goal=goal, met=met)


def judged(workload: str, found: dict[str, dict[int, dict[str, list[float]]]]) -> tuple[bool, str]:
    """Return whether the goals are met, and what they are with what was found."""

    def times(ours: str, clients: int, peers: Sequence[str]) -> float:
        each = [median(ratios(found[ours][clients]["per_s"], found[peer][clients]["per_s"])) for peer in peers if peer in found]
        return min(each, default=float("nan"))

    if workload == "tiny":
        slow = [name for name in found if name not in ("nograd", "mosec")]
        mosec, others, lone = times("nograd", 64, ["mosec"]), times("nograd", 64, slow), median(found["nograd"][1]["p50_ms"])
        goal = f"64 clients: 1.5x mosec ({mosec:.2f}x), 10x the others ({others:.1f}x); lone p50 below 1 ms ({lone:.2f})"
        return mosec >= 1.5 and others >= 10 and lone < 1, goal
    peers = [name for name in found if not name.startswith("nograd")]
    shown = [("nograd", 16, 1.4), ("nograd", 64, 2.0), ("nograd tuned", 64, 2.5), ("nograd cosine .98", 64, 4.0)]
    ratio = [times(name, clients, peers) for name, clients, _ in shown]
    goal = "; ".join(
        f"{name}, {clients} clients: {least}x the best peer ({each:.2f}x)"
        for (name, clients, least), each in zip(shown, ratio, strict=True)
    )
    return all(each >= least for each, (_, _, least) in zip(ratio, shown, strict=True)), goal


if __name__ == "__main__":
    main(sys.argv[1:])
