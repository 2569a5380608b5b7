"""Running the application: the socket, uvicorn, and a graceful stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import uvicorn

from nograd.errors import ConfigError, MissingExtraError, PortInUseError
from nograd.runtime.stalls import StallWatch
from nograd.server.http.app import App
from nograd.server.http.connection_watch import ConnectionWatch
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.models.service import InferenceService
from nograd.server.security.tls import reload_certificate
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.logs import event

if TYPE_CHECKING:
    from nograd.server.grpc.front import GrpcFront
    from nograd.server.workers.worker_peers import WorkerPeers

__all__ = ["bind", "grpc_front_kind", "hold_port", "serve"]

TICK_S = 1.0
"""Seconds between two wake-ups of an idle event loop."""

LAST_BYTES_S = 1.0
"""Seconds for clients to read responses after the last answer, and after the grace period."""

RUNNING_BATCH_S = 30
"""Additional seconds for a batch that is running when the grace period ends, because a thread cannot be cancelled."""


def bind(host: str, port: int, option: str = "--port", *, shared: bool = False) -> socket.socket:
    """Return a socket bound to the address, before slow work starts. Connections are rejected until the server listens.

    Args:
        host: address to listen on.
        port: TCP port; 0 selects a free one.
        option: option that sets the port, for the error message.
        shared: whether other processes of this user may share the port.

    Raises:
        PortInUseError: another program uses the port.
        ConfigError: this machine does not have the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        if error.errno in (98, 48):  # EADDRINUSE on Linux, macOS
            raise _in_use(host, port, option) from None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return found


@contextmanager
def hold_port(host: str, port: int, option: str = "--port") -> Iterator[None]:
    """Return a context that reserves a shared port for the processes of one server.

    On Linux, sockets of one user can share a port. The port is therefore first bound without sharing, which fails if a server
    listens. A server that is still loading is detected by an abstract socket whose name contains the address.

    Raises:
        PortInUseError: another program uses the port.
    """
    if not port:  # port 0 selects a free port
        yield
        return
    bind(host, port, option).close()
    with socket.socket(socket.AF_UNIX) as name:
        if sys.platform == "linux":
            try:
                name.bind(f"\0nograd-{host}-{port}")
            except OSError:
                raise _in_use(host, port, option) from None
        yield


def _in_use(host: str, port: int, option: str) -> PortInUseError:
    return PortInUseError(
        f"port {port} on {host} is in use by another program; choose another with {option}, or 0 for a free one"
    )


class _Server(uvicorn.Server):
    """uvicorn with a graceful stop on SIGTERM and SIGINT: readiness turns false, accepted requests finish, exit code 0."""

    def __init__(self, config: uvicorn.Config, service: InferenceService) -> None:
        super().__init__(config)
        self._service = service
        self._tls = service.config.tls
        self.ready: Callable[[], None] | None = None
        """Called once, when the server accepts requests."""

        self.stopping: asyncio.Task[None] | None = None
        self._until_s: float | None = None
        self._told: asyncio.Event | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's signal handling by `signals`, which also covers the time after HTTP has stopped."""
        yield

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGTERM, SIGINT and SIGHUP."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        """Wake once per second for the Date header (uvicorn: ten times), and immediately for a stop."""
        self._told = asyncio.Event()
        timeouts = ConnectionWatch(self.server_state.connections)
        with StallWatch(self._service.config.stuck_after_s, say=_note_stall) as watch:
            while not await self.on_tick(0):
                watch.progressed()
                timeouts.look(asyncio.get_running_loop().time())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._told.wait(), TICK_S)

    def _reload(self) -> None:
        """Reload API keys and certificates."""
        self._service.reload_keys()
        if self._tls is not None and self.config.ssl is not None:
            reload_certificate(self._tls, self.config.ssl)

    def _stop(self) -> None:
        """Turn readiness false, keep accepting requests for the lame-duck time, then answer queued requests while uvicorn
        closes its connections. A second signal stops immediately.
        """
        if self.stopping is not None:
            self.force_exit = True
            self._exit()
            self.stopping.cancel()
            return
        self.stopping = asyncio.get_running_loop().create_task(self._stop_service())

    async def _stop_service(self) -> None:
        self._service.announce_stop()
        await asyncio.sleep(self._service.config.lame_duck_s)
        self._until_s = asyncio.get_running_loop().time() + self._service.config.grace_s
        self._exit()
        await self._service.stop()
        asyncio.get_running_loop().call_later(self.grace_s, self._leave_slow_clients)  # uvicorn waits for all connections

    @property
    def grace_s(self) -> float:
        """Remaining seconds of the grace period; at its end a short time for in-flight responses."""
        if self.force_exit:
            return 0.0
        if self._until_s is None:
            return self._service.config.grace_s
        return max(LAST_BYTES_S, self._until_s - asyncio.get_running_loop().time())

    def _leave_slow_clients(self) -> None:
        """Close the connections that remain after the grace period: their clients do not read, or sent half a request."""
        left = [connection.transport for connection in list(self.server_state.connections)]
        if left:
            event("connections_closed", logging.WARNING, connections=len(left), reason="the grace period is over")
        for transport in left:
            transport.abort()

    def _exit(self) -> None:
        """End `main_loop`."""
        self.should_exit = True
        if self._told is not None:
            self._told.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()


def _note_stall(sentence: str) -> None:
    event("loop_stalled", logging.WARNING, reason=sentence)


def serve(
    service: InferenceService,
    listener: socket.socket,
    ready: Callable[[int | None], None],
    siblings: WorkerPeers | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal stops immediately.

    Args:
        service: the service whose models are started.
        listener: socket from `bind`; closed at the end.
        ready: called once when the server accepts requests, with the gRPC port; None without gRPC.
        siblings: the other workers, if there are several.

    Raises:
        ConfigError: a TLS file is invalid.
        MissingExtraError: gRPC is enabled but not installed.
        PortInUseError: another program uses the gRPC port.
    """
    config = _uvicorn_config(service)
    grpc_front = grpc_front_kind() if service.config.grpc_port is not None else None

    async def main() -> None:
        await service.start()
        server = _Server(config, service)
        with server.signals():
            if siblings is not None:
                await siblings.open(service.metrics_text, partial(os.kill, os.getpid(), signal.SIGTERM))
            front = grpc_front(service) if grpc_front is not None else None
            try:
                port = None if front is None else await front.start()
            except PortInUseError:
                await service.stop()
                raise
            server.ready = partial(ready, port)
            try:
                await server.serve([listener])
            finally:
                with suppress(asyncio.CancelledError):  # a second signal
                    await (server.stopping or service.stop())
                if front is not None:
                    await front.stop(server.grace_s)
                service.close()
                if siblings is not None:
                    await siblings.close()

    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def grpc_front_kind() -> type[GrpcFront]:
    """Import the packages of gRPC, and return the class of the gRPC front.

    Raises:
        MissingExtraError: the packages are not installed.
    """
    try:
        from nograd.server.grpc.front import GrpcFront
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "grpc_health", "grpc_reflection", "google"):
            raise
        raise MissingExtraError("gRPC (grpcio, grpcio-health-checking, grpcio-reflection)", "grpc") from None
    return GrpcFront


def _uvicorn_config(service: InferenceService) -> uvicorn.Config:
    settings: ServeConfig = service.config
    config = uvicorn.Config(
        App(service),
        loop="auto",
        http=ShortPathProtocol,
        lifespan="off",
        log_config=None,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(settings.grace_s + RUNNING_BATCH_S),
    )
    if settings.tls is not None:
        config.load()
        config.ssl = settings.tls.context()
    return config
