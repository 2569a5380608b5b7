"""Processors of a process: its affinity, and the quota of its container as the files of both versions of cgroups hold it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from nograd.runtime import cores
from nograd.runtime.cores import bound_threads, processors, usable_cores, usable_processors

EIGHT = frozenset(range(8))


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: EIGHT)


def root(tmp_path: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


GROUP_2 = {"proc/self/cgroup": "0::/pod/box\n"}
GROUP_1 = {"proc/self/cgroup": "5:memory:/pod\n4:cpu,cpuacct:/pod/box\n0::/\n"}


def version_1(folder: str, quota: str, period: str = "100000\n") -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us": quota, f"sys/fs/cgroup/{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("files", "found", "threads"),
    [
        ({}, 8.0, 8),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 1),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 0.2, 1),
        ({"sys/fs/cgroup/cpu.max": "3200000 100000\n"}, 8.0, 8),
        ({**GROUP_2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3.0, 3),
        (version_1("cpu", "100000\n", "50000\n"), 2.0, 2),
        (version_1("cpu,cpuacct", "350000\n"), 3.5, 3),
        ({**GROUP_1, **version_1("cpu,cpuacct/pod/box", "200000\n")}, 2.0, 2),
        ({**GROUP_1, **version_1("cpu,cpuacct/pod", "100000\n"), **version_1("cpu,cpuacct/pod/box", "-1\n")}, 1.0, 1),
        (version_1("cpu", "100000", "0"), 8.0, 8),
        ({"sys/fs/cgroup/cpu.max": "\n", **version_1("cpu", "")}, 8.0, 8),
    ],
    ids=[
        "no files", "fraction", "below one", "above the affinity", "group around", "version 1", "version 1, joint folder",
        "version 1, own group", "version 1, group around", "version 1, no period", "empty files",
    ],
)  # fmt: skip
def test_the_quota_limits_the_processors(tmp_path: Path, files: Mapping[str, str], found: float, threads: int) -> None:
    at = root(tmp_path, files)

    assert usable_cores(at) == found
    assert usable_processors(at) == threads
    assert processors({}, at) == threads


@pytest.mark.parametrize(("given", "threads"), [("2", 2), ("16", 4), ("3,2", 3), ("0", 4), ("many", 4)])
def test_the_variable_limits_the_threads_below_the_quota(tmp_path: Path, given: str, threads: int) -> None:
    at = root(tmp_path, {"sys/fs/cgroup/cpu.max": "400000 100000\n"})

    assert processors({"OMP_NUM_THREADS": given}, at) == threads


@pytest.mark.parametrize(
    ("quota", "before", "after"),
    [
        ("250000 100000", {}, {"OMP_NUM_THREADS": "2"}),
        ("250000 100000", {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "1"}),
        ("max 100000", {}, {}),
        ("900000 100000", {}, {}),
    ],
)
def test_torch_gets_the_quota_through_its_variable(
    tmp_path: Path, quota: str, before: dict[str, str], after: dict[str, str]
) -> None:
    environment = dict(before)

    bound_threads(environment, root(tmp_path, {"sys/fs/cgroup/cpu.max": quota}))

    assert environment == after


@pytest.mark.parametrize(
    ("usable", "given", "share"),
    [(4, None, "2"), (4, "4", "2"), (4, "3", None), (1, "1", "1"), (1, None, "1")],
    ids=["unset", "set by the command", "set by the user", "quota of one", "quota of one, unset"],
)
def test_workers_share_the_quota(monkeypatch: pytest.MonkeyPatch, usable: int, given: str | None, share: str | None) -> None:
    from nograd.server.workers import supervisor

    monkeypatch.setattr(supervisor, "usable_processors", lambda: usable)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)

    assert supervisor._threads(2) == ({} if share is None else {"OMP_NUM_THREADS": share})


def test_tuning_takes_no_more_processors_than_the_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nograd.errors import ConfigError
    from nograd.tuning.command import settings_of

    monkeypatch.setattr(cores.usable_processors, "__defaults__", (root(tmp_path, {"sys/fs/cgroup/cpu.max": "2 1"}),))

    assert settings_of(goal="latency", budget="60s").cores == 2
    with pytest.raises(ConfigError, match="cores is 3; this process may use 1 to 2"):
        settings_of(goal="latency", budget="60s", cores=3)
