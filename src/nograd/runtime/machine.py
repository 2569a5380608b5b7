"""Machine: the properties of a machine that affect speed and sometimes answers, and the differences between two machines.

Nothing is imported: package metadata provides the versions.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from nograd.errors import ConfigError
from nograd.runtime.cores import control_groups, usable_cores

__all__ = ["Machine", "differences", "this_machine"]

LIBRARIES = ("nograd", "numpy", "torch", "tokenizers", "transformers")
"""Packages whose versions are recorded if they are installed, in addition to the libraries of the backends."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The properties of a machine that determine how fast a model runs."""

    processor: str
    """Model name reported by the processor or the system."""

    flags: str
    """Digest of the processor's features (instruction sets); empty if unknown."""

    cores: float
    """Processors that this process may use, from its affinity and its container's quota."""

    memory_bytes: int
    """Memory of the machine, or of the container if it is lower."""

    system: str
    """System, such as `Linux 6.1 x86_64`."""

    python: str
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Installed package -> version."""

    gpus: tuple[str, ...] = ()
    """Model names of NVIDIA GPUs."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "libraries": dict(self.libraries), "gpus": list(self.gpus)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Machine:
        """Create a machine from the values of `to_json`.

        Raises:
            ConfigError: a field is missing or unknown.
        """
        known = {each.name for each in fields(cls)}
        if set(plain) != known:
            raise ConfigError(
                f"a machine is described by {', '.join(sorted(known))}; the fields are {', '.join(sorted(plain))}"
            )
        return cls(**{**plain, "gpus": tuple(plain["gpus"])})


def this_machine(root: Path = Path("/"), *, runtimes: Iterable[Sequence[str]] = ()) -> Machine:
    """Detect this machine.

    Args:
        root: folder that contains `proc` and `sys`.
        runtimes: packages of backends whose versions are recorded, each with the alternative names under which it may be
            installed (see `nograd.backends.registry.runtimes`).
    """
    info = _read(root / "proc/cpuinfo")
    flags = _entry(info, "flags") or _entry(info, "Features")
    system = platform.uname()
    return Machine(
        processor=_processor(info) or system.machine,
        flags=blake2b(" ".join(sorted(flags.split())).encode(), digest_size=8).hexdigest() if flags else "",
        cores=usable_cores(root),
        memory_bytes=_memory_bytes(root),
        system=f"{system.system} {system.release} {system.machine}",
        python=platform.python_version(),
        libraries=_libraries(runtimes),
        gpus=_gpus(root),
    )


def differences(then: Machine, now: Machine, *, packages: Iterable[str] = ("torch",)) -> list[str]:
    """Return the differences between two machines that may affect speed or answers, one sentence each; empty if measurements of
    one are valid for the other.

    Args:
        then: machine of a measurement.
        now: machine of the next runs.
        packages: names in `libraries` that matter, such as the computing library.
    """
    found = []
    if then.processor != now.processor:
        found.append(f"the processor is {now.processor}, and was {then.processor}")
    elif then.flags != now.flags:
        found.append(f"the processor, {now.processor}, has other features (instruction sets) than it had")
    if then.gpus != now.gpus:
        found.append(f"the GPUs are {', '.join(now.gpus) or 'none'}, and were {', '.join(then.gpus) or 'none'}")
    if then.cores != now.cores:
        found.append(f"{now.cores:g} processors may be used, and {then.cores:g} might then")
    for name in packages:
        before, after = then.libraries.get(name), now.libraries.get(name)
        if before != after:
            found.append(f"{name} is {after or 'not installed'}, and was {before or 'not installed'}")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _entry(info: str, name: str) -> str:
    """Return the first value of a `name : value` line."""
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _processor(info: str) -> str:
    """Return the processor's name; ARM kernels report numbers instead of a name."""
    if name := _entry(info, "model name") or _entry(info, "Model"):
        return name
    numbers = [_entry(info, f"CPU {name}") for name in ("implementer", "part", "variant", "revision")]
    return f"ARM {' '.join(numbers)}" if all(numbers) else ""


def _memory_bytes(root: Path) -> int:
    total = _entry(_read(root / "proc/meminfo"), "MemTotal").partition(" ")[0]
    found = [int(total) * 1024] if total.isdigit() else []
    limits = [_read(group / "memory.max").strip() for group in control_groups(root)]
    found += [int(limit) for limit in limits if limit.isdigit()]
    return min(found, default=0)


def _libraries(runtimes: Iterable[Sequence[str]]) -> dict[str, str]:
    found = {}
    for names in [*((name,) for name in LIBRARIES), *runtimes]:
        for package in names:
            try:
                found[names[0]] = metadata.version(package)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def _gpus(root: Path) -> tuple[str, ...]:
    folder = root / "proc/driver/nvidia/gpus"
    cards = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(_entry(_read(card / "information"), "Model") or "unknown" for card in cards)
