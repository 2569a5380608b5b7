"""Tune a model: build, compare, race, measure the cost curve, confirm. An interrupted run returns the best result so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nograd.backends.registry import runtimes
from nograd.errors import ConfigError, UnsupportedError
from nograd.runtime.cores import usable_processors
from nograd.runtime.exits import ignored_ctrl_c
from nograd.runtime.fingerprint import of_value
from nograd.runtime.machine import this_machine
from nograd.runtime.threads import in_own_thread
from nograd.tuning.bench import Metric, Task
from nograd.tuning.candidates import Variant, variants
from nograd.tuning.data import Sample
from nograd.tuning.entries import CandidateEntry
from nograd.tuning.finish import confirm, footprints, least_memory
from nograd.tuning.measure import RaceOutcome, curve_of, measure
from nograd.tuning.prepare import BuildPlan, prepare
from nograd.tuning.state import SavedState
from nograd.tuning.values import Confirmation, Goal, Row, TuneReport
from nograd.tuning.worker import WorkerError
from nograd.tuning.workload import workload_of

if TYPE_CHECKING:
    from nograd.backends.modules import ModuleBackend
    from nograd.core.cost import CostCurve
    from nograd.core.parity import Tolerance
    from nograd.predictors.predictor import Predictor

__all__ = ["BUILDING", "TuneSettings", "TuningOutcome", "reference_of", "run"]

BUILDING, SCOUTING, MEASURING, CURVES = 0.5, 0.55, 0.8, 0.9
"""Share of the budget at which each phase should end. Confirming has the rest."""

LEAST = 0.1
"""Minimum share of the budget for measuring, and half of it for the curve, if building took longer than planned."""

CONFIRM_S = 5.0

MIN_BUDGET_S = 5.0

INTERRUPTED_WITH_RESULT = "it was interrupted: the winner is the best so far; the same command resumes"
INTERRUPTED_WITHOUT = (
    "it was interrupted before any candidate that can win was measured: there is no result; the same command resumes"
)

ORDER = ("winner", "tied", "measured", "dropped", "refused", "failed", "not_tried")


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """Settings of tuning, except for the model and its sample."""

    goal: Goal
    tolerance: Tolerance
    tolerance_text: str
    budget_s: float = 120.0
    backends: tuple[str, ...] | None = None
    metric: Metric | None = None
    metric_drop: float = 0.0
    memory_bytes: int | None = None
    """Maximum memory growth of a candidate's process, in bytes; None: half of the free memory."""

    cores: int = 1
    rounds: int | None = None
    """Maximum number of measured rounds."""

    seed: int = 0
    accept_coupled_rows: bool = False
    """True if a candidate whose rows influence each other may win."""

    def __post_init__(self) -> None:
        if not MIN_BUDGET_S <= self.budget_s < float("inf"):
            raise ConfigError(f"the budget is {self.budget_s:g} s; it must be {MIN_BUDGET_S:g} s or more, finite")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ConfigError(f"the memory is {self.memory_bytes} bytes; it must be above 0")
        if self.rounds is not None and self.rounds < 1:
            raise ConfigError(f"rounds is {self.rounds}; it must be at least 1")
        if not 1 <= self.cores <= usable_processors():
            raise ConfigError(f"cores is {self.cores}; this process may use 1 to {usable_processors()}")
        if not self.metric_drop >= 0:
            raise ConfigError(f"metric_drop is {self.metric_drop}; it must be 0 or more")


@dataclass(slots=True)
class TuningOutcome:
    """Result of tuning: the report, and the data that writing a bundle needs."""

    report: TuneReport
    winner: CandidateEntry | None = None
    is_whole: bool = True
    """False if the run was interrupted. Files and rounds are saved, and the same call resumes from them."""


@dataclass(slots=True)
class _TuningRun:
    """State of a run in progress."""

    entries: list[CandidateEntry] = field(default_factory=list)
    spent_s: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: RaceOutcome | None = None
    confirmation: Confirmation | None = None
    winner: CandidateEntry | None = None
    cost: CostCurve | None = None
    is_whole: bool = True

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add up the seconds of a phase, also if it is interrupted."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent_s[name] = self.spent_s.get(name, 0.0) + time.monotonic() - begun


