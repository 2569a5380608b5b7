"""A real redis-server of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

__all__ = ["RedisServer", "redis_server"]

START_TRIES = 200


class RedisServer:
    """redis-server with nothing on disk; ends with the test."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = _free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def patient_url(self) -> str:
        """A URL whose calls have time on a busy machine."""
        return f"{self.url}?socket_timeout=10&socket_connect_timeout=10"

    def client(self) -> redis.Redis:
        """Return a client that is patient."""
        return redis.Redis(port=self.port, retry=Retry(ConstantBackoff(0.05), START_TRIES), socket_timeout=10)

    def start(self) -> None:
        """Start, or start again on the same port; returns when it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", str(self._folder), "--daemonize", "no", *self._options]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with self.client() as client:
                assert client.ping()
        except redis.ConnectionError:
            self.kill()
            raise

    def kill(self) -> None:
        """End at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop answering, with all connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server; run: apt-get install redis-server")
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()


HIGHEST_PORT = 55_535
"""A cluster's servers talk to each other on the port that is 10,000 higher."""


def _free_port() -> int:
    taken: list[socket.socket] = []
    try:
        while True:
            taken.append(socket.create_server(("127.0.0.1", 0)))
            port: int = taken[-1].getsockname()[1]
            if port <= HIGHEST_PORT:
                return port
    finally:
        for each in taken:
            each.close()
