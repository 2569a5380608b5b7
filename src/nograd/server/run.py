"""Running the application: the socket, uvicorn, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil

import uvicorn

from nograd.errors import ConfigError, PortInUseError
from nograd.server.config import ServeConfig
from nograd.server.http import App
from nograd.server.service import InferenceService
from nograd.server.short_path import ShortPathProtocol

__all__ = ["bind", "serve"]

RUNNING_BATCH_S = 30
"""Seconds beyond the grace in which the batch that runs when the grace ends may finish: a thread cannot be cancelled."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, before anything slow has begun. Clients are refused until the server listens.

    Raises:
        PortInUseError: another program has the port.
        ConfigError: the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        if error.errno in (98, 48):  # EADDRINUSE on Linux, macOS
            raise PortInUseError(
                f"port {port} on {host} is in use by another program; choose another with --port, or 0 for a free one"
            ) from None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return found


class _Server(uvicorn.Server):
    """uvicorn that drains on SIGTERM and SIGINT, then exits with 0: readiness turns false, accepted requests finish."""

    def __init__(self, config: uvicorn.Config, service: InferenceService, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready
        self.stopping: asyncio.Task[None] | None = None
        self._told: asyncio.Event | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        """Wake once a second, for the Date header, rather than uvicorn's ten times; and at once to stop."""
        self._told = asyncio.Event()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1.0)

    def _stop(self) -> None:
        """Answer what waits while uvicorn closes its connections; at the second signal, just end."""
        if self.stopping is not None:
            self.force_exit = True
            self.stopping.cancel()
            return
        self.stopping = asyncio.get_running_loop().create_task(self._service.stop())
        self.should_exit = True
        if self._told is not None:
            self._told.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def serve(service: InferenceService, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until told to stop by SIGTERM or SIGINT; a second signal stops at once.

    Args:
        service: the models; they are started here.
        listener: from `bind`; closed at the end.
        ready: called once, when requests are answered.
    """
    config = _uvicorn_config(service)
    server = _Server(config, service, ready)

    async def main() -> None:
        await service.start()
        try:
            await server.serve([listener])
        finally:
            with suppress(asyncio.CancelledError):  # the second signal
                await (server.stopping or service.stop())

    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def _uvicorn_config(service: InferenceService) -> uvicorn.Config:
    settings: ServeConfig = service.config
    return uvicorn.Config(
        App(service),
        loop="auto",
        http=ShortPathProtocol,
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(settings.grace_s + RUNNING_BATCH_S),
    )
