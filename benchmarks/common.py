"""What the benchmarks share: real servers, CPU time of a process, pairs measured in turn, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def sentences() -> list[str]:
    """2,000 English sentences of 5-120 words, out of the Python standard library's docstrings."""
    return (HERE / "data" / "sentences.txt").read_text("utf-8").splitlines()


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """User and system seconds of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def running(command: Sequence[str], port: int, ready_path: str) -> Iterator[Server]:
    """Start a server, wait until it answers, end it by its pid."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=subprocess.DEVNULL, cwd=HERE.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            try:
                with urlopen(url + ready_path, timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def busy(programs: int = 2) -> Iterator[None]:
    """Programs beside that keep a core busy each, for ten minutes at most."""
    code = "import time\nend = time.time() + 600\nwhile time.time() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(programs)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


@contextmanager
def tuned_minilm(goal: str = "latency") -> Iterator[Path]:
    """Tune MiniLM for this machine as `make demo` does, unless another goal is given, and give the bundle."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "minilm"
        data = HERE / "data" / "sentences.txt"
        command = ["tune", "minilm", "--data", str(data), "--budget", "60s", "--goal", goal, "--output", str(bundle)]
        subprocess.run([sys.executable, "-m", "nograd", *command], check=True, stdout=sys.stderr, cwd=HERE.parent)
        yield bundle


def free_port() -> int:
    """Return a TCP port that no program uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def run_child(module: str, *arguments: str, limit_s: float) -> dict[str, Any]:
    """Run `python -m benchmarks.MODULE --child ARGUMENTS`; return the JSON of its last line, or `{"failed": why}`."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--child", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load(server: Server, path: str, bodies: Path, *, clients: int, requests: int) -> dict[str, float]:
    """Send requests from closed-loop clients in another process; return rate, latencies, and the server's CPU per request."""
    before = server.cpu_s()
    command = [sys.executable, "-m", "benchmarks.load", server.url + path, str(bodies), str(clients), str(requests)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    result: dict[str, float] = json.loads(done.stdout)
    result["server_cpu_us"] = (server.cpu_s() - before) / requests * 1e6
    return result


def in_turn(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Measure A, B, ... in turn, `rounds` times: slow drift of the machine meets all of them."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            values[name].append(run())
    return values


def spread(values: Sequence[float]) -> str:
    """Median, and the range of all rounds."""
    return f"{median(values):.4g} [{min(values):.4g} .. {max(values):.4g}]"


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a / b, round by round."""
    return [x / y for x, y in zip(a, b, strict=True)]


def report(name: str, rows: Sequence[Sequence[str]], data: Any, *, goal: str, met: bool) -> None:
    """Print the table, write the JSON beside it, say whether the goal was met."""
    show(rows)
    sys.stdout.write(f"goal: {goal}: {'met' if met else 'MISSED'}\n")
    keep(name, data, goal=goal, met=met)


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def keep(name: str, data: Any, *, goal: str, met: bool) -> None:
    """Write the JSON of a benchmark, whole or so far: cut off meanwhile, it is the one before."""
    RESULTS.mkdir(exist_ok=True)
    processor = platform.processor() or platform.machine()
    machine = {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}
    out = {"name": name, "machine": machine, "goal": goal, "met": met, "data": data, "when": time.strftime("%Y-%m-%d %H:%M")}
    written = RESULTS / f"{name}.json.part"
    written.write_text(json.dumps(out, indent=1) + "\n")
    written.replace(RESULTS / f"{name}.json")
