"""From the start of a process to the first answer of a MiniLM bundle: CPU seconds, wall seconds, peak memory; without torch.

    python -m benchmarks.bundle_start

Each child is `python -c`: it reads and verifies the bundle, opens it, embeds one sentence, and tells its peak, VmHWM
(what `wait` tells of a child begins with the peak of its parent). In turn, so that drift meets all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import in_turn, report, spread

ROUNDS = 11
GOAL_CPU_S, GOAL_MB = 1.2, 200.0

CHILD = """
import sys
from nograd import load
answer = load(sys.argv[1]).predict("A man is eating food.")["embedding"]
assert answer.shape == (384,) and not {"torch", "transformers", "onnx"} & set(sys.modules)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write(folder: Path) -> dict[str, Path]:
    """Write MiniLM as bundles, in float32 and 8-bit, each as a folder and as a `.zip`."""
    from nograd import load, quantize_dynamic
    from nograd.bundle import BundleSettings, ExportedFile, Pipeline, write_bundle
    from nograd.exports import export_model

    predictor = load("minilm")
    backend: Any = predictor.backend
    files = {
        "float32": export_model(backend, folder / "float32.onnx", to="onnx").path,
        "int8-dynamic": Path(quantize_dynamic(backend, path=folder / "int8.onnx").path),
    }
    found = {}
    for precision, file in files.items():
        settings = BundleSettings(name="minilm", backend="onnx", precision=precision, num_threads=os.cpu_count() or 1)
        for ending in ("", ".zip"):
            found[f"{precision}{' (zip)' if ending else ''}"] = write_bundle(
                folder / f"{precision}{ending}", model=ExportedFile(file), signature=predictor.signature,
                settings=settings, front=Pipeline.of(predictor),
            )  # fmt: skip
    return found


def start(bundle: Path) -> dict[str, float]:
    """Return what one child used, as the kernel counted it."""
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(bundle)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as told:
        peak_kb = int(told.read() or 0)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the child ended with {child.returncode}")
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - begun,
        "peak_mb": peak_kb * 1024 / 1e6,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundles = write(Path(folder))
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in bundles}
        for path in bundles.values():
            start(path)  # byte code is compiled, and files are in the page cache

        def once(name: str) -> Callable[[], float]:
            def run() -> float:
                runs[name].append(start(bundles[name]))
                return runs[name][-1]["cpu_s"]

            return run

        in_turn(ROUNDS, **{name: once(name) for name in bundles})
    figures = {name: {key: [run[key] for run in found] for key in found[0]} for name, found in runs.items()}
    table = [["bundle", "CPU s", "wall s", "peak RSS MB"]]
    table += [[name, *(spread(found[key]) for key in ("cpu_s", "wall_s", "peak_mb"))] for name, found in figures.items()]
    met = all(median(found["cpu_s"]) <= GOAL_CPU_S and median(found["peak_mb"]) <= GOAL_MB for found in figures.values())
    goal = f"at most {GOAL_CPU_S} s of CPU and {GOAL_MB:g} MB"
    report("bundle_start", table, json.loads(json.dumps(figures)), goal=goal, met=met)


if __name__ == "__main__":
    main()
