"""Memory limits and memory use of this process, in bytes. Linux; other systems report less."""

from __future__ import annotations

import ctypes
from pathlib import Path

__all__ = ["available_bytes", "format_bytes", "give_back_freed", "peak_bytes", "reset_peak", "resident_bytes"]

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def available_bytes(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Return the memory that this process may still take, in bytes; 0 if unknown."""
    free = _field(proc / "meminfo", "MemAvailable")
    limits = ((cgroup / "memory.max", cgroup / "memory.current"),
              (cgroup / "memory" / "memory.limit_in_bytes", cgroup / "memory" / "memory.usage_in_bytes"))  # fmt: skip
    for limit, used in limits:
        if _read(limit).isdigit() and _read(used).isdigit():
            free = min(free, max(0, int(_read(limit)) - int(_read(used))))
    return free


def resident_bytes(proc: Path = PROC) -> int:
    """Return the resident memory of this process in bytes; 0 if unknown."""
    return _field(proc / "self" / "status", "VmRSS")


def peak_bytes(proc: Path = PROC) -> int:
    """Return the peak memory of this process since `reset_peak`, in bytes; 0 if unknown."""
    return _field(proc / "self" / "status", "VmHWM")


def reset_peak(proc: Path = PROC) -> bool:
    """Reset the peak memory; return False if the system does not allow it."""
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def give_back_freed() -> None:
    """Return freed memory to the system, so that a leak that only fills holes in the heap shows.

    glibc only; a no-op elsewhere.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def format_bytes(nbytes: float) -> str:
    """Return a number of bytes with its unit: `2.42 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(nbytes) >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.0f} bytes"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _field(path: Path, name: str) -> int:
    """Return a field of a /proc file in bytes; the file's unit is KiB."""
    for line in _read(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
