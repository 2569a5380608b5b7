"""Hostile inputs against a real server: the longest stall of a health probe, the peak memory, and the answers.

`python -m benchmarks.attack [--only=WORDS] [--limit-ms=100]`. Two equal servers run in processes of their own. For each of them
a probe process sends `/v2/health/live` every 5 ms. One server is attacked; the other one is undisturbed, so that its stall is
the machine's. A stall of the attacked server above the limit, a wrong answer, or a good request that is not answered after an
attack fails (exit 1). Further servers have a stderr that is full, closed or not read, or stop while clients do not read.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.common import HERE, RESULTS, free_port, report
from benchmarks.hostile import ATTACKS, GOOD, Attack, Target, failing, post, tensor

LIMIT_MS = 100.0
PROBE_EVERY_S, PROBE_S = 0.005, 60.0
READY_S = 60.0
MODELS = (
    "linear:linear",
    "length:any_length",
    "wide:wide",
    "text:text",
    "before:slow_before",
    "after:slow_after",
    "failing:failing",
)
OPTIONS = ("--header-timeout", "3s", "--timeout", "8s", "--grace", "3s", "--cache-size", "64MB")
GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class Result:
    """What one attack did."""

    name: str
    answer: str
    seconds: float
    stall_ms: float
    undisturbed_ms: float
    peak_mb: float
    """Peak resident memory of the server during the attack."""

    fault: str
    """What was wrong, in words; empty if nothing was."""


class Probe:
    """A process that sends health probes, so that the work of the attacker's process does not count as a stall."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.attack", "--probe", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
        self.longest_ms()

    def longest_ms(self) -> float:
        """Return the longest round trip since the last call, in milliseconds; it waits for the probe that is under way."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline() or PROBE_S * 1000)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def probe(port: int) -> None:
    """Send probes for ever; write the longest round trip whenever a line comes on stdin."""
    os.set_blocking(sys.stdin.fileno(), False)
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    connection, longest = socket.create_connection(("127.0.0.1", port), timeout=PROBE_S), 0.0
    while True:
        sent = time.perf_counter()
        try:
            connection.sendall(request)
            is_answered = _live(connection)
        except OSError:
            is_answered = False
        longest = max(longest, time.perf_counter() - sent if is_answered else PROBE_S)
        if not is_answered:
            connection.close()
            connection = socket.create_connection(("127.0.0.1", port), timeout=PROBE_S)
        try:
            line = os.read(sys.stdin.fileno(), 100)
        except BlockingIOError:
            line = None
        if line == b"":
            return
        if line:
            sys.stdout.write(f"{longest * 1000}\n")
            sys.stdout.flush()
            longest = 0.0
        time.sleep(PROBE_EVERY_S)


def _live(connection: socket.socket) -> bool:
    """Read one response; return whether it says that the server lives."""
    found = b""
    while not found.endswith(b"}"):
        piece = connection.recv(4096)
        if not piece:
            return False
        found += piece
    return found.startswith(b"HTTP/1.1 200")


class AttackedServer:
    """`nograd serve` of the attacked models."""

    def __init__(self, stderr: int | IO[bytes], *more: str) -> None:
        self.target = Target(free_port(), free_port())
        models = [f"{name}=benchmarks.attacked_models:{factory}" for name, factory in (each.split(":") for each in MODELS)]
        ports = ["--port", str(self.target.port), "--grpc-port", str(self.target.grpc_port)]
        command = [sys.executable, "-m", "nograd", "serve", *models, *ports, *OPTIONS, *more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, cwd=HERE.parent)

    def wait_until_ready(self) -> None:
        """Return when a good request is answered.

        Raises:
            SystemExit: the server ended, or was not ready in a minute.
        """
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self.process.poll() is None:
            if self.answers():
                return
            time.sleep(0.1)
        raise SystemExit(f"the server is not ready; exit status {self.process.poll()}")

    def answers(self) -> bool:
        """Return whether a good request is answered."""
        return post(self.target, "/v2/models/linear/infer", GOOD) == "200"

    def forget_peak(self) -> None:
        """Begin the peak of memory at the present size."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return the peak of resident memory, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e6

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


@contextmanager
def served(stderr: int | IO[bytes], *more: str) -> Iterator[AttackedServer]:
    """A server that is ready, until the end of the context."""
    server = AttackedServer(stderr, *more)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.end()


