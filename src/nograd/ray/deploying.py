"""The deployment of one command on a cluster: deploy, watch, delete."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from secrets import token_hex
from typing import Any, Self

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from nograd.errors import ConfigError, ModelLoadError
from nograd.ray.replica import ASK_S
from nograd.ray.serving import APPLICATION, application
from nograd.server.run import bind

__all__ = ["Deployment", "quiet"]

LOOK_EVERY_S = 0.25
ANSWERS_WITHIN_S = 5.0
"""Seconds until Ray's proxies know of running replicas."""

FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)

RAISED = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The last line of a traceback."""


class Deployment:
    """The deployed application within a context, unless another command deploys it meanwhile.

    Args:
        host: address on which Ray's proxies listen.
        port: port on which they listen; 0: their current one, or a free one.
        arguments: arguments of `serving.application`.
    """

    def __init__(self, host: str, port: int, arguments: Mapping[str, Any]) -> None:
        self.host = host
        self.port = port
        self._arguments = arguments
        self._token = token_hex(8)
        """Identifies the replicas of this deployment. Ray records no time of a deployment by a program."""

        self._is_update = False

    def __enter__(self) -> Self:
        if not serve.status().proxies:
            self.port = self.port or _free_port(self.host)
            serve.start(http_options={"host": self.host, "port": self.port})
        else:
            self._take_address()
        self._is_update = _status() is not None
        self.deploy()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not self.is_taken_over() and (kind is None or not self._is_update):
            serve.delete(APPLICATION)

    def _take_address(self) -> None:
        """Use the address at which Ray's proxies already listen; a cluster has a single one.

        Raises:
            ConfigError: another address is requested.
        """
        from ray.serve.context import _get_global_client  # no public function returns it

        found = _get_global_client().http_config
        if self.port and (self.host, self.port) != (found.host, found.port):
            raise ConfigError(
                f"host and port are {self.host}, {self.port}, and Ray Serve listens on this cluster at {found.host}, "
                f"{found.port} already; use the same, or end it first: serve shutdown"
            )
        self.host, self.port = found.host, found.port

    def deploy(self) -> None:
        """Start the replicas. Existing ones are replaced one after the other, and answer until then.

        Raises:
            ConfigError: a setting is invalid, or the cluster has no room.
        """
        made = application(self._arguments, self._token, _running())
        target = serve.RunTarget(target=made, name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)

    def is_taken_over(self) -> bool:
        """Return True if another command has deployed or deleted the application since; a replica knows, if one answers."""
        if _status() is None:
            return True
        try:
            token = serve.get_app_handle(APPLICATION).deployed_by.remote().result(timeout_s=ASK_S)
        except (TimeoutError, RayError, RayServeException):
            return False
        return bool(token != self._token)

    def wait_running(self, waits: Callable[[float], bool]) -> bool:
        """Return True when the replicas run, False if `waits` requests a stop.

        Args:
            waits: waits for a number of seconds, and returns True to request a stop.

        Raises:
            ModelLoadError: no replica starts.
        """
        while (status := _status()) is not None and status.status is not ApplicationStatus.RUNNING:
            if trouble := self.trouble():
                left = "; the earlier replicas still answer" if self._is_update else ""
                raise ModelLoadError(f"no replica comes up: {trouble}{left}")
            if waits(LOOK_EVERY_S):
                return False
        return status is not None

    def trouble(self) -> str:
        """Return the reason why replicas do not start; empty if they run or are still starting."""
        status = _status()
        return _reason(status) if status is not None and status.status in FAILED else ""

    def answers(self, waits: Callable[[float], bool]) -> bool:
        """Return True if Ray's proxies answer on this machine within some seconds; `waits` as for `wait_running`."""
        for _ in range(round(ANSWERS_WITHIN_S / LOOK_EVERY_S)):
            if _is_answering(self.host, self.port):
                return True
            if waits(LOOK_EVERY_S):
                break
        return False

    def greeting(self, url: str) -> str:
        """Return the start message of a replica."""
        return str(serve.get_app_handle(APPLICATION).greeting.remote(url).result())

    def describe_replicas(self) -> str:
        """Return the number of running replicas in words."""
        return f"{_running()} now, {self._arguments['replicas']} configured"


def quiet() -> None:
    """Limit Ray Serve's log in this process to errors."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)


def _free_port(host: str) -> int:
    with bind(host, 0) as listener:
        return int(listener.getsockname()[1])


def _status() -> ApplicationStatusOverview | None:
    found: ApplicationStatusOverview | None = serve.status().applications.get(APPLICATION)
    return found


def _running() -> int:
    status = _status()
    return sum(sum(each.replica_states.values()) for each in status.deployments.values()) if status is not None else 0


def _reason(status: ApplicationStatusOverview) -> str:
    """Return the error itself from Ray's message, which has many lines and contains a traceback."""
    said = "\n".join([status.message, *(each.message for each in status.deployments.values())])
    raised = RAISED.findall(said)
    return raised[-1][1] if raised else (said.strip().splitlines() or ["Ray gives no reason"])[-1]


def _is_answering(host: str, port: int) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  Ray's listen address, not ours
    connection = HTTPConnection(here, port, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status in (200, 401, 503)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
