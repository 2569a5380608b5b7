"""`nograd predict` after option parsing: load the model, run the job, print the summary, and return the exit code."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from nograd.datasets.columns import ColumnOptions
from nograd.datasets.opening import STDIN
from nograd.datasets.progress import show_progress, summary_of
from nograd.datasets.run import PredictJob, ProgressView, run
from nograd.datasets.run_files import Files
from nograd.datasets.trial import ExecutorFactory
from nograd.errors import ConfigError
from nograd.predictors.predictor import Predictor
from nograd.runtime.phases import show_phases
from nograd.runtime.stalls import StallWatch
from nograd.runtime.threads import in_own_thread
from nograd.sources import load

__all__ = ["column_options", "predict_command", "preview_command"]

INTERRUPTED = 130


STALL_S = 60.0
"""If no window finishes within this many seconds, the stacks of all threads are written to stderr."""


class _WatchedProgress:
    """Show a run, and report its progress to the stall watch."""

    def __init__(self, shown: ProgressView, watch: StallWatch) -> None:
        self._shown, self._watch = shown, watch

    def note(self, text: str) -> None:
        """Show a sentence."""
        self._shown.note(text)

    def update(self, rows: int, fraction: float | None) -> None:
        """Show the progress."""
        self._watch.progressed()
        self._shown.update(rows, fraction)


def column_options(mapping: Sequence[str], keep: Sequence[str] | None, drop: Sequence[str]) -> ColumnOptions:
    """Return the user's column options.

    Args:
        mapping: items of the form `input=column`.
        keep: names of columns; None carries all columns through.
        drop: names of columns.

    Raises:
        ConfigError: an item has another form.
    """
    found = {}
    for each in mapping:
        name, equals, column = each.partition("=")
        if not (name and equals and column):
            raise ConfigError(f"map is {each!r}; it must be INPUT=COLUMN")
        found[name] = column
    return ColumnOptions(found, None if keep is None else tuple(keep), tuple(drop))


def _open_model(job: PredictJob, show_phase: Callable[[str], None], device: str, *, trusted: bool) -> Predictor:
    show_phase(f"loading {job.model}")
    predictor = in_own_thread(
        lambda: load(job.model, device=device, trusted=trusted, accept_coupled_rows=job.accept_coupled_rows)
    ).result()
    show_phase("running the first rows")
    return predictor


def preview_command(job: PredictJob, *, device: str, trusted: bool) -> None:
    """Print what a run would do, as for `--dry-run`. Nothing is written.

    Args:
        job: the job.
        device: `auto`, or a torch device.
        trusted: for models that contain or name code.

    Raises:
        ConfigError: the run would not start.
        JobError: the input cannot be read.
    """
    from nograd.datasets.preview import preview

    with show_phases() as phases:
        found = preview(job, partial(_open_model, job, phases.start, device, trusted=trusted))
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()


def predict_command(job: PredictJob, *, device: str, trusted: bool, over: ExecutorFactory | None = None) -> int:
    """Predict, show progress on stderr and the summary on stdout; return the exit code.

    Args:
        job: the job to run.
        device: `auto`, or a torch device.
        trusted: for models that contain or name code.
        over: makes the executor of the windows; None: this process runs them.

    Returns:
        0: the output is complete; 130: Ctrl-C, and the same command resumes.

    Raises:
        ConfigError: the run was not started.
        JobError: the run stopped; finished work is saved.
    """

    try:
        with show_progress(sys.stderr, time.monotonic) as shown, StallWatch(STALL_S, say=shown.note) as watch:
            opened = partial(_open_model, job, shown.phase, device, trusted=trusted)
            summary = run(job, opened, _WatchedProgress(shown, watch), time.monotonic, over)
    except KeyboardInterrupt:
        resume = "rerun the command to resume"
        if job.input == STDIN:
            resume = "standard input cannot be read twice, so nothing is kept"
        sys.stderr.write(f"stopped; {resume}{' (without --restart)' if job.restart and job.input != STDIN else ''}\n")
        return INTERRUPTED
    sys.stdout.write(f"{summary_of(summary, shlex.quote(str(job.output)), str(Files(job.output).errors))}\n")
    sys.stdout.flush()
    return 0
