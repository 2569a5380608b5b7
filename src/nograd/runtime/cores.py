"""Processors that this process may use, from its affinity and the CPU quota of its container (control groups 1 and 2)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from math import inf
from pathlib import Path

__all__ = ["THREADS", "bound_threads", "control_groups", "processors", "usable_cores", "usable_processors"]

THREADS = "OMP_NUM_THREADS"
"""Environment variable with the number of threads, which torch and OpenMP read when they are loaded."""

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> float:
    """Return the number of processors that this process may use; a CPU quota may be fractional. Above 0.

    Args:
        root: folder that contains `proc` and `sys`.
    """
    return min(float(_num_allowed()), max(min(_quotas(root), default=inf), 0.01))


def usable_processors(root: Path = ROOT) -> int:
    """Return the number of threads that can compute at the same time: `usable_cores`, rounded down, at least 1.

    With more threads than the quota allows, the quota is used up early in each period, and the kernel stops all threads until
    its end.
    """
    return max(1, int(usable_cores(root)))


def processors(environment: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """Return the number of threads for a model's run: `usable_processors`, or OMP_NUM_THREADS if it is lower.

    torch reads this variable, too. If several processes share a machine (workers, cluster actors), it contains each process's
    share.

    >>> processors({"OMP_NUM_THREADS": "1"})
    1
    """
    usable = usable_processors(root)
    given = environment.get(THREADS, "").partition(",")[0].strip()
    return min(usable, int(given)) if given.isdecimal() and int(given) else usable


def bound_threads(environment: MutableMapping[str, str], root: Path = ROOT) -> None:
    """Set OMP_NUM_THREADS to the CPU quota if the quota is below the affinity, because torch reads only the affinity.

    Args:
        environment: `os.environ`, before torch is loaded. An existing value is kept.
        root: as for `usable_cores`.
    """
    usable = usable_processors(root)
    if THREADS not in environment and usable < _num_allowed():
        environment[THREADS] = str(usable)


def control_groups(root: Path, controller: str = "") -> list[Path]:
    """Return the folders of this process's control group and its parents, innermost first.

    Args:
        root: as for `usable_cores`.
        controller: controller of version 1, such as `cpu`; empty: version 2.
    """
    base = root / "sys/fs/cgroup"
    if controller:  # one folder may serve several controllers, such as `cpu,cpuacct`
        names = sorted(each.name for each in base.iterdir()) if base.is_dir() else []
        base /= next((name for name in names if controller in name.split(",")), controller)
    own = next((path for names, path in _memberships(root) if controller in names.split(",")), "/")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _num_allowed() -> int:
    """Return the number of processors in the affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Yield controllers and path of each control group hierarchy of this process; version 2 has no controller names."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        yield names, path


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of each group, in processors."""
    for group in control_groups(root):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        yield from _ratio(quota, period)
    for group in control_groups(root, "cpu"):
        yield from _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> Iterator[float]:
    """Yield the quotient; nothing if there is no quota (`max`, -1)."""
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
