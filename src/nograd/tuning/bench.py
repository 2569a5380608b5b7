"""Build, open, compare and time one candidate. Runs in the candidate's own process; every result is plain JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from nograd.backends.coupling import QUICK, measure_independence, without_independence
from nograd.batching.collate import hand_out
from nograd.core.cost import CostCurve
from nograd.core.parity import Tolerance, compare
from nograd.core.tensors import Batch, num_rows
from nograd.errors import ConfigError, NogradError
from nograd.predictors.predictor import Predictor
from nograd.tuning.building import build, open_candidate, size_of
from nograd.tuning.confirm import serve_under_load
from nograd.tuning.values import Candidate
from nograd.tuning.workload import Workload, rows_in

if TYPE_CHECKING:
    from nograd.backends import Backend
    from nograd.backends.modules import ModuleBackend
    from nograd.core.independence import Independence

__all__ = ["Bench", "Metric", "Task"]

SAMPLE_S = 0.02
"""Minimum seconds of one sample, repeats included. Shorter samples measure the clock and the scheduler."""

REPEATS = 3
"""Minimum repeats of a short run."""

MOST_RUNS = 200
"""Maximum runs per lane in one sample of the cost curve."""

CURVE_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

MOST_COMPARED = 40
"""Maximum batches for the independence measurement."""

SCOUT_S = 1.0
"""Seconds that scouting may take. When they are used up, larger batch sizes are skipped."""

Metric = Callable[[list[Any], list[dict[str, Any]]], float]
"""The user's metric: takes answers and records, one per row, and returns one number; higher is better."""


@dataclass(frozen=True, slots=True)
class Task:
    """The data that all candidates of one model share. Child processes inherit it."""

    predictor: Predictor
    reference: ModuleBackend
    workload: Workload
    expected: Sequence[Batch]
    """Eager's answers to `workload.proof_batches()`."""

    records: tuple[dict[str, Any], ...]
    tolerance: Tolerance
    metric: Metric | None = None
    accept_coupled_rows: bool = False
    """True if the user accepts that the rows of a batch influence each other."""


