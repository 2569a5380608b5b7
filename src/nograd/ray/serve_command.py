"""`nograd serve --ray` after option parsing."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

from nograd.errors import ConfigError, NogradError
from nograd.ray.address import LOCAL, address_for
from nograd.ray.replicas import Replicas
from nograd.runtime.redaction import mask_url
from nograd.server.banner import with_line
from nograd.server.command import check_early
from nograd.server.run import bind
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.resolution import ResolvedSettings
from nograd.server.telemetry.logs import configure, event

if TYPE_CHECKING:
    from nograd.ray.deploying import Deployment

__all__ = ["print_ray_config", "serve_on_ray"]

NOT_ON_RAY: Mapping[str, str] = {
    "grpc_port": "Ray's proxies pass HTTP on; serve gRPC without --ray",
    "workers": "replicas take their place: --replicas",
    "devices": "each replica gets a GPU from Ray with --device cuda",
    "tls_cert": "Ray's proxies answer; use TLS in front of them, or in Ray Serve's http_options",
    "repository": "a call would reach one replica only; change the models by a rolling update",
    "repository_dir": "a call would reach one replica only; change the models by a rolling update",
    "lame_duck_s": "Ray takes a replica from its proxies before it is stopped",
}
"""Settings that have no effect on Ray, and their replacements."""

NOT_HERE = (
    "this machine has no proxy: Ray's proxies listen on machines with replicas, and on the machine from which Ray Serve was "
    "first started on this cluster"
)

LOOK_AGAIN_S = 2.0


def check(settings: ResolvedSettings, environment: Mapping[str, str]) -> None:
    """Raise ConfigError if a setting is not available on Ray."""
    for each in fields(ServeConfig):
        value = getattr(settings.config, each.name)
        if each.name in NOT_ON_RAY and value != each.default:
            raise ConfigError(f"{each.name} is {value!r}, and this is to run on Ray: {NOT_ON_RAY[each.name]}")
    if environment.get("NOGRAD_API_KEYS"):
        raise ConfigError(
            "NOGRAD_API_KEYS is set, but Ray shows the environment of its processes; give the keys in "
            "a file that every machine has: --api-keys-file"
        )
    check_early(settings)


def print_ray_config(settings: ResolvedSettings, replicas: str) -> str:
    """Return the file with which `serve deploy` deploys the same application as the command.

    Args:
        settings: settings of the server.
        replicas: as `Replicas.parse` takes it.

    Raises:
        ConfigError: a setting is not available on Ray.
    """
    Replicas.parse(replicas)
    check(settings, os.environ)
    import yaml

    from nograd.ray.serving import APPLICATION, application, arguments_of

    plain = arguments_of(settings, replicas)
    arguments = {name: mask_url(value) if isinstance(value, str) else value for name, value in plain.items()}
    content = {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.config.host, "port": settings.config.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": f"{application.__module__}:{application.__name__}",
                "args": arguments,
            }
        ],
    }
    head = "# For Ray: serve deploy FILE. Every machine needs nograd, and the models at these paths.\n"
    if arguments != plain:
        head += "# *** replaces credentials in a URL, which are not printed: insert them again.\n"
    return head + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def serve_on_ray(settings: ResolvedSettings, *, replicas: str, address: str, say: Callable[[str], None]) -> int:
    """Serve on a cluster until a signal stops it; return the exit code. SIGHUP replaces the replicas, one after the other.

    Args:
        settings: settings of the server.
        replicas: as `Replicas.parse` takes it.
        address: address of the cluster; see `session.cluster`.
        say: called with the start message when requests are answered, and when the server has stopped; not called if the
            log is JSON.

    Raises:
        ConfigError: no cluster answers, or it has no room; a setting is not available on Ray, or is invalid.
        ModelLoadError: no replica starts.
    """
    least = Replicas.parse(replicas).least
    check(settings, os.environ)
    config = settings.config
    configure(config.log_format, config.log_level)
    address = address_for(address, os.environ)
    if address == LOCAL:
        bind(config.host, config.port).close()  # before any slow step
    from nograd.ray.deploying import Deployment, quiet
    from nograd.ray.serving import arguments_of, places
    from nograd.ray.session import cluster

    quiet()
    show = say if config.log_format == "text" else _discard
    with cluster(address), _Signals() as signals:
        check_room(least, *places(settings), is_local=address == LOCAL)
        with Deployment(config.host, config.port, arguments_of(settings, replicas)) as deployed:
            if deployed.wait_running(signals.wait):
                url = f"http://{replace(config, host=deployed.host).address(deployed.port)}"
                if not deployed.answers(signals.wait):
                    event("not_here", logging.WARNING, url=url, why=NOT_HERE)
                show(with_line(deployed.greeting(url), f"  replicas  {deployed.describe_replicas()}"))
                event("ready", url=url, replicas=replicas)
                _watch(deployed, signals)
    event("stopped")
    show("stopped")
    return 0


def check_room(least: int, cores: int, gpus: int, room: int, *, is_local: bool) -> None:
    """Raise ConfigError if replicas wait for room that a local cluster cannot gain; other clusters may grow."""
    each = f"{cores} core{'s' * (cores > 1)}{f' and {gpus} GPU' if gpus else ''}"
    if least > room and is_local:
        raise ConfigError(f"replicas is {least}; with {each} each, this machine has room for {room}")
    if least > room:
        event("waits_for_room", logging.WARNING, replicas=least, room=room, each=each)


def _watch(deployed: Deployment, signals: _Signals) -> None:
    """Return when a signal requests a stop, or when another command has deployed the application."""
    before = ""
    while not signals.wait(LOOK_AGAIN_S):
        if signals.renews():
            _replace(deployed)
        elif (trouble := deployed.trouble()) != before:
            before = trouble
            event("replicas_failed" if trouble else "replicas_well", logging.WARNING, error=trouble or None)
        elif deployed.is_taken_over():
            event("taken_over", logging.WARNING, now="another command has deployed since: what answers is its own")
            return


def _replace(deployed: Deployment) -> None:
    """Replace the replicas; if this cannot start, the existing ones remain."""
    event("replacing")
    try:
        deployed.deploy()
    except NogradError as error:
        event("not_replaced", logging.ERROR, error=str(error))


def _discard(_said: str) -> None:
    """Discard the text, for JSON logs."""


class _Signals:
    """Within this context, SIGTERM and SIGINT request a stop, and SIGHUP requests a replacement."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._renew = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        meant = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._renew}
        for number, means in meant.items():
            self._before[number] = signal.signal(number, lambda *_, means=means: means.set())
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def wait(self, seconds: float) -> bool:
        """Wait for up to `seconds`; return True at once if a stop is requested."""
        return self._stop.wait(seconds)

    def renews(self) -> bool:
        """Return True once for each requested replacement."""
        is_requested = self._renew.is_set()
        self._renew.clear()
        return is_requested
