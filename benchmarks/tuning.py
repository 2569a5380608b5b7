"""`nograd tune` against an exhaustive sweep: does it find the best, on a quiet and on a busy machine, and how much faster?

`python -m benchmarks.tuning [MODEL ...]`. Each model is swept once: everything is built, whatever it takes, opened in every
layout of lanes and threads, and measured with a row alone and at every batch size, all of that in each of 12 rounds (tuning
itself decides nothing in less than 10). Then it is tuned five times, two of them while two programs keep both cores busy. A
winner is right where the sweep, on the quiet machine, finds it within 5 % of the best. The wall time of tuning includes the
winner's cost curve and its trial under load, which a sweep does not have.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.common import HERE, busy, report
from nograd import Predictor, load
from nograd.backends.eager import eager_backend
from nograd.core.parity import HALF
from nograd.runtime.threads import in_own_thread
from nograd.tuning.candidates import variants
from nograd.tuning.data import Sample, read_sample, sample_of
from nograd.tuning.entries import CandidateEntry
from nograd.tuning.prepare import SCOUTED_ROWS, BuildPlan, prepare
from nograd.tuning.state import SavedState
from nograd.tuning.tuner import TuneSettings, _task, run
from nograd.tuning.values import Goal

CORES = 2
RUNS, BUSY_RUNS = 5, (1, 3)
SWEEP_ROUNDS = 12
RIGHT = 1.05
FASTER = 4.0


@dataclass(frozen=True, slots=True)
class Subject:
    predictor: Predictor
    sample: Sample
    goal: Goal
    budget_s: float


class Recurrent(torch.nn.Module):
    """Two layers of LSTM over a sequence, and a class for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(128, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return found


def minilm() -> Subject:
    predictor = in_own_thread(lambda: load("minilm", device="cpu")).result()
    return Subject(predictor, read_sample(HERE / "data" / "sentences.txt", predictor, max_rows=128), Goal("latency"), 30.0)


def efficientnet() -> Subject:
    return _case("efficientnet-lite0", Goal("throughput"), 55.0)


def digits() -> Subject:
    return _case("digits-mlp", Goal("throughput"), 10.0)


def lstm() -> Subject:
    torch.manual_seed(0)
    model, rows = Recurrent().eval(), torch.randn(64, 24, 32)
    predictor = Predictor(model, device="cpu", sample=rows[:4])
    return Subject(predictor, sample_of(predictor, rows), Goal("latency"), 10.0)


def _case(name: str, goal: Goal, budget_s: float) -> Subject:
    from benchmarks.zoo import CASES

    case = CASES[name]()
    predictor = Predictor(eager_backend(case.model, [case.sample], device="cpu"))
    rows = {key: np.concatenate([batch[key] for batch in case.batches])[:64] for key in case.batches[0]}
    return Subject(predictor, sample_of(predictor, rows), goal, budget_s)


SUBJECTS = {"minilm": minilm, "efficientnet": efficientnet, "digits": digits, "lstm": lstm}


def settings_of(subject: Subject, budget_s: float, seed: int = 0) -> TuneSettings:
    return TuneSettings(subject.goal, HALF, "half", budget_s=budget_s, cores=CORES, seed=seed)


def sweep(subject: Subject) -> tuple[dict[str, float], float]:
    """Return seconds for the goal by candidate, and how long finding them took."""
    begun = time.monotonic()
    settings = settings_of(subject, 3600.0)
    reference: Any = subject.predictor.backend
    task = in_own_thread(lambda: _task(subject.predictor, reference, subject.sample, settings)).result()
    entries: list[CandidateEntry] = []
    with tempfile.TemporaryDirectory() as folder:
        far = time.monotonic() + 3600.0
        plan = BuildPlan(
            task, subject.goal, Path(folder), CORES, 8 << 30, far, 600.0, far, 0.0, lambda _phase, text: note(text)
        )
        try:
            prepare(plan, variants(reference.model, HALF), SavedState(Path(folder), "sweep"), entries)
            entries += _other_layouts(plan, entries)
            return _swept(entries, subject.goal), time.monotonic() - begun
        finally:
            for entry in entries:
                entry.close()


def _other_layouts(plan: BuildPlan, entries: Sequence[CandidateEntry]) -> list[CandidateEntry]:
    """Open what was built in the layouts that tuning for this goal leaves out."""
    found = {str(entry.candidate) for entry in entries}
    added = []
    for entry in [each for each in entries if each.worker is not None and each.candidate.kind.has_lanes]:
        for lanes, threads in ((1, CORES), (1, 1), (CORES, 1)):
            other = CandidateEntry(replace(entry.candidate, lanes=lanes, num_threads=threads), entry.path)
            if str(other.candidate) not in found:
                found.add(str(other.candidate))
                other.worker = plan.worker(other)
                other.worker.ask("open", limit_s=120)
                added.append(other)
    return added


def _swept(entries: Sequence[CandidateEntry], goal: Goal) -> dict[str, float]:
    measured = [entry for entry in entries if entry.worker is not None]
    lone: dict[str, list[float]] = {}
    bulk: dict[str, dict[int, list[float]]] = {}
    for number in range(SWEEP_ROUNDS):
        note(f"sweep: round {number + 1} of {SWEEP_ROUNDS}, {len(measured)} candidates")
        for entry in measured:
            assert entry.worker is not None
            name = str(entry.candidate)
            lone.setdefault(name, []).append(entry.worker.ask("single", limit_s=60)["seconds"])
            for rows in SCOUTED_ROWS:
                found = entry.worker.ask("bulk", limit_s=60, rows=rows)["seconds"]
                bulk.setdefault(name, {}).setdefault(rows, []).append(found)
    if goal.kind == "latency":
        return {name: median(samples) for name, samples in lone.items()}
    return {name: min(median(samples) for samples in sizes.values()) for name, sizes in bulk.items()}


def tuned(subject: Subject, seed: int) -> tuple[str, float, int]:
    """Return the winner, the seconds that it took, and the rounds."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            subject.predictor, subject.sample, settings_of(subject, subject.budget_s, seed), name="benchmark",
            folder=Path(folder), can_win=lambda _entry: True, tell=lambda _phase, _text: None,
        )  # fmt: skip
    winner = outcome.report.winner
    return str(winner.candidate) if winner is not None else "none", time.monotonic() - begun, outcome.report.rounds


def note(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def main(names: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    rows = [["model", "goal", "run", "winner", "off the best", "rounds", "s", "sweep s", "times faster"]]
    data: dict[str, Any] = {}
    for name in names or SUBJECTS:
        note(name)
        subject = SUBJECTS[name]()
        scores, sweep_s = sweep(subject)
        best = min(scores, key=scores.__getitem__)
        rows.append([name, str(subject.goal), "sweep", best, "1.000", "", "", f"{sweep_s:.0f}", ""])
        for number in range(RUNS):
            is_busy = number in BUSY_RUNS
            with busy() if is_busy else nullcontext():
                winner, spent_s, rounds = tuned(subject, number)
            off = scores[winner] / scores[best] if winner in scores else float("inf")
            told = "busy" if is_busy else "quiet"
            faster = sweep_s / spent_s
            rows.append(
                [name, str(subject.goal), told, winner, f"{off:.3f}", f"{rounds}", f"{spent_s:.0f}", "", f"{faster:.1f}"]
            )
            note("  ".join(rows[-1]))
            found = {"winner": winner, "off": off, "rounds": rounds, "s": spent_s, "busy": is_busy, "faster": faster}
            data.setdefault(name, {"scores_s": scores, "sweep_s": sweep_s, "runs": []})["runs"].append(found)
    runs = [each for found in data.values() for each in found["runs"]]
    right, slowest = sum(each["off"] <= RIGHT for each in runs), min(each["faster"] for each in runs)
    goal = f"every winner within 5 % of the best, {FASTER:g} times faster than the sweep"
    met = right == len(runs) and slowest >= FASTER
    report("tuning", rows, data, goal=f"{goal} (found {right} of {len(runs)}, {slowest:.1f} times)", met=met)


if __name__ == "__main__":
    main(sys.argv[1:])