class Bench:
    """Commands on one candidate.

    Args:
        task: the data that all candidates share.
        candidate: the candidate to run.
        path: the candidate's model file; None if the candidate runs the module itself.
    """

    def __init__(self, task: Task, candidate: Candidate, path: Path | None) -> None:
        self._task = task
        self._candidate = candidate
        self._path = path
        self._backend: Backend
        self._lanes = ThreadPoolExecutor(candidate.lanes, "nograd-lane")

    def do(self, command: str, options: dict[str, Any]) -> dict[str, Any]:
        """Run a command by name and return its result.

        Raises:
            NogradError: the command failed.
        """
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "build": self.build, "open": self.open, "prove": self.prove, "scout": self.scout, "single": self.single,
            "bulk": self.bulk, "curve": self.curve, "confirm": self.confirm,
        }  # fmt: skip
        if command not in actions:
            raise ConfigError(f"the command is {command!r}; it must be one of {', '.join(actions)}")
        return actions[command](**options)

    # -- building and comparing

    def build(self) -> dict[str, Any]:
        """Write the candidate's file; return the notes, the build time in seconds and the file size in bytes."""
        task, begun = self._task, time.perf_counter()
        task.reference.limit_threads(self._num_threads_when_shared())
        batches = task.workload.proof_batches()
        notes = build(
            self._candidate, task.reference, batches, self._own_tolerance(), self._path,
            accept_coupled_rows=task.accept_coupled_rows,
        )  # fmt: skip
        return {"notes": notes, "build_s": time.perf_counter() - begun, "file_bytes": size_of(self._path)}

    def _own_tolerance(self) -> Tolerance:
        """Return the tolerance for parity. With a metric it accepts everything, because the metric decides."""
        return self._task.tolerance if self._task.metric is None else Tolerance(min_cosine=-1.0)

    def open(self) -> dict[str, Any]:
        """Open the candidate and run it once; return the seconds that both took."""
        begun = time.perf_counter()
        self._limit_threads(self._candidate.num_threads)
        opening = self._lanes.submit(open_candidate, self._candidate, self._task.reference, self._path)
        self._backend = opening.result()
        self._on_lane(self._task.workload.single_rows[0])
        return {"open_s": time.perf_counter() - begun}

    def prove(self) -> dict[str, Any]:
        """Compare the candidate's answers with eager's over the user's own rows."""
        task = self._task
        self._limit_threads(self._num_threads_when_shared())
        given = [self._on_lane(batch) for batch in task.workload.proof_batches()]
        independence = self._independence()
        self._limit_threads(self._candidate.num_threads)
        report = compare(task.expected, given, tolerance=self._own_tolerance(), outputs=self._backend.signature.outputs)
        metric = None if task.metric is None else _apply_metric(task, task.metric, given)
        return {
            "parity": report.to_json(), "passed": report.passed, "failures": report.failures, "metric": metric,
            "independence": None if independence is None else asdict(independence),
        }  # fmt: skip

    def _independence(self) -> Independence | None:
        """Measure how much the rows of a batch influence each other on this backend, over the user's own rows."""
        task, candidate = self._task, self._candidate
        found = measure_independence(
            self._on_lane, task.workload.parts, without_independence(task.reference.signature), precision=candidate.precision,
            backend=candidate.backend, num_batches=min(MOST_COMPARED, max(QUICK, len(task.workload.parts) // 4)),
        )  # fmt: skip
        return found if found is None else replace(found, is_accepted=found.is_coupled and task.accept_coupled_rows)

    def _num_threads_when_shared(self) -> int:
        """Return the number of threads for steps that run at the same time as other candidates.

        This is 1, because as many candidates are built at a time as there are cores. Inductor is the exception: it compiles
        for the thread count that it sees, and recompiles when that count changes.
        """
        return self._candidate.num_threads if self._candidate.kind.fixes_threads else 1

    def _limit_threads(self, count: int) -> None:
        self._each_lane(lambda: self._task.reference.limit_threads(count))

    # -- timing

    def scout(self, sizes: Sequence[int]) -> dict[str, Any]:
        """Return the seconds of a single row, and the seconds per row by batch size with all lanes busy."""
        begun = time.perf_counter()
        single_s = self.single()["seconds"]
        by_rows: dict[int, float] = {}
        for rows in sizes if self._task.workload.signature.batching != "alone" else (1,):
            if by_rows and time.perf_counter() - begun > SCOUT_S:
                break
            by_rows[rows] = self.bulk(rows)["seconds"]
        return {"lone_s": single_s, "by_rows": {str(rows): seconds for rows, seconds in by_rows.items()}}

    def single(self) -> dict[str, Any]:
        """Return a sample: the mean seconds of a single row, over rows of several lengths, and the seconds of every run."""
        rows = self._task.workload.single_rows
        return self._measure_repeated(lambda: [_time_run(lambda row=row: self._on_lane(row)) for row in rows], len(rows))  # type: ignore[misc]

    def bulk(self, rows: int) -> dict[str, Any]:
        """Return a sample: seconds per row in batches of up to `rows` rows, with all lanes busy."""
        batches = self._task.workload.bulk(rows, self._candidate.lanes)
        return self._measure_repeated(lambda: [_time_run(lambda: self._all_lanes(batches))], rows_in(batches))

    def _measure_repeated(self, work: Callable[[], list[float]], units: int) -> dict[str, Any]:
        """Repeat work until the sample is long enough; return wall-clock and CPU seconds per unit, and the seconds of every
        run.

        The shortest repeat of each run counts, because other load on the machine can only add time.
        """
        passes: list[list[float]] = []
        begun, cpu_begun = time.perf_counter(), time.process_time()
        while not passes or time.perf_counter() - begun < SAMPLE_S or (len(passes) < REPEATS and passes[0][0] < SAMPLE_S):
            passes.append(work())
        cpu_s = (time.process_time() - cpu_begun) / len(passes) / units
        seconds = sum(map(min, zip(*passes, strict=True))) / units
        return {"seconds": seconds, "cpu_s": cpu_s, "runs": [run for each in passes for run in each]}

    def curve(self, rows: int, length: int | None = None) -> dict[str, Any]:
        """Return a sample: seconds of one run of a given size, with all lanes busy with such runs."""
        batch = self._task.workload.of_size(rows, length)
        size = rows if length is None else rows * sum(self._task.workload.signature.sizes_of(batch))
        lanes = self._candidate.lanes
        once_s = _time_run(lambda: self._all_lanes([batch] * lanes))
        # Dispatch to the lanes' threads is not the model's time. Many runs per dispatch hide it.
        runs = max(1, min(MOST_RUNS, int(SAMPLE_S / REPEATS / once_s)))
        batches = [batch] * lanes * runs
        return {"size": size, **self._measure_repeated(lambda: [_time_run(lambda: self._all_lanes(batches))], runs)}

    def confirm(
        self, curve: dict[str, Any], rows_per_s: float, seconds: float, max_batch_size: int, seed: int
    ) -> dict[str, Any]:
        """Serve the candidate through the real batcher under Poisson load."""
        cost = CostCurve(tuple(curve["sizes"]), tuple(curve["seconds"]), curve["unit"])
        runner = Predictor(self._backend, sample=None)
        return serve_under_load(
            runner, self._task.workload.parts, cost, rows_per_s=rows_per_s, seconds=seconds, max_batch_size=max_batch_size,
            seed=seed,
        )  # fmt: skip

    # -- running

    def _on_lane(self, batch: Batch) -> Batch:
        return self._lanes.submit(self._backend.run, batch).result()

    def _each_lane(self, work: Callable[[], object]) -> None:
        """Run `work` once in every lane's thread."""
        import threading

        barrier = threading.Barrier(self._candidate.lanes)
        for running in [self._lanes.submit(lambda: (barrier.wait(), work())) for _ in range(self._candidate.lanes)]:
            running.result()

    def _all_lanes(self, batches: Sequence[Batch]) -> None:
        """Run batches on all lanes; each lane takes the next batch when it is free."""
        if self._candidate.lanes == 1:
            self._lanes.submit(lambda: [self._backend.run(batch) for batch in batches]).result()
            return
        waiting: SimpleQueue[Batch] = SimpleQueue()
        for batch in batches:
            waiting.put(batch)

        def work() -> None:
            while True:
                try:
                    batch = waiting.get_nowait()
                except Empty:
                    return
                self._backend.run(batch)

        for running in [self._lanes.submit(work) for _ in range(self._candidate.lanes)]:
            running.result()


def _time_run(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _apply_metric(task: Task, metric: Metric, outputs: Sequence[Batch]) -> float:
    """Return the user's metric over the answers to all rows, in row order."""
    workload, signature = task.workload, task.workload.signature
    answers: dict[int, Any] = {}
    for group, output in zip(workload.proof, outputs, strict=True):
        parts = [workload.parts[place] for place in group]
        for place, own in zip(group, hand_out(output, parts, signature), strict=True):
            if num_rows(own) != 1:
                raise ConfigError(f"row {place} was answered with {num_rows(own)} rows")
            answers.setdefault(place, next(task.predictor.answers(own)))
    records = list(task.records)
    try:
        found = float(metric([answers[place] for place in range(len(workload.parts))], records))
    except Exception as error:  # the metric is the user's code
        columns = f"records have {', '.join(map(repr, records[0]))}" if records else "there are no records: give a file of rows"
        raise ConfigError(f"the metric raised {type(error).__name__}: {error} ({columns})") from error
    if not isfinite(found):
        raise ConfigError(f"the metric is {found}; it must be a finite number, higher for better answers")
    return found


def describe_error(error: BaseException) -> str:
    """Return an error as one sentence."""
    return str(error) if isinstance(error, NogradError) else f"{type(error).__name__}: {error}"
