"""How many workers there are, on which devices, and when one that ended is started again. Pure decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nograd.errors import ConfigError
from nograd.server.settings.config import ServeConfig
from nograd.server.settings.model_config import ModelConfig
from nograd.server.settings.resolution import Settings

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
"""Times that a worker is started that a signal ended before any worker was ready."""

BEAT_S = 1.0
"""Seconds between two reports of a ready worker's event loop."""

SILENT_S = 10.0
"""Seconds without a report after which a worker counts as stopped: its process, or its event loop."""

STEADY_S = 60.0
"""A worker that has answered for so long did not end for what the one before it ended for."""


def devices_of(config: ServeConfig) -> list[str]:
    """Return the device of each worker: those that are listed, in turn, or the server's.

    >>> devices_of(ServeConfig(devices="cuda:0, cuda:1"))
    ['cuda:0', 'cuda:1']
    >>> devices_of(ServeConfig(workers=3, devices="cuda:0,cuda:1"))
    ['cuda:0', 'cuda:1', 'cuda:0']
    """
    listed = [word.strip() for word in config.devices.split(",") if word.strip()] or [config.device]
    return [listed[index % len(listed)] for index in range(max(config.workers, len(listed)))]


def only(device: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return a device as the one GPU that a process sees, and what makes it see no other; any other device as it is.

    So models that choose their device by themselves choose this one, and no worker keeps memory on another's.

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
    """Return seconds until a worker is started again that has ended so many times in a row: doubled each time.

    >>> [pause_s(failures) for failures in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 30.0]
    """
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16))


def cannot_start(code: int, failures: int, *, was_ready: bool, any_was_ready: bool) -> bool:
    """Return whether a worker's end means that the server cannot run as it was configured, so that it ends.

    A worker that exits with an error before it was ever ready reports a mistake, such as a model that does not load. One that a
    signal ended is started again.

    Args:
        code: of the worker that ended; below 0: a signal ended it.
        failures: how often it has ended in a row.
        was_ready: whether it has ever been ready.
        any_was_ready: whether any worker has.

    >>> cannot_start(2, 1, was_ready=False, any_was_ready=True), cannot_start(2, 1, was_ready=True, any_was_ready=True)
    (True, False)
    >>> cannot_start(-9, 1, was_ready=False, any_was_ready=False), cannot_start(-9, 3, was_ready=False, any_was_ready=False)
    (False, True)
    """
    return not was_ready and (code > 0 or (failures >= FIRST_TRIES and not any_was_ready))


def is_silent(heard_at: float, now: float) -> bool:
    """Return whether a ready worker has not reported for so long that it counts as stopped.

    Args:
        heard_at: when its last report came, in seconds.
        now: seconds.
    """
    return now - heard_at > SILENT_S


def threads_each(processors: int, workers: int) -> int:
    """Return the threads that each worker computes with: together no more than there are processors.

    >>> threads_each(8, 3), threads_each(2, 4)
    (2, 1)
    """
    return max(1, processors // workers)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is told when it starts: one line of JSON."""

    worker: int
    """Its number, from 0."""

    count: int
    """How many there are."""

    folder: str
    """In which each has a socket for the others."""

    report_to: int
    """File descriptor, to which it writes when it is ready."""

    settings: Settings
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it has beside the supervisor's."""

    def to_line(self) -> bytes:
        """Return the line that `from_line` reads."""
        plain = {"worker": self.worker, "count": self.count, "folder": self.folder, "report_to": self.report_to}
        models = [asdict(model) for model in self.settings.models]
        return json.dumps({**plain, "config": asdict(self.settings.config), "models": models}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Return what `to_line` wrote."""
        said: Mapping[str, Any] = json.loads(line)
        models = tuple(ModelConfig(**model) for model in said["models"])
        settings = Settings(ServeConfig(**said["config"]), models)
        return cls(said["worker"], said["count"], said["folder"], said["report_to"], settings)


def orders_of(
    settings: Settings, folder: str, ports: tuple[int, int | None], environment: Mapping[str, str]
) -> Sequence[Order]:
    """Return each worker's order, but for what it reports to.

    Args:
        settings: of the server.
        folder: for sockets.
        ports: of HTTP and gRPC, which are the same for all.
        environment: of the supervisor.
    """
    devices = devices_of(settings.config)
    port, grpc_port = ports
    made = []
    for worker, (device, more) in enumerate(only(device, environment) for device in devices):
        config = replace(settings.config, workers=1, devices="", device=device, port=port, grpc_port=grpc_port)
        made.append(Order(worker, len(devices), folder, -1, replace(settings, config=config, origins={}), more))
    return made
