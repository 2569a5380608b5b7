"""A server's whole tree of processes: its CPU time, memory, and stopping it where it stands while another is measured."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Tree"]

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

END_S = 15.0
"""Seconds that a server has to end after SIGTERM."""

READY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Row:
    parent: int
    session: int
    ticks: int


def _table() -> dict[int, _Row]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if fields[0] != "Z":
                found[int(folder.name)] = _Row(int(fields[1]), int(fields[3]), int(fields[11]) + int(fields[12]))
    return found


class Tree:
    """A command, in a session of its own, and all that it starts.

    Args:
        command: to run.
        folder: to run it in.
        environment: of it.
        log: takes what it writes.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def _rows(self) -> dict[int, _Row]:
        table, root = _table(), self.process.pid
        children = defaultdict(list)
        for pid, row in table.items():
            children[row.parent].append(pid)
        mine = {pid for pid, row in table.items() if row.session == root}
        todo = [root, *mine]
        while todo:
            for child in children[todo.pop()]:
                if child not in mine:
                    mine.add(child)
                    todo.append(child)
        return {pid: table[pid] for pid in mine | {root} if pid in table}

    def wait_until_ready(self, port: int) -> None:
        """Return when its readiness is 200.

        Raises:
            SystemExit: it ended, or was not ready in a minute.
        """
        end = time.perf_counter() + READY_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            if self.process.poll() is not None or time.perf_counter() > end:
                raise SystemExit("the server does not get ready; its log below benchmarks/results says why")
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """Its processes that run now."""
        return list(self._rows())

    def cpu_s(self) -> float:
        """User and system seconds of all processes that run now."""
        return sum(self.cpu_s_by_pid().values())

    def cpu_s_by_pid(self) -> dict[int, float]:
        """User and system seconds of each process that runs now."""
        return {pid: row.ticks / TICKS_PER_S for pid, row in self._rows().items()}

    def memory_mb(self) -> float:
        """Megabytes, what processes share being counted once (proportional set size)."""
        total_kb = 0
        for pid in self._rows():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total_kb / 1000

    def stop(self) -> None:
        """Let none of them run until `go`."""
        self._signal(signal.SIGSTOP)

    def go(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """End them."""
        self.go()
        self._signal(signal.SIGTERM)
        until = time.monotonic() + END_S
        while self._rows() and time.monotonic() < until:
            self.process.poll()
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        self.process.wait(END_S)

    def _signal(self, number: signal.Signals) -> None:
        for pid in sorted(self._rows()):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