def run(
    predictor: Predictor, sample: Sample, settings: TuneSettings, *, name: str, folder: Path,
    can_win: Callable[[CandidateEntry], bool], tell: Callable[[str, str], None], command: str = "",
) -> TuningOutcome:  # fmt: skip
    """Tune a model.

    Args:
        predictor: a predictor over the eager backend.
        sample: the user's rows.
        settings: goal, tolerance, budget and so on.
        name: the model's name in the report.
        folder: folder for built files. Files of an earlier run are reused.
        can_win: returns True if a bundle can hold a candidate. Other candidates are measured but do not win.
        tell: called with the phase and a progress text.
        command: command line that reproduces the report.

    Raises:
        UnsupportedError: the model is not a torch module on the CPU.
        SignatureError: the model cannot run the sample.
    """
    reference = reference_of(predictor)
    begun = time.monotonic()
    this = _TuningRun()
    task: Task | None = None
    try:
        with this.phase("probing"):
            task = in_own_thread(lambda: _task(predictor, reference, sample, settings)).result()
        _tune(this, task, settings, begun, folder, can_win, tell)
    except KeyboardInterrupt:
        this.is_whole = False
    finally:
        with ignored_ctrl_c():
            for entry in this.entries:
                entry.close()
    with ignored_ctrl_c():  # a second Ctrl-C of an impatient user would lose the result
        _choose_from_measured(this, settings.goal, can_win)
        report = _report(this, settings, sample, name=name, command=command)
    return TuningOutcome(report, this.winner, this.is_whole)


def _choose_from_measured(this: _TuningRun, goal: Goal, can_win: Callable[[CandidateEntry], bool]) -> None:
    """Mark unmeasured candidates, choose a winner from the measured ones, and add a note if the run was interrupted."""
    for entry in this.entries:
        if entry.status == "measured" and not entry.lone_s:
            entry.end("not_tried", "tuning ended before it was measured")
    if this.winner is None:
        _best_so_far(this, goal, can_win)
    if not this.is_whole:
        this.notes.insert(0, INTERRUPTED_WITH_RESULT if this.winner is not None else INTERRUPTED_WITHOUT)


def reference_of(predictor: Predictor) -> ModuleBackend:
    """Return the eager backend with which candidates are compared.

    Raises:
        UnsupportedError: the model is not a torch module on the CPU.
    """
    from nograd.backends.modules import ModuleBackend

    backend = predictor.backend
    if not isinstance(backend, ModuleBackend) or backend.name != "eager":
        raise UnsupportedError(f"the model runs on {backend.name!r}; tuning starts from a torch module")
    if backend.device != "cpu":
        raise UnsupportedError(
            f"the model is on {backend.device}; tuning measures on the CPU so far: load it with device='cpu'"
        )
    return backend


def _task(predictor: Predictor, reference: ModuleBackend, sample: Sample, settings: TuneSettings) -> Task:
    """Run eager over the sample; all candidates are compared with its answers.

    Eager runs on one thread, because on a busy machine two threads that waited for each other took 67 s instead of 2 s.
    """
    with _one_thread():
        return _run_eager(predictor, reference, sample, settings)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_eager(predictor: Predictor, reference: ModuleBackend, sample: Sample, settings: TuneSettings) -> Task:
    few = sample.parts[:8]
    predictor.run(few[0])
    begun = time.perf_counter()
    for part in few:
        predictor.run(part)
    workload = workload_of(sample, reference.signature, (time.perf_counter() - begun) / len(few))
    expected = [{name: array.copy() for name, array in reference.run(batch).items()} for batch in workload.proof_batches()]
    bad = {name for batch in expected for name, array in batch.items() if array.dtype.kind == "f" and np.isnan(array).any()}
    if bad:
        raise UnsupportedError(
            f"the model answers the sample with NaN (output {min(bad)!r}), and nothing can be compared with that; give rows "
            "that it has answers to"
        )
    records = tuple(dict(record) for record in sample.records)
    return Task(
        predictor, reference, workload, expected, records, settings.tolerance, settings.metric,
        accept_coupled_rows=settings.accept_coupled_rows,
    )  # fmt: skip


