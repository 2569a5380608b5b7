"""Number, devices and restarts of workers. Pure decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nograd.errors import ConfigError
from nograd.server.settings.definition import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import ResolvedSettings

__all__ = [
    "BEAT_S",
    "FIRST_PAUSE_S",
    "FIRST_TRIES",
    "LONGEST_PAUSE_S",
    "SILENT_S",
    "STEADY_S",
    "Order",
    "cannot_start",
    "devices_of",
    "is_silent",
    "only",
    "orders_of",
    "pause_s",
    "threads_each",
]

GPUS = "CUDA_VISIBLE_DEVICES"

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0

FIRST_TRIES = 3
"""Maximum starts of a worker that ends by a signal before any worker was ready."""

BEAT_S = 1.0
"""Interval of the reports of a ready worker's event loop, in seconds."""

SILENT_S = 10.0
"""Seconds without a report after which a worker's process or event loop counts as hung."""

STEADY_S = 60.0
"""After this many seconds of service, an end of a worker is not counted together with earlier ends."""


def devices_of(config: ServeConfig) -> list[str]:
    """Return the device of each worker: the listed devices in turn, or the server's device.

    >>> devices_of(ServeConfig(devices="cuda:0, cuda:1"))
    ['cuda:0', 'cuda:1']
    >>> devices_of(ServeConfig(workers=3, devices="cuda:0,cuda:1"))
    ['cuda:0', 'cuda:1', 'cuda:0']
    """
    listed = [word.strip() for word in config.devices.split(",") if word.strip()] or [config.device]
    return [listed[index % len(listed)] for index in range(max(config.workers, len(listed)))]


def only(device: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return a GPU's name for a process that sees only this GPU, and the environment for it. Other devices are unchanged.

    Models that choose their device themselves then use this GPU, and no worker allocates memory on another worker's GPU.

    >>> only("cuda:1", {})
    ('cuda:0', {'CUDA_VISIBLE_DEVICES': '1'})
    >>> only("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,7"})
    ('cuda:0', {'CUDA_VISIBLE_DEVICES': '7'})
    >>> only("cpu", {})
    ('cpu', {})

    Raises:
        ConfigError: the environment shows fewer GPUs.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number or "0").isdecimal():
        return device, {}
    index, shown = int(number or 0), environment.get(GPUS)
    if shown is None:
        return "cuda:0", {GPUS: str(index)}
    visible = [word.strip() for word in shown.split(",") if word.strip()]
    if index >= len(visible):
        raise ConfigError(f"devices has {device!r}, and {GPUS} is {shown!r}, which shows {len(visible)}")
    return "cuda:0", {GPUS: visible[index]}


def pause_s(failures: int) -> float:
    """Return the seconds before a restart after consecutive failures: doubled each time, with a limit.

    >>> [pause_s(failures) for failures in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))


def cannot_start(code: int, failures: int, *, was_ready: bool, any_was_ready: bool) -> bool:
    """Return whether a worker's end means that the server cannot run with its configuration and must end.

    A worker that exits with an error before it was ever ready reports a mistake, such as a model that does not load. A worker
    that a signal ended is restarted.

    Args:
        code: exit code of the worker; negative if a signal ended it.
        failures: number of consecutive ends.
        was_ready: whether the worker has ever been ready.
        any_was_ready: whether any worker has ever been ready.

    >>> cannot_start(2, 1, was_ready=False, any_was_ready=True), cannot_start(2, 1, was_ready=True, any_was_ready=True)
    (True, False)
    >>> cannot_start(-9, 1, was_ready=False, any_was_ready=False), cannot_start(-9, 3, was_ready=False, any_was_ready=False)
    (False, True)
    """
    return not was_ready and (code > 0 or (failures >= FIRST_TRIES and not any_was_ready))


def is_silent(heard_at: float, now: float) -> bool:
    """Return whether a ready worker has not reported for so long that it counts as hung.

    Args:
        heard_at: time of its last report, in seconds.
        now: current time in seconds.
    """
    return now - heard_at > SILENT_S


def threads_each(processors: int, workers: int) -> int:
    """Return the threads per worker: in total not more than processors, unless there are more workers.

    >>> threads_each(8, 3), threads_each(2, 4)
    (2, 1)
    """
    return max(1, processors // workers)


@dataclass(frozen=True, slots=True)
class Order:
    """The configuration that a worker receives at start, as one line of JSON."""

    worker: int
    """Its number, starting at 0."""

    count: int
    """Number of workers."""

    folder: str
    """Folder with the sockets of the workers."""

    report_to: int
    """File descriptor for its reports."""

    settings: ResolvedSettings
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to the supervisor's."""

    def to_line(self) -> bytes:
        """Return the line for `from_line`."""
        plain = {"worker": self.worker, "count": self.count, "folder": self.folder, "report_to": self.report_to}
        models = [asdict(model) for model in self.settings.models]
        return json.dumps({**plain, "config": asdict(self.settings.config), "models": models}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Parse a line of `to_line`."""
        said: Mapping[str, Any] = json.loads(line)
        models = tuple(ModelConfig(**model) for model in said["models"])
        settings = ResolvedSettings(ServeConfig(**said["config"]), models)
        return cls(said["worker"], said["count"], said["folder"], said["report_to"], settings)


def orders_of(
    settings: ResolvedSettings, folder: str, ports: tuple[int, int | None], environment: Mapping[str, str]
) -> Sequence[Order]:
    """Return the order of each worker, without its report descriptor.

    Args:
        settings: settings of the server.
        folder: folder for sockets.
        ports: ports of HTTP and gRPC, shared by all workers.
        environment: environment of the supervisor.
    """
    devices = devices_of(settings.config)
    port, grpc_port = ports
    made = []
    for worker, (device, more) in enumerate(only(device, environment) for device in devices):
        config = replace(settings.config, workers=1, devices="", device=device, port=port, grpc_port=grpc_port)
        made.append(Order(worker, len(devices), folder, -1, replace(settings, config=config, origins={}), more))
    return made
