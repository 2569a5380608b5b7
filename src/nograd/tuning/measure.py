"""Run the race with real models: one sample of every remaining candidate per round, in a new random order each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nograd.core.cost import CostCurve
from nograd.tuning.candidates import simplicity
from nograd.tuning.entries import CandidateEntry, work_of
from nograd.tuning.prepare import MEASURE_LIMIT_S
from nograd.tuning.racing import REFERENCE, Race, RaceSample
from nograd.tuning.sign_test import median_figure
from nograd.tuning.state import SavedState
from nograd.tuning.values import CurvePoint, Goal
from nograd.tuning.worker import WorkerError
from nograd.tuning.workload import Workload

__all__ = ["RaceOutcome", "curve_of", "measure"]

CURVE_ROUNDS = 7

MIN_SIZES = 3
"""Minimum number of sizes of a cost curve, if there are so many."""

LENGTHS = (0.0, 0.5, 1.0)
"""Quantiles of the sample's lengths at which batches are measured."""

MAX_BATCH_ROWS = 32

POWERS = (1, 2, 4, 8, 16, 32)


@dataclass(slots=True)
class RaceOutcome:
    """Outcome of the race."""

    race: Race
    spent: bool = False
    """True if the time was up before the race was decided."""

    order: list[CandidateEntry] = field(default_factory=list)
    """The remaining candidates: the winner first, then the others from best to worst."""


def measure(
    entries: Sequence[CandidateEntry],
    reference: CandidateEntry,
    goal: Goal,
    until: float,
    state: SavedState,
    tell: Callable[[str, str], None],
    *,
    seed: int,
    rounds: int | None = None,
) -> RaceOutcome:
    """Race the candidates that may win; end the losers, each with its reason.

    Args:
        entries: all candidates.
        reference: eager in the default layout. A single row on it is the clock of every round.
        goal: the goal to measure.
        until: `time.monotonic()` at which to stop.
        state: saves the rounds, so that an interrupted run can resume.
        tell: called with the phase and a progress text.
        seed: random seed of the order within rounds.
        rounds: maximum number of rounds; None: no maximum.
    """
    running = {str(entry.candidate): entry for entry in entries if entry.is_in}
    race = _race_of(running, state, seed)
    measured = RaceOutcome(race)
    while names := race.next_round():
        if time.monotonic() >= until or (rounds is not None and race.rounds >= rounds):
            measured.spent = True
            break
        samples = _round(names, running, reference, goal, race)
        if REFERENCE in samples:
            race.note(samples)
            state.note_race(race.to_json())
        for name, why in race.dropped.items():
            out = running[name]
            if out.is_in and out is not reference and goal.kind != "memory":  # for the goal memory, the fastest is not the best
                out.end("dropped", why)
        tell("measuring", f"round {race.rounds}, {len(race.alive)} left, {race.discarded} discarded")
    _conclude(measured, running, reference)
    return measured


def _race_of(running: Mapping[str, CandidateEntry], state: SavedState, seed: int) -> Race:
    """Return a new race, or the race of an interrupted run."""
    ranks = {name: simplicity(entry.candidate) for name, entry in running.items()}
    if state.race is not None and state.race["simplicity"] == ranks:
        return Race.from_json(state.race)
    return Race(list(running), simplicity=ranks, seed=seed)


def _round(
    names: Sequence[str], running: dict[str, CandidateEntry], reference: CandidateEntry, goal: Goal, race: Race
) -> dict[str, RaceSample]:
    samples: dict[str, RaceSample] = {}
    for name in names:
        entry = reference if name == REFERENCE else running[name]
        command, options = ("single", {}) if name == REFERENCE else work_of(entry, goal)
        try:
            if entry.worker is None:
                raise WorkerError("its process has exited")
            found = entry.worker.ask(command, limit_s=MEASURE_LIMIT_S, **options)
        except WorkerError as error:
            if name == REFERENCE:
                raise
            entry.end("failed", str(error))
            race.withdraw(name, str(error))
            continue
        samples[name] = RaceSample(found["seconds"], found["cpu_s"])
        _record_sample(entry, command, options.get("rows"), found)
    return samples


def _record_sample(entry: CandidateEntry, command: str, rows: int | None, found: dict[str, list[float]]) -> None:
    seconds = float(found["seconds"])  # type: ignore[arg-type]
    if command == "single":
        entry.lone_s.append(seconds)
        entry.lone_runs_s += found["runs"]
    elif rows is not None:
        entry.by_rows.setdefault(rows, []).append(seconds)


def _conclude(measured: RaceOutcome, running: Mapping[str, CandidateEntry], reference: CandidateEntry) -> None:
    """Write the results of the race into the entries."""
    race, verdict = measured.race, measured.race.verdict()
    for name, entry in running.items():
        own = race.ratio(name, REFERENCE)
        entry.rounds = own.samples if own is not None else 0
        entry.ratio = race.ratio(str(reference.candidate), name)
        if name in race.dropped and entry.status == "measured":  # the reference, whose process is still needed
            entry.status, entry.reason = "dropped", race.dropped[name]
    left = [name for name in race.standings() if name in race.alive and running[name].is_in]
    left.sort(key=lambda name: name != verdict.winner)
    measured.order = [running[name] for name in left]
    if measured.order:
        measured.order[0].status = "winner"
    for name in verdict.tied:
        if running[name].is_in:
            running[name].status = "tied"


def curve_of(entry: CandidateEntry, workload: Workload, until: float) -> CostCurve:
    """Measure a candidate's cost by size in several rounds, and write the curve into its entry.

    Args:
        entry: the candidate, with a running process.
        workload: the rows to run.
        until: `time.monotonic()` after which no further round starts. Sizes that the first round has not reached by then,
            the largest ones, are left out.

    Raises:
        WorkerError: the process failed.
    """
    assert entry.worker is not None  # noqa: S101  the caller checks it
    sizes, samples = _sizes(workload), {}  # type: ignore[var-annotated]
    for number in range(CURVE_ROUNDS):
        if number and time.monotonic() >= until:
            break
        for place, (rows, length) in enumerate(sizes):
            if not number and place >= MIN_SIZES and time.monotonic() >= until:
                del sizes[place:]
                break
            found = entry.worker.ask("curve", limit_s=MEASURE_LIMIT_S, rows=rows, length=length)
            samples.setdefault(found["size"], []).append(found["seconds"])
    entry.curve_unit = "tokens" if workload.signature.lengths else "rows"
    entry.curve = tuple(CurvePoint(size, median_figure(samples[size])) for size in sorted(samples))
    return CostCurve.fit(samples, unit="tokens" if workload.signature.lengths else "rows")


def _sizes(workload: Workload) -> list[tuple[int, int | None]]:
    """Return the sizes to measure, as (rows, length)."""
    from nograd.tuning.bench import CURVE_ROWS

    signature = workload.signature
    rows = [size for size in CURVE_ROWS if size <= MAX_BATCH_ROWS] if signature.batching != "alone" else [1]
    if not signature.lengths:
        return [(size, None) for size in rows]
    own = [sum(signature.sizes_of(part)) for part in workload.parts]
    short, usual, long = (int(length) for length in np.quantile(own, LENGTHS, method="nearest"))
    most = MAX_BATCH_ROWS * usual
    grid = {(size, length) for length in (short, usual, long) for size in rows if size in POWERS}
    fitting = [(size, length) for size, length in grid if size == 1 or size * length <= most]
    return [*sorted(fitting, key=lambda each: each[0] * each[1])]
