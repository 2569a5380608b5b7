"""The loop of `nograd predict`: read windows of records, write windows of rows, and never repeat finished work (ADR 16)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from nograd import __version__
from nograd.datasets.answers import row_of
from nograd.datasets.columns import ColumnOptions, Columns, check_collisions, choose, items_of
from nograd.datasets.identity import Identity, differences
from nograd.datasets.journal import Header
from nograd.datasets.opening import open_output, open_reader, output_kind
from nograd.datasets.outputs import Output, OutputRow, to_json
from nograd.datasets.records import InputPosition, Reader, Record
from nograd.datasets.run_files import WindowWriter
from nograd.datasets.trial import Executor, ExecutorFactory, FirstRowsTrial, learn, takes_of, try_out
from nograd.datasets.windows import IN_FLIGHT, Layout, cut, layout_for
from nograd.errors import ConfigError, DeviceLostError, JobError
from nograd.predictors.bulk import BatchPredictor, WindowAnswers
from nograd.predictors.predictor import Predictor

__all__ = ["PredictJob", "ProgressView", "RunSummary", "first_records", "run"]


@dataclass(frozen=True, slots=True)
class PredictJob:
    """The user's request."""

    model: str
    input: str
    output: Path
    columns: ColumnOptions = field(default_factory=ColumnOptions)
    format: str = ""
    """Format of the input; empty: by file extension."""

    memory_bytes: int = 2 << 30
    """Memory limit for in-flight rows in bytes, excluding the model."""

    max_batch_size: int = 32
    on_error: Literal["fail", "skip"] = "fail"
    commit_s: float = 1.0
    """Commit interval in seconds: approximate work that a crash can lose; 0 commits every window."""

    restart: bool = False
    accept_coupled_rows: bool = False
    """Batch rows that influence each other; False runs them alone."""

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise ConfigError(f"on_error is {self.on_error!r}; it must be fail or skip")
        if self.max_batch_size < 1:
            raise ConfigError(f"max_batch_size is {self.max_batch_size}; it must be at least 1")
        if self.memory_bytes < 1 << 20:
            raise ConfigError(f"memory is {self.memory_bytes} bytes; it must be at least 1MiB")
        if not 0 <= self.commit_s < float("inf"):
            raise ConfigError(f"commit_s is {self.commit_s}; it must be 0 or more, finite")


class ProgressView(Protocol):
    """The progress display."""

    def note(self, text: str) -> None:
        """Show a sentence."""

    def update(self, rows: int, fraction: float | None) -> None:
        """Show the progress: rows of this run, and the share of the input if known."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Summary of a run."""

    rows: int
    """Rows in the output."""

    rows_now: int
    """Rows of those that this call wrote."""

    bad: int
    padding_share: float
    """Share of padding in all elements that were run; 0 if all rows have the same length."""

    repeats: int
    """Rows that were not run because an equal text came earlier in their window."""

    seconds: float
    """Seconds since the first window was read, excluding the loading of the model."""

    was_whole: bool = False
    """True if the output was already complete."""


def run(
    job: PredictJob,
    load: Callable[[], Predictor],
    shown: ProgressView,
    clock: Callable[[], float],
    over: ExecutorFactory | None = None,
) -> RunSummary:
    """Predict, or resume, until the output is complete.

    Args:
        job: the job to run.
        load: loads the model.
        shown: the progress display.
        clock: returns the time in seconds.
        over: makes the executor of the windows; None: this process runs them.

    Raises:
        ConfigError: an option is invalid, or the existing files belong to another run.
        JobError: a row is bad and `on_error` is `fail`; or input, output or device failed. Finished work is saved.
    """
    kind = output_kind(job.output)
    reader = open_reader(job.input, job.format, job.memory_bytes)
    try:
        with WindowWriter(job.output, restart=job.restart) as kept:
            return _PredictRun(job, kind, reader, kept, shown, clock).run(load, over)
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class _Ready:
    """State of a run before its first window."""

    predictor: Predictor
    overhead: float
    runs: Executor
    columns: Columns
    output: Output
    trial: FirstRowsTrial
    head: Sequence[Record]
    """The first records; they are no longer in `records`."""

    records: Iterator[Record]


