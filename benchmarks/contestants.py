"""What `benchmarks.bulk` runs beside each other: each makes Parquet of JSONL in processes of its own, and is measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import HERE, RESULTS
from benchmarks.processes import Tree
from nograd.sources import folder_of

__all__ = [
    "ENCODE",
    "NOGRAD",
    "ON_RAY",
    "RAY",
    "TUNED",
    "Contestant",
    "Used",
    "contestants",
    "embeddings",
    "measured",
    "peer_python",
]

NOGRAD, TUNED, ENCODE, RAY, ON_RAY = "nograd predict", "the same, tuned", "sentence-transformers", "Ray Data", "nograd.ray"

SAMPLE_S = 1.0
"""Between looks at Ray's processes."""

Command: TypeAlias = list[str]
Array: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Used:
    """What one run took."""

    seconds: float
    cpu_s: float
    """Of all its processes; of Ray's as seen every second, so that an end of each is missing."""

    peak_mib: float
    """Resident, of one process; of several, what they share counted once, as seen every second."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way from a file of texts to a file of embeddings."""

    command: Callable[[Path, Path], Command]
    """For an input and an output."""

    has_workers: bool = False
    """Whether it computes in other processes than its own."""


def peer_python() -> str:
    """Return an interpreter that has sentence-transformers, and our torch, transformers and Ray."""
    folder = RESULTS / "venv-sentence-transformers"
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        ours = Path(np.__file__).parent.parent
        (next(folder.glob("lib/python*/site-packages")) / "ours.pth").write_text(f"{ours}\n")
        packages = ["sentence-transformers", "scikit-learn", "scipy", "joblib", "cloudpickle", "threadpoolctl", "narwhals"]
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-deps", *packages], check=True)
    return str(folder / "bin" / "python")


def contestants(bundle: Path, memory: str, ray_batch: int) -> dict[str, Contestant]:
    """Return them by name.

    Args:
        bundle: that `nograd tune` made of MiniLM.
        memory: that `nograd predict` is given for its rows.
        ray_batch: rows of a batch of plain Ray Data; 0: whole blocks.
    """
    peer, model, scripts = peer_python(), str(folder_of("minilm")), HERE / "peers"
    encode, ray_data = str(scripts / "encode_peer.py"), str(scripts / "ray_data_peer.py")

    def predict(model: str) -> Callable[[Path, Path], Command]:
        options = ["--memory", memory, "--restart", "--trusted"]
        return lambda source, out: [sys.executable, "-m", "nograd", "predict", model, str(source), "-o", str(out), *options]

    return {
        NOGRAD: Contestant(predict("minilm")),
        ENCODE: Contestant(lambda source, out: [peer, encode, model, str(source), str(out)]),
        RAY: Contestant(
            lambda source, out: [peer, ray_data, "plain", model, str(source), str(out), str(ray_batch)], has_workers=True
        ),
        ON_RAY: Contestant(
            lambda source, out: [sys.executable, ray_data, "nograd", "minilm", str(source), str(out)], has_workers=True
        ),
        TUNED: Contestant(predict(str(bundle))),
    }


def measured(contestant: Contestant, source: Path, output: Path) -> Used:
    """Run a contestant to its end, and return what it took.

    Raises:
        SystemExit: it failed; its log lies beside the output.
    """
    forget(output)
    command, log = contestant.command(source, output), output.with_name(f"{output.name}.log")
    return _with_workers(command, log) if contestant.has_workers else _alone(command, log)


def forget(output: Path) -> None:
    """Remove an output, a file or a folder of them, and what a contestant keeps beside it."""
    for each in output.parent.glob(f"{output.name}*"):
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


def _environment() -> dict[str, str]:
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return {**os.environ, **quiet}


def _alone(command: Sequence[str], log: Path) -> Used:
    begun = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=_environment(), stdout=out, stderr=subprocess.STDOUT, cwd=HERE.parent)
        try:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:  # interrupted
                process.kill()
                process.wait()
    _check(process.returncode, log)
    return Used(time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _with_workers(command: Sequence[str], log: Path) -> Used:
    begun, cpu_s, peak_mb = time.perf_counter(), dict[int, float](), 0.0
    with log.open("wb") as out:
        tree = Tree(command, HERE.parent, _environment(), out)
        try:
            while (code := _ended(tree, SAMPLE_S)) is None:
                cpu_s |= tree.cpu_s_by_pid()
                peak_mb = max(peak_mb, tree.memory_mb())
            seconds = time.perf_counter() - begun
        finally:
            if tree.process.poll() is None:  # interrupted: it has a session of its own, which did not notice
                tree.end()
    _check(code, log)
    return Used(seconds, sum(cpu_s.values()), peak_mb * 1e6 / 2**20)


def _ended(tree: Tree, wait_s: float) -> int | None:
    try:
        return tree.process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return None


def _check(code: int, log: Path) -> None:
    if code:
        raise SystemExit(f"a contestant ended with {code}; the end of {log} is:\n{log.read_text()[-2000:]}")


def embeddings(output: Path, texts: Sequence[str]) -> Array:
    """Return the embeddings of texts out of a file, or a folder of files in any order: `[rows, size]`.

    Raises:
        SystemExit: there is no embedding for a text, or more than one.
    """
    table = pq.read_table(output)
    place = {text: index for index, text in enumerate(table.column("text").to_pylist())}
    if len(place) != len(texts) or len(table) != len(texts):
        raise SystemExit(f"{output} has {len(table)} rows, {len(place)} of them different, for {len(texts)} texts")
    found = np.asarray(pa.concat_arrays(table.column("embedding").chunks).flatten(), dtype=np.float32)
    return found.reshape(len(table), -1)[[place[text] for text in texts]]
