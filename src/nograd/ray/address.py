"""Which cluster; decided before Ray is imported, because Ray reads the environment then."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["LOCAL", "address_for"]

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, started for as long as it is needed."""


def address_for(said: str, environment: MutableMapping[str, str]) -> str:
    """Return the address of the cluster, and set what a local one needs.

    Ray gives 127.0.0.1 up for the machine's own address, and listens on all of them, where it believes that other machines
    might join. That it does not on macOS and Windows is a variable, which is heeded on Linux, too.

    Args:
        said: by the user; empty: what RAY_ADDRESS says, else `local`.
        environment: `os.environ`.
    """
    address = said or environment.get("RAY_ADDRESS") or LOCAL
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return address
