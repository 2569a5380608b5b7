"""Real servers: `nograd serve` as a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import HANG_S

FOLDER = Path(__file__).parent


class RunningServer:
    """A `nograd serve` of its own process; `greeting` is what it printed when it was ready."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._stderr = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115  closed in `close`
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nograd", "serve", "--port", "0", *arguments],  # the last of two ports holds
                cwd=FOLDER,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
            )
        except BaseException:  # no process was started, as in a quick run, which skips the test here
            self._stderr.close()
            raise
        self.greeting = self._read_greeting()
        self.url = self.greeting.splitlines()[0].rpartition(" ")[2]

    def _read_greeting(self) -> str:
        assert self.process.stdout is not None
        late = threading.Timer(HANG_S, self.process.kill)
        late.start()
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("stop with"):
                break
        late.cancel()
        if not lines or not lines[-1].startswith("stop with"):
            said = f"{''.join(lines)}{self.stderr()}"
            self.close()
            raise RuntimeError(f"the server ended with {self.process.returncode}: {said}")
        return "".join(lines)

    def stderr(self) -> str:
        """Return what the server has written to stderr."""
        return Path(self._stderr.name).read_text()

    def complaints(self) -> str:
        """Return what the server has written to stderr beside the events of a good life."""
        return "".join(line for line in self.stderr().splitlines(keepends=True) if line.split(" ")[1:2] != ["info"])

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HANG_S)

    def rest(self) -> str:
        """Return what an ended server printed after its greeting."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def close(self) -> None:
        """End the process, whatever it does."""
        try:
            self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._stderr.close()


running: list[RunningServer] = []
"""Every server that runs now; what they say is shown where a test fails."""


@contextmanager
def serving(model: str, *options: str, environment: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """Serve a model of `served_models` for as long as the context lasts."""
    with server_of(f"served_models:{model}", *options, environment=environment) as server:
        yield server


@contextmanager
def server_of(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """Run `nograd serve` with these arguments for as long as the context lasts."""
    server = RunningServer(*arguments, environment=environment)
    running.append(server)
    try:
        yield server
    finally:
        running.remove(server)
        server.close()
