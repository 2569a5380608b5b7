"""The application of Ray Serve that `nograd serve --ray` runs, and that `serve deploy` finds by its path.

    applications:
    - name: nograd
      import_path: nograd.ray.serving:application
      args: {replicas: auto, models: [{model: /models/minilm.bundle, name: minilm}]}

The arguments are those of a configuration file, and `replicas`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve

from nograd.ray.actors import carried_environment, cores_of, reserved_gpus
from nograd.ray.replica import Replica
from nograd.ray.replicas import Replicas, goal_s, spare_percent
from nograd.ray.scaling import scaling
from nograd.ray.session import room_for
from nograd.server.run import RUNNING_BATCH_S
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import ResolvedSettings, settle

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["APPLICATION", "application", "arguments_of", "places"]

APPLICATION = "nograd"

EXTRA_REQUESTS = 1024
"""Requests that a replica takes in addition to its queue: metadata, health, and immediate refusals."""

STARTS = 1
"""Failed starts of replicas, with none running, before an error is reported."""

HEALTH_EVERY_S = 5.0


def application(arguments: Mapping[str, Any], deployed_by: str = "", running: int = 0) -> Application:
    """Return the application.

    Args:
        arguments: settings of a configuration file, and `replicas`: a number, `auto` (the default), or least and most.
        deployed_by: token of the deployment, which its replicas return.
        running: number of running replicas that will be replaced; 0: unknown.

    Raises:
        ConfigError: a setting is invalid, or the cluster has no room for one replica.
    """
    content = {key: value for key, value in arguments.items() if key != "replicas"}
    settings = settle(("the application's args", content), {}, {})
    config = settings.config
    cores, gpus, room = places(settings)
    least, most = Replicas.parse(str(arguments.get("replicas", "auto"))).bounds(room)
    number: dict[str, Any] = {"num_replicas": least}
    if most > least:
        number = {"autoscaling_config": scaling(least, most, goal_s(config.timeout_s))}
    deployment = serve.deployment(
        name="server",
        **number,
        ray_actor_options={"num_cpus": cores, "num_gpus": gpus, "runtime_env": {"env_vars": carried_environment()}},
        max_ongoing_requests=config.max_queue_rows + EXTRA_REQUESTS,  # the batcher decides which requests to refuse
        graceful_shutdown_timeout_s=ceil(config.grace_s + RUNNING_BATCH_S),
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_EVERY_S,
        max_constructor_retry_count=STARTS,
        max_surge_percent=spare_percent(max(running, least) if running else most, room),
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Replica))
    return deployment.bind(content, deployed_by)


def places(settings: ResolvedSettings) -> tuple[int, int, int]:
    """Return the cores and the GPUs of one replica, and the number of replicas that the cluster has room for now.

    The cores are those that the most demanding bundle was tuned for; 1 without a bundle.

    Raises:
        ConfigError: the cluster has no room for one replica.
    """
    cores = max((cores_of(model.model) for model in settings.models), default=1)
    gpus = reserved_gpus(settings.config.device)
    return cores, gpus, room_for(cores, gpus)


def arguments_of(settings: ResolvedSettings, replicas: str) -> dict[str, Any]:
    """Return the application's arguments for these settings: the non-default settings.

    Args:
        settings: settings of the server.
        replicas: as `Replicas.parse` takes it.
    """
    return {"replicas": replicas, **_non_default(settings.config), "models": [_model(each) for each in settings.models]}


def _model(model: ModelConfig) -> dict[str, Any]:
    path = Path(model.model)
    return {"model": str(path.absolute()) if path.exists() else model.model, **_non_default(model)}


def _non_default(value: ServeConfig | ModelConfig) -> dict[str, Any]:
    ray_has = ("host", "port", "model")
    defaults = {each.name: each.default for each in fields(value)}
    return {name: each for name, each in asdict(value).items() if name not in ray_has and each != defaults[name]}
