"""Prepare candidates: build them in parallel, compare them with eager, open them in every layout, and scout each once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nograd.core.independence import Independence
from nograd.core.tensors import Signature
from nograd.tuning.bench import Task
from nograd.tuning.building import file_of
from nograd.tuning.candidates import Variant, layouts
from nograd.tuning.entries import CandidateEntry
from nograd.tuning.state import SavedState
from nograd.tuning.values import Goal
from nograd.tuning.worker import Worker, WorkerError, wait_any

__all__ = ["BuildPlan", "prepare"]

OPEN_LIMIT_S = 120.0
MEASURE_LIMIT_S = 60.0

SCOUTED_ROWS = (1, 2, 4, 8, 16, 32)
"""Batch sizes among which each candidate finds its best one before the race, up to the batch size of a bundle."""

SCOUTED_FEW = (1, 8)
"""Scouted batch sizes for goals about a single row. The report shows the batches."""

SCOUTS = 3
"""Number of scouting passes. The median of three survives one stolen second."""


NEAR_BEST = 2.0
"""A size is not scouted again if its rows took this many times as long as the best size's. Two or three of six sizes remain."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Settings for preparing."""

    task: Task
    goal: Goal
    folder: Path
    cores: int
    memory_bytes: int
    build_until: float
    """`time.monotonic()` by which building should be done."""

    least_s: float
    """Minimum seconds for a build that has started, even if it is late, because half a build is useless."""

    scout_until: float
    """`time.monotonic()` by which scouting should be done. The first pass covers every candidate in any case."""

    metric_drop: float
    """Maximum drop of the user's metric below eager's."""

    tell: Callable[[str, str], None]
    """Called with the phase and a progress text."""

    def left_s(self) -> float:
        """Return the seconds that are left for building."""
        return self.build_until - time.monotonic()

    def worker(self, entry: CandidateEntry) -> Worker:
        """Start a candidate's process."""
        log = self.folder / f"{str(entry.candidate).replace(' ', '-')}.log"
        return Worker(self.task, entry.candidate, entry.path, log=log, memory_bytes=self.memory_bytes)


def prepare(plan: BuildPlan, tried: Sequence[Variant], state: SavedState, entries: list[CandidateEntry]) -> None:
    """Add an entry for every candidate: ready to be measured, or ended with a reason.

    Args:
        plan: the settings.
        tried: the variants, most promising first.
        state: the builds of an earlier, interrupted run.
        entries: the list to extend. Entries are added as they are made, so that an interrupted run has them.
    """
    built = _build_all(plan, tried, state, entries)
    _refuse_low_metrics(plan, [entry for _, entry in built])
    laid_out: list[CandidateEntry] = []
    for variant, first in built:
        if first.worker is None:
            continue
        laid_out.append(first)
        for lanes, threads in layouts(variant, plan.goal, plan.cores)[1:]:
            candidate = variant.candidate(lanes, threads)
            entry = CandidateEntry(candidate, first.path, notes=first.notes, parity=first.parity, metric=first.metric)
            entry.independence = first.independence
            entry.build_s, entry.file_bytes = first.build_s, first.file_bytes
            entries.append(entry)
            if _attempt(entry, lambda entry=entry: _open(plan, entry)):  # type: ignore[misc]
                laid_out.append(entry)
    _scout(plan, laid_out)


def _refuse_low_metrics(plan: BuildPlan, entries: Sequence[CandidateEntry]) -> None:
    """With a metric, refuse candidates whose metric is below eager's by more than the allowed drop."""
    reference = entries[0].metric if entries else None
    if reference is None:
        return
    for entry in entries[1:]:
        if entry.metric is not None and not entry.metric >= reference - plan.metric_drop:
            entry.end(
                "refused", f"the metric is {entry.metric:.4g}; eager's {reference:.4g} less {plan.metric_drop:g} is required"
            )


def _attempt(entry: CandidateEntry, step: Callable[[], None]) -> bool:
    try:
        step()
    except WorkerError as error:
        entry.end("failed", str(error))
    return entry.worker is not None


def _open(plan: BuildPlan, entry: CandidateEntry) -> None:
    entry.worker = plan.worker(entry)
    entry.worker.ask("open", limit_s=OPEN_LIMIT_S)


def _build_all(
    plan: BuildPlan, tried: Sequence[Variant], state: SavedState, entries: list[CandidateEntry]
) -> list[tuple[Variant, CandidateEntry]]:
    """Build as many variants at a time as there are cores, because exporters use one thread for most of their time."""
    waiting = list(tried)
    running: dict[Worker, tuple[Variant, CandidateEntry]] = {}
    done: list[tuple[Variant, CandidateEntry]] = []
    while waiting or running:
        while waiting and len(running) < max(2, plan.cores):
            variant = waiting.pop(0)
            entry = CandidateEntry(variant.candidate(*layouts(variant, plan.goal, plan.cores)[0]))
            entries.append(entry)
            if _start_build(plan, variant, entry, state) and entry.worker is not None:
                running[entry.worker] = (variant, entry)
        if running:
            worker = wait_any(list(running))
            variant, entry = running.pop(worker)
            if _attempt(entry, lambda entry=entry: _finish_build(plan, entry, state)):  # type: ignore[misc]
                done.append((variant, entry))
            plan.tell("building", f"{entry.candidate.variant}: {_outcome(entry)}")
    order = {id(variant): place for place, variant in enumerate(tried)}
    return sorted(done, key=lambda each: order[id(each[0])])


