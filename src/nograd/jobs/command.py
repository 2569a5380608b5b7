"""`nograd predict` behind its options: what the user writes, reads, and gets as exit code."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

from nograd.errors import ConfigError
from nograd.jobs.columns import Wanted
from nograd.jobs.keeping import Files
from nograd.jobs.opening import STDIN
from nograd.jobs.progress import shown_on, summary_of
from nograd.jobs.run import Job, Shown, run
from nograd.jobs.trial import Over
from nograd.predictors.predictor import Predictor
from nograd.runtime.stalls import StallWatch
from nograd.runtime.threads import in_own_thread
from nograd.sources import load

__all__ = ["predict_command", "wanted_of"]

INTERRUPTED = 130


STALL_S = 60.0
"""Seconds without a finished window, at least, after which the stacks of all threads are written to stderr."""


class _Watched:
    """Shows a run, and tells a watch of its progress."""

    def __init__(self, shown: Shown, watch: StallWatch) -> None:
        self._shown, self._watch = shown, watch

    def note(self, text: str) -> None:
        """Say a sentence."""
        self._shown.note(text)

    def update(self, rows: int, fraction: float | None) -> None:
        """Say how far it is."""
        self._watch.progressed()
        self._shown.update(rows, fraction)


def wanted_of(mapping: Sequence[str], keep: str | None, drop: str) -> Wanted:
    """Return what the user said about columns.

    Args:
        mapping: `input=column` each.
        keep: names with commas; None keeps all.
        drop: names with commas.

    Raises:
        ConfigError: one cannot be read.
    """
    found = {}
    for each in mapping:
        name, equals, column = each.partition("=")
        if not (name and equals and column):
            raise ConfigError(f"map is {each!r}; it must be INPUT=COLUMN")
        found[name] = column
    return Wanted(found, None if keep is None else _names(keep), _names(drop))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for each in text.split(",") if (name := each.strip()))


def predict_command(job: Job, *, device: str, trusted: bool, over: Over | None = None) -> int:
    """Predict, say what happens on stderr and what became of it on stdout; return the exit code.

    Args:
        job: what to do.
        device: `auto`, or a torch device.
        trusted: for models that hold or name code.
        over: gives what runs the windows; None: this process does.

    Returns:
        0: the output is whole; 130: Ctrl-C, and the same command goes on.

    Raises:
        ConfigError: nothing was begun.
        JobError: it stopped; what was done is kept.
    """

    def opened() -> Predictor:
        return in_own_thread(
            lambda: load(job.model, device=device, trusted=trusted, accept_coupled_rows=job.accept_coupled_rows)
        ).result()

    try:
        with shown_on(sys.stderr, time.monotonic) as shown, StallWatch(STALL_S, say=shown.note) as watch:
            summary = run(job, opened, _Watched(shown, watch), time.monotonic, over)
    except KeyboardInterrupt:
        goes_on = "nothing is kept: standard input cannot be read twice" if job.input == STDIN else "the same command goes on"
        sys.stderr.write(f"stopped; {goes_on}{' (without --restart)' if job.restart and job.input != STDIN else ''}\n")
        return INTERRUPTED
    sys.stdout.write(f"{summary_of(summary, shlex.quote(str(job.output)), str(Files(job.output).errors))}\n")
    sys.stdout.flush()
    return 0
