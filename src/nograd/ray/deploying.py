"""The application on a cluster, as one command has it: deployed, watched, and deleted again."""

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

__all__ = ["Deployed", "quiet"]

LOOK_EVERY_S = 0.25
ANSWERS_WITHIN_S = 5.0
"""Seconds that Ray's proxies have to hear of replicas that run."""

FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)

RAISED = re.compile(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The last line of a traceback."""


class Deployed:
    """The application for as long as the context lasts, unless another command deploys it meanwhile.

    Args:
        host: on which Ray's proxies are to listen.
        port: on which they are to; 0: where they do already, or on a free one.
        arguments: of `serving.application`.
    """

    def __init__(self, host: str, port: int, arguments: Mapping[str, Any]) -> None:
        self.host = host
        self.port = port
        self._arguments = arguments
        self._token = token_hex(8)
        """By which replicas tell whose they are: Ray notes no time of a deployment by a program."""

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
        """Take the address at which Ray's proxies listen already: there is one for the whole cluster.

        Raises:
            ConfigError: it is to be another.
        """
        from ray.serve.context import _get_global_client  # nothing public tells it

        found = _get_global_client().http_config
        if self.port and (self.host, self.port) != (found.host, found.port):
            raise ConfigError(
                f"host and port are {self.host}, {self.port}, and Ray Serve listens on this cluster at {found.host}, "
                f"{found.port} already; give these, or end it there: serve shutdown"
            )
        self.host, self.port = found.host, found.port

    def deploy(self) -> None:
        """Start the replicas; those that there are, are replaced one after the other, and answer until then.

        Raises:
            ConfigError: a setting is wrong, or the cluster has no room.
        """
        made = application(self._arguments, self._token, _running())
        target = serve.RunTarget(target=made, name=APPLICATION, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)

    def is_taken_over(self) -> bool:
        """Return whether somebody else has deployed or deleted the application since; a replica knows, if one answers."""
        if _status() is None:
            return True
        try:
            told = serve.get_app_handle(APPLICATION).deployed_by.remote().result(timeout_s=ASK_S)
        except (TimeoutError, RayError, RayServeException):
            return False
        return bool(told != self._token)

    def wait_running(self, waits: Callable[[float], bool]) -> bool:
        """Return true when the replicas run, false where `waits` says that it is to stop.

        Args:
            waits: waits for so many seconds; true where it is to stop.

        Raises:
            ModelLoadError: none comes up.
        """
        while (status := _status()) is not None and status.status is not ApplicationStatus.RUNNING:
            if trouble := self.trouble():
                left = "; those that answered before still do" if self._is_update else ""
                raise ModelLoadError(f"no replica comes up: {trouble}{left}")
            if waits(LOOK_EVERY_S):
                return False
        return status is not None

    def trouble(self) -> str:
        """Return why replicas do not come up; nothing where they do, or are still coming."""
        status = _status()
        return _reason(status) if status is not None and status.status in FAILED else ""

    def answers(self, waits: Callable[[float], bool]) -> bool:
        """Return whether Ray's proxies answer on this machine, after some seconds at most; `waits` as for `wait_running`."""
        for _ in range(round(ANSWERS_WITHIN_S / LOOK_EVERY_S)):
            if _is_answering(self.host, self.port):
                return True
            if waits(LOOK_EVERY_S):
                break
        return False

    def greeting(self, url: str) -> str:
        """Return what a replica says of itself."""
        return str(serve.get_app_handle(APPLICATION).greeting.remote(url).result())

    def told(self) -> str:
        """Return how many replicas run, in words."""
        return f"{_running()} now, {self._arguments['replicas']} as told"


def quiet() -> None:
    """Have Ray Serve tell this process' user of what went wrong only."""
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
    """Return the error itself out of what Ray says, which is a traceback in a message of many lines."""
    said = "\n".join([status.message, *(each.message for each in status.deployments.values())])
    raised = RAISED.findall(said)
    return raised[-1][1] if raised else (said.strip().splitlines() or ["Ray gives no reason"])[-1]


def _is_answering(host: str, port: int) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  where it listens, not we
    connection = HTTPConnection(here, port, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status in (200, 401, 503)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
