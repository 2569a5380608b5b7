"""A Ray cluster: join an existing one, or start one on this machine and stop it again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from nograd.errors import ConfigError, MissingExtraError
from nograd.ray.address import LOCAL, address_for

try:
    import ray
except ImportError:
    raise MissingExtraError("ray", "ray") from None

__all__ = ["cluster", "ray", "room_for"]

STORE_BYTES = 512 << 20
"""Memory for objects in transit between processes of a local cluster, in bytes. Ray moves the excess to disk."""

CONNECTS_WITHIN_S = 10.0


@contextmanager
def cluster(address: str = "") -> Iterator[None]:
    """Connect to a cluster within this context.

    Args:
        address: as `ray.init` takes it; `local` starts a cluster on this machine; empty: from the environment, see
            `address.address_for`. An existing connection of this process is used instead, and remains open.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    wanted = address_for(address, os.environ)
    _check_reachable(wanted)
    local = {"include_dashboard": False, "object_store_memory": STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(wanted, log_to_driver=False, logging_level="error", **(local if wanted == LOCAL else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {wanted!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ConfigError if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {error}") from None


def room_for(cores: int, gpus: int) -> int:
    """Return the number of actors that the cluster's machines have room for, with the given cores and GPUs each.

    Raises:
        ConfigError: there is no room for one actor.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = [min(int(each.get("CPU", 0)) // cores, int(each.get("GPU", 0)) // gpus if gpus else 2**31) for each in machines]
    if not sum(fits):
        raise ConfigError(f"no machine of the cluster has {cores} cores{f' and {gpus} GPU' if gpus else ''} for an actor")
    return sum(fits)
