"""Select the cluster's address. This happens before Ray is imported, because the import reads the environment."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["LOCAL", "address_for"]

LOCAL = "local"
"""The address of a temporary cluster on this machine."""


def address_for(requested: str, environment: MutableMapping[str, str]) -> str:
    """Return the address of the cluster, and set the environment that a local one needs.

    If Ray expects other machines to join, it replaces 127.0.0.1 by the machine's own address and listens on all interfaces.
    The variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, which also works on Linux, prevents this.

    Args:
        said: the user's address; empty: RAY_ADDRESS, else `local`.
        environment: `os.environ`.
    """
    address = requested or environment.get("RAY_ADDRESS") or LOCAL
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return address
