"""Processors that this process may use: its affinity, and the CPU quota of its container (control groups 1 and 2)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from math import inf
from pathlib import Path

__all__ = ["THREADS", "bound_threads", "control_groups", "processors", "usable_cores", "usable_processors"]

THREADS = "OMP_NUM_THREADS"
"""Environment variable with the number of threads; torch and OpenMP read it when they are loaded."""

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> float:
    """Return the processors that this process may use, as a fraction if its quota is one; above 0.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    return min(float(_num_allowed()), max(min(_quotas(root), default=inf), 0.01))


def usable_processors(root: Path = ROOT) -> int:
    """Return the number of threads that may compute at a time: `usable_cores`, rounded down, at least 1.

    More threads than the quota's processors use it up early in each period, and the kernel then stops all of them.
    """
    return max(1, int(usable_cores(root)))


def processors(environment: Mapping[str, str] = os.environ, root: Path = ROOT) -> int:
    """Return the number of threads of a model's run: `usable_processors`, or OMP_NUM_THREADS if that is less.

    torch reads that variable too. Where several processes share a machine (workers, actors of a cluster), it holds the share
    of each.

    >>> processors({"OMP_NUM_THREADS": "1"})
    1
    """
    usable = usable_processors(root)
    given = environment.get(THREADS, "").partition(",")[0].strip()
    return min(usable, int(given)) if given.isdecimal() and int(given) else usable


def bound_threads(environment: MutableMapping[str, str], root: Path = ROOT) -> None:
    """Set OMP_NUM_THREADS to the quota if the quota is below the affinity, which is all that torch reads itself.

    Args:
        environment: `os.environ`, before torch is loaded. A value of the user is kept.
        root: as for `usable_cores`.
    """
    usable = usable_processors(root)
    if THREADS not in environment and usable < _num_allowed():
        environment[THREADS] = str(usable)


def control_groups(root: Path, controller: str = "") -> list[Path]:
    """Return the folders of the control group of this process and of those around it, the innermost first.

    Args:
        root: as for `usable_cores`.
        controller: of version 1, such as `cpu`; empty: version 2.
    """
    base = root / "sys/fs/cgroup"
    if controller:  # a folder may be that of several, such as `cpu,cpuacct`
        names = sorted(each.name for each in base.iterdir()) if base.is_dir() else []
        base /= next((name for name in names if controller in name.split(",")), controller)
    own = next((path for names, path in _memberships(root) if controller in names.split(",")), "/")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _num_allowed() -> int:
    """Return the processors of the affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Yield controllers and path of each hierarchy that this process is in; version 2 has no names of controllers."""
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