def _start_build(plan: BuildPlan, variant: Variant, entry: CandidateEntry, state: SavedState) -> bool:
    """Start a build; return False if the variant is not tried."""
    is_first = variant.backend == "eager" and variant.precision == "float32"
    if variant.why_not:
        entry.end("not_tried", variant.why_not)
    elif not is_first and plan.left_s() < max(1.0, variant.expected_build_s):
        needs = f"it takes about {variant.expected_build_s:.0f} s to build" if variant.expected_build_s else "no time was left"
        entry.end("not_tried", f"{needs}, and {max(0.0, plan.left_s()):.0f} s were left for building; give a larger --budget")
    else:
        entry.path = file_of(entry.candidate, plan.folder)
        entry.worker = plan.worker(entry)
        known = state.built(entry.candidate, entry.path)
        if known is not None:
            entry.build_s, entry.file_bytes, entry.notes = known
            entry.worker.send("open", limit_s=OPEN_LIMIT_S)
        else:
            entry.worker.send("build", limit_s=max(plan.left_s(), plan.least_s))
        return True
    return False


def _finish_build(plan: BuildPlan, entry: CandidateEntry, state: SavedState) -> None:
    """Receive the result of the build, then open the candidate and compare its answers."""
    assert entry.worker is not None  # noqa: S101  `_start_build` started it
    found = entry.worker.receive()
    if "build_s" in found:
        entry.build_s, entry.file_bytes, entry.notes = found["build_s"], found["file_bytes"], tuple(found["notes"])
        opened = entry.worker.ask("open", limit_s=OPEN_LIMIT_S)
        if entry.path is None:
            entry.build_s = opened["open_s"]
        state.note_built(entry.candidate, entry.build_s or 0.0, entry.file_bytes, entry.notes)
    proven = entry.worker.ask("prove", limit_s=OPEN_LIMIT_S)
    entry.parity, entry.metric = proven["parity"], proven["metric"]
    entry.independence = msgspec.convert(proven["independence"], Independence | None)
    if not proven["passed"]:
        entry.end("refused", "; ".join(proven["failures"]))
    elif fault := _coupling(entry.independence, plan.task.workload.signature):
        entry.end("refused", fault)


def _coupling(found: Independence | None, signature: Signature) -> str:
    """Return the reason why a candidate may not be batched although the model may; empty if it may."""
    if found is None or not found.is_coupled or found.is_accepted or signature.batching == "alone":
        return ""
    return f"{found.fault()}; --accept-coupled-rows accepts it"


def _outcome(entry: CandidateEntry) -> str:
    if entry.worker is None:
        return f"{entry.status}: {entry.reason}"
    cosine = min((output["min_cosine"] for output in (entry.parity or {}).get("outputs", [])), default=1.0)
    return f"built in {entry.build_s or 0:.1f} s, cosine {float(cosine):.7f}"


def _scout(plan: BuildPlan, entries: Sequence[CandidateEntry]) -> None:
    """Scout each candidate with nothing else running: a single row, and batches of several sizes."""
    sizes = SCOUTED_FEW if plan.goal.kind in ("latency", "memory") else SCOUTED_ROWS
    for number in range(SCOUTS):
        if number and time.monotonic() > plan.scout_until:
            return
        for entry in entries:
            if entry.worker is not None:
                worth = sizes if plan.goal.kind != "throughput" else _near_best(entry, sizes)
                _attempt(entry, lambda entry=entry, worth=worth: _scout_candidate(entry, worth))  # type: ignore[misc]
        plan.tell("scouting", f"{sum(entry.is_in for entry in entries)} candidates")


def _near_best(entry: CandidateEntry, sizes: Sequence[int]) -> list[int]:
    """Return the sizes that may still have the highest rate, given the samples of a candidate so far."""
    seen = {rows: min(samples) for rows, samples in entry.by_rows.items()}
    best = min(seen.values(), default=0.0)
    return [rows for rows in sizes if not seen or seen.get(rows, float("inf")) <= NEAR_BEST * best]


def _scout_candidate(entry: CandidateEntry, sizes: Sequence[int]) -> None:
    assert entry.worker is not None  # noqa: S101  the caller checks it
    seen = entry.worker.ask("scout", limit_s=MEASURE_LIMIT_S, sizes=sizes)
    entry.lone_s.append(seen["lone_s"])
    for rows, seconds in seen["by_rows"].items():
        entry.by_rows.setdefault(int(rows), []).append(seconds)