def run(attack: Attack, server: AttackedServer, probes: tuple[Probe, Probe], limit_ms: float) -> Result:
    """Return what an attack did to a server; the second probe is of the undisturbed one."""
    server.forget_peak()
    for each in probes:
        each.longest_ms()
    begun = time.monotonic()
    answer = attack.run(server.target)
    seconds = time.monotonic() - begun
    stall_ms, undisturbed_ms = (each.longest_ms() for each in probes)
    faults = []
    if attack.expected and answer not in attack.expected:
        faults.append(f"answered {answer}, expected {' or '.join(sorted(attack.expected))}")
    if stall_ms > limit_ms:
        faults.append(f"stall of {stall_ms:.0f} ms")
    if not server.answers():
        faults.append("a good request after the attack is not answered")
    return Result(attack.name, answer, seconds, stall_ms, undisturbed_ms, server.peak_mb(), "; ".join(faults))


def attack_one(server: AttackedServer, undisturbed: AttackedServer, attacks: Sequence[Attack], limit_ms: float) -> list[Result]:
    """Run attacks one after the other."""
    probes = Probe(server.target.port), Probe(undisturbed.target.port)
    try:
        return [_show(run(each, server, probes, limit_ms)) for each in attacks]
    finally:
        for each in probes:
            each.close()


def _show(result: Result) -> Result:
    sys.stderr.write(
        f"{result.stall_ms:8.1f} ms  {result.undisturbed_ms:6.1f}  {result.answer:>10}  {result.name}  {result.fault}\n"
    )
    return result


# -- servers of their own


def attack_stderr(undisturbed: AttackedServer, limit_ms: float) -> list[Result]:
    """Log 80 tracebacks to a stderr that is not read, on a full disk, and closed."""
    found = []
    read, write = os.pipe()
    closed_read, closed_write = os.pipe()
    os.close(closed_read)
    with (
        Path("/dev/full").open("wb") as full,
        os.fdopen(read),
        os.fdopen(write, "wb") as unread,
        os.fdopen(closed_write, "wb") as closed,
    ):
        for name, stderr in (("not read", unread), ("full", full), ("closed", closed)):
            attack = Attack(f"80 tracebacks to a stderr that is {name}", failing, frozenset(("500",)))
            with served(stderr, "--access-log") as server:
                found += attack_one(server, undisturbed, [attack], limit_ms)
    return found


def attack_stop() -> Result:
    """Send SIGTERM while clients do not read: the server ends soon after its grace."""
    body = tensor([1, 2, 3, 4], [1, 4])
    with served(subprocess.DEVNULL) as server, ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.target.port)))
            client.sendall(b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(2)
        peak = server.peak_mb()
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        try:
            code = f"exit {server.process.wait(30)}"
        except subprocess.TimeoutExpired:
            code = "runs after 30 s"
        seconds = time.monotonic() - begun
    fault = "" if code == "exit 0" and seconds < 3 * GRACE_S else f"{code} after {seconds:.1f} s, the grace is {GRACE_S:g} s"
    return Result("SIGTERM while 5 clients do not read", code, seconds, 0.0, 0.0, peak, fault)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--probe"]:
        probe(int(arguments[1]))
        return
    options = dict(each.removeprefix("--").split("=", 1) for each in arguments)
    only, limit_ms = options.get("only", ""), float(options.get("limit-ms", LIMIT_MS))
    RESULTS.mkdir(exist_ok=True)
    load = os.getloadavg()[0]
    attacks = [each for each in ATTACKS if only in each.name]
    with (RESULTS / "attack.log").open("wb", buffering=0) as log, served(log) as undisturbed:
        with served(log) as server:
            found = attack_one(server, undisturbed, attacks, limit_ms)
        if not only or only == "stderr":
            found += attack_stderr(undisturbed, limit_ms)
        if not only or only == "SIGTERM":
            found.append(_show(attack_stop()))
    _report(found, load, limit_ms)


def _report(found: Sequence[Result], load: float, limit_ms: float) -> None:
    table = [["attack", "answer", "seconds", "longest stall, ms", "undisturbed server, ms", "peak, MB", "fault"]]
    for each in found:
        numbers = (f"{each.seconds:.1f}", f"{each.stall_ms:.0f}", f"{each.undisturbed_ms:.0f}", f"{each.peak_mb:.0f}")
        table.append([each.name, each.answer, *numbers, each.fault or "-"])
    faults = sum(bool(each.fault) for each in found)
    worst = max(each.undisturbed_ms for each in found)
    goal = (
        f"no stall above {limit_ms:g} ms and every answer as expected ({faults} faults; load {load:.1f} on {os.cpu_count()} "
        f"cores before; the undisturbed server stalled for up to {worst:.0f} ms)"
    )
    data: dict[str, Any] = {"load": load, "results": [asdict(each) for each in found]}
    report("attack", table, data, goal=goal, met=not faults)
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