class _PredictRun:
    """One run."""

    def __init__(
        self, job: PredictJob, kind: str, reader: Reader, kept: WindowWriter, shown: ProgressView, clock: Callable[[], float]
    ) -> None:
        self._job, self._kind, self._reader, self._kept, self._shown, self._clock = job, kind, reader, kept, shown, clock

    def run(self, load: Callable[[], Predictor], over: ExecutorFactory | None) -> RunSummary:
        """Run the job to its end."""
        given: Identity = {"input": self._reader.identity(), "options": self._options()}
        self._check(given)
        ready = self._ready(load(), over)
        header = self._header(self._new_header(given, ready))
        if self._kept.is_whole and not self._job.restart:
            return self._summary(0, 0.0, was_whole=True)
        self._kept.begin(header)
        begun, before = self._clock(), self._kept.now.rows
        self._loop(self._rest(ready), header.layout, ready)
        if self._reader.identity() != given["input"]:
            raise JobError(f"{self._job.input} was changed while it was read; use --restart to start again")
        self._kept.finish(ready.output)
        return self._summary(before, self._clock() - begun)

    def _ready(self, predictor: Predictor, over: ExecutorFactory | None) -> _Ready:
        """Read the first records, and try the model on them."""
        job, known = self._job, self._kept.header
        records = self._reader.read(InputPosition())
        head = list(first_records(records, job))
        columns = choose(takes_of(predictor, job.model), job.columns, self._reader, head)
        learned_from = learn(predictor, columns, head)
        overhead = known.layout.overhead if known is not None else None
        bulk = BatchPredictor(predictor, max_batch_size=job.max_batch_size, overhead=overhead)
        runs = bulk if over is None else over(bulk, learned_from)
        trial = try_out(predictor, runs, columns, head, job.max_batch_size)
        check_collisions(columns, head, trial.predictions)
        names = trial.predictions or tuple(spec.name for spec in predictor.signature.outputs if not predictor.has_postprocess)
        output = open_output(self._kind, predictor.signature, names, job.memory_bytes)
        return _Ready(predictor, bulk.overhead, runs, columns, output, trial, head, records)

    def _rest(self, ready: _Ready) -> Iterator[Record]:
        """Return the records that are not done yet."""
        place = self._kept.now.place
        if place == InputPosition():
            return chain(ready.head, ready.records)
        self._shown.note(f"resuming after {self._reader.word} {place.number}")
        return self._reader.read(place)

    # -- identity of the run

    def _check(self, given: Identity) -> None:
        """Raise ConfigError for all reasons that are known before the model is loaded."""
        header, output = self._kept.header, self._job.output
        if header is not None:
            self._refuse({part: header.identity.get(part, {}) for part in given}, given)
        if output.exists() and not self._job.restart:
            is_ours = header is not None and self._reader.resumable
            if not is_ours:
                raise ConfigError(f"{output} exists; choose another name, or use --restart to replace it")
            if self._kept.now.written_bytes is not None and not self._kept.is_whole:
                raise ConfigError(
                    f"{output} was changed after nograd predict wrote it: it does not have the size and the checksum in "
                    f"{self._kept.files.journal.name}; --restart replaces it"
                )
        if not self._reader.resumable:
            self._shown.note("standard input cannot be read twice, so an interrupted run cannot be resumed")
            self._kept.forget()

    def _new_header(self, given: Identity, ready: _Ready) -> Header:
        """Return the header of a new run."""
        job, answers = self._job, ready.trial.answers
        if not answers:
            self._shown.note("the same rows get different answers, so a resumed run differs from an uninterrupted one")
        layout = layout_for(job.memory_bytes, job.max_batch_size, ready.overhead, ready.trial.held)
        model = self._model(ready.predictor)
        return Header({**given, "model": model, "answers": {"first rows": answers or "vary"}}, layout)

    def _header(self, wanted: Header) -> Header:
        """Return the header of the existing run if it is the same run; without one, return the new header."""
        header = self._kept.header
        if header is None:
            return wanted
        self._refuse(header.identity, wanted.identity)
        return header

    def _refuse(self, then: Identity, now: Identity) -> None:
        if found := differences(then, now):
            what = "made" if self._kept.is_whole else "begun"
            raise ConfigError(f"{self._job.output} was {what} differently: {'; '.join(found)}; use --restart to start again")

    def _options(self) -> dict[str, str]:
        job, columns = self._job, self._job.columns
        return {
            "map": ",".join(f"{name}={column}" for name, column in sorted(columns.mapping.items())) or "by name",
            "keep": "all" if columns.keep is None else ",".join(columns.keep),
            "drop": ",".join(columns.drop) or "none",
            "format": job.format or "by name",
            "memory": f"{job.memory_bytes} bytes",
            "max_batch_size": f"{job.max_batch_size}",
            **({"accept_coupled_rows": "yes"} if job.accept_coupled_rows else {}),  # as in journals of earlier versions
        }

    def _model(self, predictor: Predictor) -> dict[str, str]:
        """Return the properties that identify the model: its fingerprint, or its name if it has no portable fingerprint."""
        made_by = {"nograd": __version__}
        if self._kind in ("parquet", "arrow"):
            from nograd.datasets.arrow import pa

            made_by["pyarrow"] = pa.__version__
        found = predictor.fingerprint()
        if not found.private_because:
            return {"fingerprint": found.text, **made_by}
        self._shown.note(
            f"{self._job.model} is known by its name and its answers to the first rows only: {found.private_because}"
        )
        return {"name": self._job.model, **made_by}

    # -- the loop

    def _loop(self, records: Iterator[Record], layout: Layout, ready: _Ready) -> None:
        source = _WindowSource(cut(records, layout), ready.columns)
        answers = ready.runs.run_windows(source.items())
        safe_at, rows_before = self._clock(), self._kept.now.rows
        try:
            for answered in answers:
                window, faults = source.sent.popleft()
                self._write(window, faults, answered, ready)
                self._shown.update(self._kept.now.rows - rows_before, self._reader.fraction(self._kept.now.place))
                if self._clock() - safe_at >= self._job.commit_s:
                    self._kept.commit()
                    safe_at = self._clock()
        except DeviceLostError as error:
            raise JobError(f"{error}; finished work is kept; rerun the command to resume") from error
        finally:
            answers.close()
            self._kept.commit()
        if source.error is not None:
            raise source.error

    def _write(self, window: Sequence[Record], faults: Mapping[int, str], answered: WindowAnswers, ready: _Ready) -> None:
        outcomes = iter(answered.rows)
        rows, errors, bad = [], [], 0
        for index, record in enumerate(window):
            found = faults.get(index) or row_of(record, next(outcomes), ready.predictor, ready.columns, ready.trial.fields)
            if isinstance(found, OutputRow):
                rows.append(found)
                continue
            bad += 1
            errors.append(_error_line(self._reader.word, record, found))
            if self._job.on_error == "fail":
                self._kept.write_failing_row(errors[-1])
                raise JobError(
                    f"{self._job.input}, {self._reader.word} {record.place.number}: {found}; the row is in "
                    f"{self._kept.files.errors}. Rerun the command with --on-error skip to skip such rows"
                )
        now = self._kept.now
        self._kept.add(
            msgspec.structs.replace(
                now, place=window[-1].place, rows=now.rows + len(rows), bad=now.bad + bad,
                elements=now.elements + answered.elements, padding=now.padding + answered.padding,
                repeats=now.repeats + answered.repeats,
            ),
            ready.output.encode(rows) if rows else b"", b"".join(errors),
        )  # fmt: skip

    def _summary(self, before: int, seconds: float, *, was_whole: bool = False) -> RunSummary:
        now = self._kept.now
        share = now.padding / (now.padding + now.elements) if now.elements else 0.0
        return RunSummary(now.rows, 0 if was_whole else now.rows - before, now.bad, share, now.repeats, seconds, was_whole)


