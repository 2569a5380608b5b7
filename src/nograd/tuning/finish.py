"""After the race: serve the winner under load, and measure the memory of candidates."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from nograd.errors import NogradError
from nograd.tuning.bench import Task
from nograd.tuning.candidates import simplicity
from nograd.tuning.entries import CandidateEntry
from nograd.tuning.measure import MAX_BATCH_ROWS, RaceOutcome
from nograd.tuning.values import Confirmation
from nograd.tuning.worker import WorkerError

if TYPE_CHECKING:
    from nograd.core.cost import CostCurve
    from nograd.tuning.tuner import TuneSettings

__all__ = ["confirm", "footprints", "least_memory"]

LOAD = 0.7
"""Offered load, as a share of the winner's measured rate."""

MAX_OFFERED_PER_S = 2000.0
"""Maximum offered rows per second. Sending costs 10 us or more per row, so higher loads would measure the sender."""

LIGHT = 0.35
"""If the offered load is below this share of the measured rate, the report says that higher load was not tested."""

TOO_FAR = 1.25
"""If runs take this many times longer than the curve predicts, the curve is wrong, or the machine has changed."""

SERVED = 0.9
"""Minimum ratio of served to offered rows per second. The missing rows were still in the queue when the last row arrived."""

SLOWER = 1.1
"""For the goal `memory`: maximum time of a single row, relative to eager."""


def confirm(entry: CandidateEntry, cost: CostCurve, task: Task, seconds: float, settings: TuneSettings) -> Confirmation:
    """Serve a candidate through the real batcher at 70 % of its measured rate.

    Args:
        entry: the candidate, with a running process.
        cost: its cost curve.
        task: the data that all candidates share.
        seconds: duration of the arrivals.
        settings: provides the seed and the goal.

    Raises:
        WorkerError: the process failed.
    """
    assert entry.worker is not None  # noqa: S101  the caller checks it
    carried = 1 / median(entry.by_rows[entry.best_rows()])
    offered = min(LOAD * carried, MAX_OFFERED_PER_S)
    found = entry.worker.ask(
        "confirm", limit_s=10 * seconds + 60,
        curve={"sizes": cost.sizes, "seconds": cost.seconds, "unit": cost.unit}, rows_per_s=offered, seconds=seconds,
        max_batch_size=MAX_BATCH_ROWS if task.workload.signature.batching != "alone" else 1, seed=settings.seed,
    )  # fmt: skip
    reasons = []
    if found["cost_ratio"] > TOO_FAR:
        reasons.append(f"runs took {found['cost_ratio']:.2f} times as long as the curve predicts")
    if found["served_per_s"] < SERVED * found["offered_per_s"]:
        reasons.append(f"{found['served_per_s']:.4g} rows/s were served of {found['offered_per_s']:.4g} offered")
    if found["failed"]:
        reasons.append(f"{found['failed']} rows failed")
    slo_s = settings.goal.slo_s
    if slo_s is not None and found["p99_s"] > slo_s:
        reasons.append(f"p99 was {found['p99_s'] * 1e3:.3g} ms; the goal is {slo_s * 1e3:.3g} ms")
    confirmed = not reasons
    if confirmed and offered < LIGHT * carried:
        note = f"at most {MAX_OFFERED_PER_S:,.0f} rows/s are offered, {offered / carried:.1%} of the measured rate"
        reasons.append(f"{note}: higher load was not tested")
    names = ("offered_per_s", "served_per_s", "p50_s", "p99_s", "predicted_p50_s", "predicted_p99_s", "cost_ratio")
    return Confirmation(**{name: found[name] for name in names}, confirmed=confirmed, reason="; ".join(reasons))


def footprints(entries: Sequence[CandidateEntry], task: Task) -> None:
    """Measure the peak memory of opening each file and running its largest batch, each in a new process."""
    with tempfile.TemporaryDirectory(prefix="nograd-rss-") as folder:
        batch = Path(folder) / "batch.npz"
        _save(task, batch)
        for entry in entries:
            if entry.ratio is not None and entry.worker is not None:
                try:
                    entry.rss_bytes = _footprint(entry, batch)
                except (NogradError, OSError, ValueError) as error:
                    entry.reason = f"its memory could not be measured: {error}"


def _save(task: Task, path: Path) -> None:
    import numpy as np

    rows = MAX_BATCH_ROWS if task.workload.signature.batching != "alone" else 1
    arrays: dict[str, Any] = dict(task.workload.of_size(rows))
    np.savez(path, **arrays)


def _footprint(entry: CandidateEntry, batch: Path) -> int | None:
    if entry.path is None:
        return None
    candidate = entry.candidate
    command = [
        sys.executable, "-m", "nograd.tuning.footprint", candidate.backend, str(entry.path), str(candidate.lanes),
        str(candidate.num_threads), str(batch),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603  our own module
    if done.returncode:
        raise WorkerError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return int(json.loads(done.stdout)["peak_bytes"])


def least_memory(measured: RaceOutcome, entries: Sequence[CandidateEntry]) -> None:
    """Rank candidates by memory, among those at most 10 % slower than eager. Their speed does not affect the order."""
    fast = [entry for entry in entries if entry.rss_bytes and entry.ratio is not None and entry.ratio.median >= 1 / SLOWER]
    if not fast:
        return
    fast.sort(key=lambda entry: (entry.rss_bytes or 0, simplicity(entry.candidate)))
    for entry in {*measured.order, *fast}:
        if entry.status in ("winner", "tied", "dropped"):
            entry.status, entry.reason = "measured", ""
    fast[0].status = "winner"
    measured.order = [*fast, *(entry for entry in measured.order if entry not in fast)]
