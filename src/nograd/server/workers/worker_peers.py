"""Communication among the workers of a server: each provides its metrics on a socket in a shared folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nograd.server.telemetry.logs import event
from nograd.server.workers.merging import merged, of_workers
from nograd.server.workers.plan import BEAT_S

__all__ = ["WorkerPeers"]

ASK_S = 1.0
"""Timeout for another worker's metrics, in seconds; workers that hang are skipped, and `nograd_worker_up` shows it."""


class WorkerPeers:
    """The workers of a server, from the view of one worker.

    Args:
        worker: its own number, starting at 0.
        count: number of workers.
        folder: folder with the sockets, owned by the supervisor.
        orders: file descriptor for the supervisor's messages; it closes when the supervisor exits.
        beat: called every BEAT_S seconds by the event loop, to report to the supervisor.
    """

    def __init__(self, worker: int, count: int, folder: str, orders: int, beat: Callable[[], object] | None = None) -> None:
        self.worker = worker
        self.count = count
        self._folder = Path(folder)
        self._orders = orders
        self._beat = beat
        self._beating: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._listening: asyncio.Task[None] | None = None
        self.states: Sequence[Mapping[str, Any]] = ()
        """States of all workers in the supervisor's latest message: `worker`, `pid`, `ready`, `restarts`."""

    async def open(self, own: Callable[[], bytes], orphaned: Callable[[], object]) -> None:
        """Start to provide metrics to other workers, and to read the supervisor's messages.

        Args:
            own: returns this worker's metrics.
            orphaned: called when the supervisor has exited.
        """

        async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(own())
            with suppress(ConnectionError):
                await writer.drain()
            writer.close()

        self._path(self.worker).unlink(missing_ok=True)  # left over from a killed predecessor
        self._server = await asyncio.start_unix_server(tell, self._path(self.worker))
        self._listening = asyncio.get_running_loop().create_task(self._listen(orphaned))
        self._report()

    def _report(self) -> None:
        if self._beat is not None:
            with suppress(OSError):  # the supervisor has exited, or does not read
                self._beat()
            self._beating = asyncio.get_running_loop().call_later(BEAT_S, self._report)

    async def close(self) -> None:
        """Stop providing metrics and reading messages."""
        if self._beating is not None:
            self._beating.cancel()
        if self._listening is not None:
            self._listening.cancel()
        if self._server is not None:
            self._server.close()
            self._path(self.worker).unlink(missing_ok=True)

    @property
    def described(self) -> Mapping[str, Any]:
        """This worker's number, and the states of all workers."""
        return {"worker": self.worker, "workers": self.states}

    async def snapshot(self, own: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return this worker's snapshot: a browser's connection stays with one worker."""
        return own()

    async def metrics(self, own: bytes) -> bytes:
        """Return the metrics of all responding workers, each labelled with its number.

        Args:
            own: metrics of this worker.
        """
        others = [worker for worker in range(self.count) if worker != self.worker]
        found = await asyncio.gather(*map(self._fetch, others))
        texts = {
            self.worker: own.decode(),
            **{worker: text for worker, text in zip(others, found, strict=True) if text},
        }
        restarts = {each["worker"]: each["restarts"] for each in self.states}
        return (merged("worker", dict(sorted(texts.items()))) + of_workers(self.count, texts, restarts)).encode()

    async def _fetch(self, worker: int) -> str:
        """Return another worker's metrics; empty if it does not respond."""
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_unix_connection(self._path(worker))
                try:
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""

    async def _listen(self, orphaned: Callable[[], object]) -> None:
        """Read the supervisor's messages, one per line."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        with open(self._orders, "rb", buffering=0, closefd=False) as pipe:  # noqa: ASYNC230  a descriptor; it does not block
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            try:
                async for line in reader:
                    self.states = json.loads(line)
            finally:
                transport.close()
        event("supervisor_gone")
        orphaned()

    def _path(self, worker: int) -> Path:
        return self._folder / f"{worker}.sock"
