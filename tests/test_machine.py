"""A machine, read from files as Linux has them, and how two differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nograd.errors import ConfigError
from nograd.runtime.machine import Machine, differences, this_machine
from tests.waiting import HANG_S

INTEL = "processor : 0\nmodel name : Xeon 8370\nflags : avx2 avx512f\n\nprocessor : 1\nmodel name : Xeon\nflags : avx2\n"
ARM = "processor : 0\nFeatures : asimd sve\nCPU implementer : 0x41\nCPU variant : 0x1\nCPU part : 0xd40\nCPU revision : 1\n"

MACHINE = Machine(
    "Xeon 8370", "abc", 2.0, 8 << 30, "Linux 6 x86_64", "3.11.7", {"torch": "2.13.0", "onnxruntime": "1.32.0", "numpy": "2.4.6"}
)


def root(tmp_path: Path, **files: str) -> Path:
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_the_processor_is_named_and_its_features_are_digested(tmp_path: Path) -> None:
    found = this_machine(root(tmp_path, proc__cpuinfo=INTEL, proc__meminfo="MemTotal:       1024 kB\n"))
    other = this_machine(root(tmp_path, proc__cpuinfo=INTEL.replace("avx2 avx512f", "avx512f avx2")))
    fewer = this_machine(root(tmp_path, proc__cpuinfo=INTEL.replace("avx2 avx512f", "avx2")))

    assert (found.processor, found.memory_bytes) == ("Xeon 8370", 1 << 20)
    assert found.flags == other.flags
    assert fewer.flags != found.flags


def test_an_arm_processor_is_named_by_its_numbers(tmp_path: Path) -> None:
    found = this_machine(root(tmp_path, proc__cpuinfo=ARM))

    assert found.processor == "ARM 0x41 0xd40 0x1 1"
    assert found.flags


def test_what_is_not_told_is_left_open(tmp_path: Path) -> None:
    found = this_machine(tmp_path)

    assert (found.processor, found.flags, found.memory_bytes, found.gpus) == (os.uname().machine, "", 0, ())
    assert found.cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys__fs__cgroup__cpu.max": "50000 100000\n"}, 0.5),
        ({"sys__fs__cgroup__cpu.max": "max 100000\n"}, None),
        ({"proc__self__cgroup": "0::/pod/box\n", "sys__fs__cgroup__pod__box__cpu.max": "25000 100000"}, 0.25),
        ({"proc__self__cgroup": "0::/pod/box\n", "sys__fs__cgroup__pod__cpu.max": "75000 100000"}, 0.75),
        ({"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "50000", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000"}, 0.5),
        ({"sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1", "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000"}, None),
    ],
    ids=["quota", "no quota", "own group", "group around", "version 1", "version 1, none"],
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    assert this_machine(root(tmp_path, **files)).cores == (cores or len(os.sched_getaffinity(0)))


def test_a_containers_limit_is_its_memory(tmp_path: Path) -> None:
    files = {"proc__meminfo": "MemTotal: 1000000 kB\n", "sys__fs__cgroup__memory.max": "4096\n"}

    assert this_machine(root(tmp_path, **files)).memory_bytes == 4096


def test_gpus_are_named(tmp_path: Path) -> None:
    files = {"proc__driver__nvidia__gpus__0000:01__information": "Model: \t\t NVIDIA H100\nIRQ: 1\n"}

    assert this_machine(root(tmp_path, **files)).gpus == ("NVIDIA H100",)


def test_versions_are_read_and_nothing_is_imported() -> None:
    code = (
        "import sys; from nograd.runtime.machine import this_machine; print(this_machine().libraries['numpy'])\n"
        "print([name for name in ('torch', 'onnxruntime', 'openvino', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=True)

    assert done.stdout == f"{np.__version__}\n[]\n"


def test_a_machine_comes_back_from_json() -> None:
    machine = replace(MACHINE, gpus=("NVIDIA H100",))

    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine
    with pytest.raises(ConfigError, match=r"a machine is described by cores, .*; the fields are cores"):
        Machine.from_json({"cores": 2})


@pytest.mark.parametrize(
    ("now", "package", "said"),
    [
        (MACHINE, "onnxruntime", []),
        (replace(MACHINE, processor="EPYC", flags="xyz"), "onnxruntime", ["the processor is EPYC, and was Xeon 8370"]),
        (
            replace(MACHINE, flags="xyz"),
            "onnxruntime",
            ["the processor, Xeon 8370, has other features (instruction sets) than it had"],
        ),
        (replace(MACHINE, cores=0.5), "onnxruntime", ["0.5 processors may be used, and 2 might then"]),
        (replace(MACHINE, gpus=("H100",)), "torch", ["the GPUs are H100, and were none"]),
        (replace(MACHINE, libraries={"onnxruntime": "1.33"}), "onnxruntime", ["onnxruntime is 1.33, and was 1.32.0"]),
        (replace(MACHINE, libraries={"torch": "2.13.0"}), "onnxruntime", ["onnxruntime is not installed, and was 1.32.0"]),
        (replace(MACHINE, libraries={**MACHINE.libraries, "torch": "3"}), "onnxruntime", []),
        (replace(MACHINE, libraries={**MACHINE.libraries, "torch": "3"}), "torch", ["torch is 3, and was 2.13.0"]),
        (replace(MACHINE, memory_bytes=1, system="Linux 7", python="3.13.0"), "onnxruntime", []),
    ],
)
def test_only_what_changes_speed_or_answers_is_a_difference(now: Machine, package: str, said: list[str]) -> None:
    assert differences(MACHINE, now, packages=[package]) == said