def _tune(
    this: _TuningRun, task: Task, settings: TuneSettings, begun: float, folder: Path, can_win: Callable[[CandidateEntry], bool],
    tell: Callable[[str, str], None],
) -> None:  # fmt: skip
    budget_s = settings.budget_s
    plan = BuildPlan(
        task, settings.goal, folder, settings.cores, settings.memory_bytes or _free_bytes() // 2, begun + BUILDING * budget_s,
        budget_s / 3, begun + SCOUTING * budget_s, settings.metric_drop, tell,
    )  # fmt: skip
    tried = variants(
        task.reference.model, settings.tolerance, has_metric=settings.metric is not None, backends=settings.backends
    )
    state = SavedState(folder, _state_key(task, settings, tried))
    with this.phase("building"):
        prepare(plan, tried, state, this.entries)
    reference = this.entries[0]
    if reference.worker is None and reference.status == "refused":
        raise UnsupportedError(
            f"the model answered the same rows differently a second time ({reference.reason}): it keeps state between calls, "
            "or draws random numbers, so answers cannot be compared; `nograd check` finds the cause"
        )
    if reference.worker is None:
        raise UnsupportedError(f"eager itself cannot be measured: {reference.reason}")
    with this.phase("measuring"):
        until = max(begun + MEASURING * budget_s, time.monotonic() + LEAST * budget_s)
        this.measured = measure(
            this.entries, reference, settings.goal, until, state, tell, seed=settings.seed, rounds=settings.rounds
        )
    if settings.goal.kind == "memory":
        with this.phase("measuring"):
            footprints(this.entries, task)
            least_memory(this.measured, this.entries)
    _note_race(this)
    _note_slo(this, settings.goal)
    _choose_winner(this, can_win)
    with this.phase("curves"):
        tell("curves", str(this.winner.candidate) if this.winner else "")
        _measure_curve(this, task, max(begun + CURVES * budget_s, time.monotonic() + LEAST * budget_s / 2))
    with this.phase("confirming"):
        tell("confirming", str(this.winner.candidate) if this.winner else "")
        _confirm(this, task, settings, begun)


def _note_race(this: _TuningRun) -> None:
    measured = this.measured
    if measured is None:
        return
    if measured.spent:
        this.notes.append("the budget was spent before the race was decided: give a larger --budget for narrower intervals")
    if measured.race.is_noisy:
        this.notes.append("something else kept the machine busy all the time: figures are from a noisy machine")


def _note_slo(this: _TuningRun, goal: Goal) -> None:
    """Add a note if not even a single row meets the goal's deadline."""
    looked_at = [entry for entry in this.entries if entry.lone_s]  # with a single candidate, the race has no order
    if goal.slo_s is not None and looked_at and all(entry.rows_within(goal.slo_s) is None for entry in looked_at):
        this.notes.append(
            f"nothing answers even a row alone within {goal.slo_s * 1e3:g} ms: the winner is the fastest for a row alone"
        )


def _choose_winner(this: _TuningRun, can_win: Callable[[CandidateEntry], bool]) -> None:
    """Choose the winner of the race. If no bundle can hold it, choose the best candidate that a bundle can hold."""
    order = this.measured.order if this.measured is not None else []
    able = [entry for entry in order if can_win(entry)]
    if not able:
        _best_so_far(this, None, can_win)
        return
    if able[0] is not order[0]:
        order[0].status = "measured"
        order[0].reason = "a bundle cannot hold it: nothing says how to build the module again (give a factory, or a folder)"
        able[0].status = "winner"
        this.notes.append(
            f"{order[0].candidate} was best, but a bundle cannot hold it: {able[0].candidate} is the best that it can"
        )
    this.winner = able[0]


