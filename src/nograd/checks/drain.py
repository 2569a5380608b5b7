"""Draining: stop a server that was started for the checks while it holds requests. Part of the family `serving`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

from nograd.client.http import Answer, ServerSubject, read_answer, server_subject
from nograd.client.requests import request_of, varied
from nograd.errors import ModelLoadError
from nograd.report.verdict import Check, Verdict, error, passed, skipped, warning

__all__ = ["CHECKS", "StartedServer", "serve_command", "started"]

START_S, END_S = 180.0, 60.0

CLIENTS = 8


@dataclass(frozen=True, slots=True)
class StartedServer:
    """A server that was started for its checks and may be stopped."""

    server: ServerSubject
    process: subprocess.Popen[str]


@contextmanager
def started(command: Sequence[str]) -> Iterator[StartedServer]:
    """Start a server, wait until it prints its URL, and kill it on exit.

    Args:
        command: a command that prints a line that ends in its URL when it is ready.

    Raises:
        ModelLoadError: the server ended, or printed no URL in time.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)  # noqa: S603  our own command
        try:
            url = _url_of(process)
            if not url:
                said.seek(0)
                raise ModelLoadError(f"the server did not start: {' '.join(said.read().split())[-400:]}")
            yield StartedServer(server_subject(url), process)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def serve_command(model: str, *, trusted: bool, max_batch_size: int) -> list[str]:
    """Return the command that starts `nograd serve` on a free local port, without a cache, so that every request runs."""
    command = [sys.executable, "-m", "nograd", "serve", model, "--port", "0", "--cache-size", "0"]
    return [*command, "--max-batch-size", str(max_batch_size), *(["--trusted"] if trusted else [])]


def _url_of(process: subprocess.Popen[str]) -> str:
    """Return the URL from the first line that ends in one; empty if the process ends or exceeds `START_S`."""
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        for line in process.stdout or ():
            words = line.split()
            if words and words[-1].startswith("http://"):
                return words[-1]
    finally:
        late.cancel()
    return ""


def check_drain(subject: StartedServer) -> Verdict:
    """Send requests, send SIGTERM while the server holds them, and count the answers."""
    request = request_of(subject.server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    connections = [subject.server.connect() for _ in range(CLIENTS)]
    try:
        for index, connection in enumerate(connections):
            connection.connect()
            connection.request("POST", subject.server.infer_path, json.dumps(varied(request, index)).encode())
        subject.server.get("/v2/health/live")  # answered in order: the server has received the earlier requests by now
        subject.process.send_signal(signal.SIGTERM)
        answers = [_read(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    return _judge_stop(answers, _exit_code(subject.process))


def _read(connection: HTTPConnection) -> Answer:
    begun = time.monotonic()
    try:
        return read_answer(connection, begun)
    except (OSError, HTTPException) as failure:
        return Answer(0, {}, f"{type(failure).__name__}: {failure}".encode(), time.monotonic() - begun)


def _exit_code(process: subprocess.Popen[str]) -> int | None:
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        return None


def _judge_stop(answers: Sequence[Answer], exit_code: int | None) -> Verdict:
    """Decide from the answers and the exit code of a server that received SIGTERM."""
    lost = [answer for answer in answers if answer.status != 200]
    figures: dict[str, float | str] = {
        "requests": float(len(answers)),
        "answered": float(len(answers) - len(lost)),
        "exit_code": str(exit_code),
    }
    said = f"{len(answers) - len(lost)} of {len(answers)} in-flight requests were answered after SIGTERM"
    if lost:
        return error(f"{said}; the others got {lost[0].status or 'no response'}: {lost[0].text}", **figures)
    if exit_code is None:
        return error(f"{said}; the server had not exited {END_S:g} s later", **figures)
    if exit_code != 0:
        return warning(f"{said}; the server exited with {exit_code}, not 0", **figures)
    return passed(f"{said}; the server exited with 0", **figures)


CHECKS: tuple[Check[StartedServer], ...] = (
    Check(
        "serving.drain", "A stop completes in-flight requests", "started a server, and sent it SIGTERM while it had requests",
        check_drain, "nograd serve MODEL --grace 60s  # without a shell in between, which swallows SIGTERM", "error",
        is_deep=True,
    ),
)  # fmt: skip
