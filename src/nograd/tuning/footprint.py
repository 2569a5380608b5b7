"""`python -m nograd.tuning.footprint BACKEND FILE LANES THREADS BATCH`: print the memory of a process that serves FILE, as
JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from nograd.backends.kinds import LoadOptions
from nograd.backends.opening import open_backend
from nograd.backends.registry import find_kind, why_unknown
from nograd.errors import ConfigError


def main(name: str, path: str, lanes: str, num_threads: str, batch: str) -> None:
    """Open the file, run the batch, and print the peak memory of this process in bytes."""
    kind = find_kind(name)
    if kind is None:
        raise ConfigError(why_unknown(name))
    options = LoadOptions(trusted=True, lanes=int(lanes), num_threads=int(num_threads), spins=False)
    backend = open_backend(kind, Path(path), options)
    with np.load(batch) as file:
        inputs = {name: file[name] for name in file.files}
    for _ in range(2):
        backend.run(inputs)
    sys.stdout.write(json.dumps({"peak_bytes": _peak_bytes(), "torch": "torch" in sys.modules}) + "\n")


def _peak_bytes() -> int:
    """Return the peak memory of this process in bytes, from VmHWM.

    Linux carries `ru_maxrss` over from the process that started this one if that was larger; VmHWM covers this program
    only.
    """
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(*sys.argv[1:6])