class _WindowSource:
    """Yield the items of windows, and store the windows until their answers arrive."""

    def __init__(self, windows: Iterator[list[Record]], columns: Columns) -> None:
        self._windows, self._columns = windows, columns
        self.sent: deque[tuple[list[Record], dict[int, str]]] = deque()
        """In-flight windows, each with the faults of its unusable records."""

        self.error: JobError | None = None
        """Error that ended reading; raised after the earlier records have been written."""

    def items(self) -> Iterator[list[Any]]:
        """Yield the items of each window."""
        try:
            for window in self._windows:
                items, faults = items_of(window, self._columns)
                self.sent.append((window, faults))
                yield items
        except JobError as error:
            self.error = error


def first_records(records: Iterator[Record], job: PredictJob) -> Iterator[Record]:
    """Yield the first records, as far as they fit into a window's share of the memory."""
    room = job.memory_bytes // IN_FLIGHT
    for record in islice(records, 2 * job.max_batch_size):
        yield record
        room -= 2 * record.size_bytes
        if room <= 0:
            return


def _error_line(word: str, record: Record, reason: str) -> bytes:
    raw = dict(record.raw) if isinstance(record.raw, Mapping) else record.raw
    try:
        shown = to_json(raw)
    except TypeError:  # surrogates, from bytes that are not UTF-8
        shown = to_json(repr(raw))
    return b'{"' + word.encode() + b'":%d,"reason":%b,"raw":%b}\n' % (record.place.number, to_json(reason), shown)
