"""`python -m nograd.tuning.footprint FILE LANES THREADS BATCH`: what a process that serves FILE holds in memory, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from nograd.exports import open_file


def main(path: str, lanes: str, num_threads: str, batch: str) -> None:
    """Open the file, run the batch, print the most memory that this process ever held, in bytes."""
    spins = False if path.endswith(".onnx") else None
    backend = open_file(Path(path), trusted=True, lanes=int(lanes), num_threads=int(num_threads), spins=spins)
    with np.load(batch) as file:
        inputs = {name: file[name] for name in file.files}
    for _ in range(2):
        backend.run(inputs)
    sys.stdout.write(json.dumps({"peak_bytes": _peak_bytes(), "torch": "torch" in sys.modules}) + "\n")


def _peak_bytes() -> int:
    """Linux keeps `ru_maxrss` of the process that started this one, where that was larger; VmHWM is this program's own."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(*sys.argv[1:5])
