"""`tune`: build every way to run a model, compare each with eager, measure them here, and write the best one as a bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nograd.bundle import Bundle, Pipeline
from nograd.runtime.cores import usable_processors
from nograd.runtime.exits import ignored_ctrl_c
from nograd.tuning.bundling import write_winner
from nograd.tuning.candidates import parse_tolerance
from nograd.tuning.loading import check_files, name_of, predictor_of, rows_of, source_of
from nograd.tuning.report import loads, to_text
from nograd.tuning.tuner import TuneSettings, run
from nograd.tuning.values import Goal, TuneReport

if TYPE_CHECKING:
    from torch import nn

    from nograd.core.parity import Tolerance
    from nograd.predictors.predictor import Predictor

__all__ = ["Tuned", "run_tuning", "tune"]


@dataclass(frozen=True, slots=True)
class Tuned:
    """Result of tuning: the report and the path of the bundle."""

    report: TuneReport
    bundle: Path | None = None
    """The bundle that was written; None if no output was requested, or if no candidate that a bundle can hold was measured."""

    @classmethod
    def there(cls, bundle: Path) -> Tuned:
        """Return the result of an earlier run.

        Raises:
            ModelLoadError: the bundle has no report, or the report cannot be read.
        """
        return cls(loads((bundle / "report.json").read_bytes()), bundle)

    @property
    def needs_trust(self) -> bool:
        """True if opening the bundle runs code that it contains or names."""
        if self.bundle is None:
            return False
        with Bundle.read(self.bundle) as bundle:
            return bool(bundle.trust_reasons())

    def __str__(self) -> str:
        return to_text(self.report)


def tune(  # noqa: PLR0913
    model: nn.Module | Predictor | str,
    sample: Any = None,
    *,
    goal: str = "latency",
    output: str | os.PathLike[str] | None = None,
    tolerance: str | Tolerance = "half",
    budget_s: float = 120.0,
    backends: Sequence[str] | None = None,
    metric: Callable[[list[Any], list[dict[str, Any]]], float] | None = None,
    metric_drop: float = 0.0,
    memory_bytes: int | None = None,
    cores: int | None = None,
    rounds: int | None = None,
    seed: int = 0,
    accept_coupled_rows: bool = False,
    name: str | None = None,
    factory: str | None = None,
    tell: Callable[[str, str], None] | None = None,
) -> Tuned:
    """Build every backend and precision, compare each with eager, measure them here, and write the best as a bundle.

    Every candidate runs in its own process: one that crashes, hangs or exhausts its memory is only a row of the report.
    Each round measures all candidates in a new random order, against a run of eager in that round. Rounds are discarded if
    other load kept the machine busy. Among the candidates within 2 % of the best, the simplest wins. The winner's cost
    curve is then measured, and the winner is served through the real batcher at 70 % of its measured rate. Ctrl-C writes
    the best result so far; the same call resumes from there.

    Args:
        model: a module, a Predictor over one, or a name as `nograd.load` takes it. On the CPU.
        sample: the user's own rows, as `Predictor` takes them: `[rows, ...]`, or a list of items if there is a
            `preprocess`; or the `pathlib.Path` of a file (see `nograd tune --help`). None: the few rows that the model was
            probed with.
        goal: `latency` (one row alone), `throughput`, `slo=20ms` (most rows per second that are each answered within that
            time), or `memory` (least memory among the candidates that are at most 10 % slower than eager).
        output: the bundle to write: a folder, or a `.zip`; None writes none.
        tolerance: maximum difference from eager's answers: `exact`, `half`, `int8`, limits such as
            `cosine=0.99,agreement=0.98`, or a `nograd.Tolerance`.
        budget_s: approximate total time in seconds.
        backends: names of the backends to try in addition to eager; None: all.
        metric: decides instead of the tolerance: a function of answers and records (the columns of the file, such as
            labels), one per row, that returns one number; higher is better.
        metric_drop: maximum drop of the metric below eager's.
        memory_bytes: maximum memory growth of a candidate's process, in bytes; None: half of the free memory.
        cores: number of processors to use; None: all that this process may use.
        rounds: maximum number of rounds; None: until the race is decided or the time is up.
        seed: random seed of orders and arrivals.
        accept_coupled_rows: whether a candidate may win whose rows influence each other by more than the tolerance of its
            precision, such as dynamic 8-bit integers. Default: such candidates are refused.
        name: name of the model; default: derived from `model`.
        factory: `package.module:function` that builds the module, for bundles of eager and compiled models.
        tell: called with the phase and a progress text.

    Raises:
        ConfigError: a setting is out of its range; the bundle cannot be written at `output`; or `preprocess` has no name to
            import it by.
        UnsupportedError: the model is not a torch module on the CPU.
        SignatureError: the model cannot run the sample.
    """
    tolerance_text = tolerance if isinstance(tolerance, str) else str(tolerance)
    settings = TuneSettings(
        Goal.parse(goal), parse_tolerance(tolerance) if isinstance(tolerance, str) else tolerance, tolerance_text,
        budget_s=budget_s, backends=None if backends is None else tuple(backends), metric=metric, metric_drop=metric_drop,
        memory_bytes=memory_bytes, cores=usable_processors() if cores is None else cores, rounds=rounds, seed=seed,
        accept_coupled_rows=accept_coupled_rows,
    )  # fmt: skip
    target = None if output is None else Path(output)
    return run_tuning(target, model, sample, settings, name=name, factory=factory, tell=tell or _silent)


def run_tuning(
    target: Path | None, model: nn.Module | Predictor | str, sample: Any, settings: TuneSettings, *, name: str | None = None,
    factory: str | None = None, tell: Callable[[str, str], None], command: str = "",
) -> Tuned:  # fmt: skip
    """Tune as `tune` does, with checked settings. The report names `command` as the one that reproduces it."""
    check_files(target, sample)
    tell("loading", str(model) if isinstance(model, str) else "")
    predictor = predictor_of(model, sample)
    if target is not None:
        Pipeline.of(predictor).check()
    rows = rows_of(predictor, sample)
    source = source_of(model, predictor, factory)
    with _work_folder(target) as work:
        outcome = run(
            predictor, rows, settings, name=name or name_of(model, predictor), folder=work.path, command=command, tell=tell,
            can_win=lambda entry: target is None or entry.path is not None or source is not None,
        )  # fmt: skip
        with ignored_ctrl_c():  # half a bundle is useless, and the report would be wrong
            bundle = None if target is None else write_winner(target, outcome, predictor, source)
        work.is_done = outcome.is_whole
    return Tuned(outcome.report, bundle)


def _silent(phase: str, text: str) -> None:
    """Discard the progress text."""


@dataclass(slots=True)
class _Work:
    """A folder for built files and measured rounds."""

    path: Path
    is_done: bool = False


@contextmanager
def _work_folder(target: Path | None) -> Iterator[_Work]:
    """Return the work folder next to the bundle, from which an interrupted run resumes. It is removed when the work is done."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix="nograd-tune-") as folder:
            yield _Work(Path(folder))
        return
    work = _Work(target.parent / f"{target.name}.tuning")
    was_there = work.path.exists()
    work.path.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    except BaseException:
        work.is_done = not was_there  # a failed run leaves nothing to resume from
        raise
    finally:
        if work.is_done:
            shutil.rmtree(work.path)