def _measure_curve(this: _TuningRun, task: Task, until: float) -> None:
    if this.winner is None or this.winner.worker is None:
        return
    try:
        this.cost = curve_of(this.winner, task.workload, until)
    except WorkerError as error:
        this.notes.append(f"no cost curve: {error}")


def _confirm(this: _TuningRun, task: Task, settings: TuneSettings, begun: float) -> None:
    """Serve the winner under load. If it twice misses its measured figures, take the runner-up, provided that it meets its
    own."""
    if this.winner is None or this.cost is None or this.winner.worker is None:
        return
    left_s = begun + settings.budget_s - time.monotonic()
    seconds = min(CONFIRM_S, max(1.0, left_s / 2))
    found = confirm(this.winner, this.cost, task, seconds, settings)
    if not found.confirmed:
        found = confirm(this.winner, this.cost, task, seconds, replace(settings, seed=settings.seed + 1))
    this.confirmation = found
    if found.confirmed or this.measured is None:
        return
    second = next((entry for entry in this.measured.order if entry is not this.winner and entry.status == "tied"), None)
    if second is None or second.worker is None:
        return
    cost = curve_of(second, task.workload, time.monotonic())
    other = confirm(second, cost, task, seconds, settings)
    if other.confirmed:
        this.notes.append(
            f"{this.winner.candidate} did not keep under load what was measured ({found.reason}): the runner-up did"
        )
        this.winner.status, second.status = "tied", "winner"
        this.winner, this.cost, this.confirmation = second, cost, other


def _best_so_far(this: _TuningRun, goal: Goal | None, can_win: Callable[[CandidateEntry], bool]) -> None:
    """Choose the best candidate from the scouting samples."""
    from statistics import median

    seen = [
        entry for entry in this.entries if entry.status in ("measured", "tied", "winner") and entry.lone_s and can_win(entry)
    ]
    if not seen:
        return

    def score(entry: CandidateEntry) -> float:
        if goal is not None and goal.kind in ("throughput", "slo") and entry.by_rows:
            return median(entry.by_rows[entry.best_rows()])
        return median(entry.lone_s)

    for entry in seen:
        entry.status = "measured"
    this.winner = min(seen, key=score)
    this.winner.status = "winner"


def _report(this: _TuningRun, settings: TuneSettings, sample: Sample, *, name: str, command: str) -> TuneReport:
    from nograd import __version__

    rows = sorted((entry.row() for entry in this.entries), key=_sort_key)
    reference = this.entries[0] if this.entries else None
    race = this.measured.race if this.measured is not None else None
    return TuneReport(
        model=name, goal=str(settings.goal), tolerance=settings.tolerance_text, data=sample.description, rows=tuple(rows),
        reference=str(reference.candidate) if reference else "", machine=this_machine(runtimes=runtimes()).to_json(),
        budget_s=settings.budget_s, spent_s=dict(this.spent_s), rounds=race.rounds if race else 0,
        discarded_rounds=race.discarded if race else 0,
        notes=tuple(this.notes), confirmation=this.confirmation, reference_metric=reference.metric if reference else None,
        when=time.strftime("%Y-%m-%d %H:%M", time.gmtime()), nograd=__version__, command=command,
    )  # fmt: skip


def _sort_key(row: Row) -> tuple[int, float, str]:
    return ORDER.index(row.status), -(row.ratio.median if row.ratio else 0.0), str(row.candidate)


def _state_key(task: Task, settings: TuneSettings, tried: Sequence[Variant]) -> str:
    """Return the key of built files and measured rounds."""
    machine = this_machine(runtimes=runtimes(*(variant.candidate().kind for variant in tried)))
    return of_value(
        task.predictor.fingerprint().text, [dict(part) for part in task.workload.parts], str(settings.goal),
        settings.tolerance_text, settings.cores, settings.accept_coupled_rows, machine.to_json(),
        [str(variant) for variant in tried],
    ).text  # fmt: skip


def _free_bytes() -> int:
    """Return the available memory in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 8 << 30
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 8 << 20)
