"""Running the application: the socket, uvicorn, and a stop that loses nothing."""

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
"""Seconds after the last answer, and after the grace, in which clients may read what was sent to them."""

RUNNING_BATCH_S = 30
"""Seconds beyond the grace in which the batch that runs when the grace ends may finish: a thread cannot be cancelled."""


def bind(host: str, port: int, option: str = "--port", *, shared: bool = False) -> socket.socket:
    """Return a socket bound to the address, before anything slow has begun. Clients are refused until the server listens.

    Args:
        host: to listen on.
        port: of TCP; 0 takes a free one.
        option: that would say another one.
        shared: whether other processes of this user that say so, too, may have the port beside this one.

    Raises:
        PortInUseError: another program has the port.
        ConfigError: the address is not this machine's.
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
    """Have a port that the processes of one server will share refused to any other server, for as long as the context lasts.

    Linux lets all sockets of a user that say so share a port. So the port is tried alone first, which fails if a server
    listens. A server that still loads is known by a socket without a file, whose name holds the address.

    Raises:
        PortInUseError: another program has the port.
    """
    if not port:  # a free one
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
    """uvicorn that drains on SIGTERM and SIGINT, then exits with 0: readiness turns false, accepted requests finish."""

    def __init__(self, config: uvicorn.Config, service: InferenceService) -> None:
        super().__init__(config)
        self._service = service
        self._tls = service.config.tls
        self.ready: Callable[[], None] | None = None
        """Called once, when requests are answered."""

        self.stopping: asyncio.Task[None] | None = None
        self._until_s: float | None = None
        self._told: asyncio.Event | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own; ours hold longer than HTTP does: `signals`."""
        yield

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Hear of SIGTERM, SIGINT, and SIGHUP."""
        loop = asyncio.get_running_loop()
        heard = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        for number, told in heard.items():
            loop.add_signal_handler(number, told)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        """Wake once a second, for the Date header, rather than uvicorn's ten times; and at once to stop."""
        self._told = asyncio.Event()
        timeouts = ConnectionWatch(self.server_state.connections)
        with StallWatch(self._service.config.stuck_after_s, say=_note_stall) as watch:
            while not await self.on_tick(0):
                watch.progressed()
                timeouts.look(asyncio.get_running_loop().time())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._told.wait(), TICK_S)

    def _reload(self) -> None:
        """Read again what may have changed: API keys, certificates."""
        self._service.reload_keys()
        if self._tls is not None and self.config.ssl is not None:
            reload_certificate(self._tls, self.config.ssl)

    def _stop(self) -> None:
        """Take requests a while longer, not ready any more; then answer what waits, while uvicorn closes its connections.
        At the second signal, just end.
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
        asyncio.get_running_loop().call_later(self.grace_s, self._leave_slow_clients)  # uvicorn waits for all of them

    @property
    def grace_s(self) -> float:
        """Seconds of the grace that are left; a little at the end of it, for answers on their way."""
        if self.force_exit:
            return 0.0
        if self._until_s is None:
            return self._service.config.grace_s
        return max(LAST_BYTES_S, self._until_s - asyncio.get_running_loop().time())

    def _leave_slow_clients(self) -> None:
        """Close the connections that remain after the grace: their clients do not read, or have sent half a request."""
        left = [connection.transport for connection in list(self.server_state.connections)]
        if left:
            event("connections_closed", logging.WARNING, connections=len(left), reason="the grace is over")
        for transport in left:
            transport.abort()

    def _exit(self) -> None:
        """Have `main_loop` end."""
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
    """Serve until told to stop by SIGTERM or SIGINT; a second signal stops at once.

    Args:
        service: the models; they are started here.
        listener: from `bind`; closed at the end.
        ready: called once, when requests are answered, with gRPC's port; None where that is not served.
        siblings: the other workers, where this is one of several.

    Raises:
        ConfigError: TLS is asked for, and a file of it is not what it should be.
        MissingExtraError: gRPC is asked for, and not installed.
        PortInUseError: another program has taken gRPC's port meanwhile.
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
                with suppress(asyncio.CancelledError):  # the second signal
                    await (server.stopping or service.stop())
                if front is not None:
                    await front.stop(server.grace_s)
                service.close()
                if siblings is not None:
                    await siblings.close()

    with listener, asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())


def grpc_front_kind() -> type[GrpcFront]:
    """Return the gRPC front's class, whose packages are imported now.

    Raises:
        MissingExtraError: they are not installed.
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
