"""Isolation of failures in a batch: a bad part, out of memory, or a lost device. Pure functions over a `run` that may raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from nograd.batching.collate import chunks, merge, model_error, run_together
from nograd.core.tensors import Batch, Signature, num_rows
from nograd.errors import DeadlineError, NogradError
from nograd.runtime.device_errors import device_lost, is_device_lost, is_out_of_memory, release_frames
from nograd.runtime.interrupts import is_interrupt

__all__ = ["Outcome", "retry_sizes", "run_apart"]


@dataclass(slots=True)
class Outcome:
    """The results of the parts of one batch."""

    answers: list[Batch | NogradError] = field(default_factory=list)
    """For each part its outputs, or the error that its rows caused."""

    runs: int = 0
    """Number of calls of the model."""

    too_many_rows: int = 0
    """Rows of the smallest batch that exceeded memory although all its parts fit; 0 if there was none."""

    too_long: int = 0
    """Longest row of that batch."""


def run_apart(
    parts: Sequence[Batch],
    run: Callable[[Batch], Batch],
    signature: Signature,
    *,
    seconds: Callable[[int], float] = lambda _: 0.0,
    is_due: Callable[[int], bool] = lambda _: True,
) -> Outcome:
    """Run the parts as one batch. If it fails, run smaller batches, so that only parts that fail alone get an error.

    Args:
        parts: checked batches of one or more rows.
        run: the model.
        signature: signature of the model.
        seconds: run time by number of parts; decides whether retries use halves or single parts.
        is_due: whether a caller still waits for a part. Other parts are not retried and get a DeadlineError.

    Raises:
        DeviceLostError: all further runs would fail.
    """
    try:
        return Outcome([*run_together(parts, run, signature)], runs=1)
    except BaseException as error:  # a model may raise anything; the callers of these parts receive it
        if is_interrupt(error):
            raise
        caught: BaseException = error
    outcome = Outcome(runs=1)
    plan = cache(lambda count: _cheapest_retry(count, seconds, plan))
    answers = _FaultSearch(run, signature, plan, is_due, outcome).find(list(enumerate(parts)), caught)
    outcome.answers = [answers[position] for position in range(len(parts))]
    return outcome


@dataclass(slots=True)
class _FaultSearch:
    """The search for the failing parts of one batch."""

    call: Callable[[Batch], Batch]
    signature: Signature
    plan: Callable[[int], tuple[float, tuple[int, ...]]]
    is_due: Callable[[int], bool]
    outcome: Outcome

    def run(self, parts: Sequence[tuple[int, Batch]]) -> dict[int, Batch | NogradError]:
        """Run parts together and return answers by position."""
        batches = [part for _, part in parts]
        self.outcome.runs += 1
        try:
            outputs = run_together(batches, self.call, self.signature)
            return {position: output for (position, _), output in zip(parts, outputs, strict=True)}
        except BaseException as error:  # as above
            if is_interrupt(error):
                raise
            caught: BaseException = error
        return self.find(parts, caught)

    def find(self, parts: Sequence[tuple[int, Batch]], error: BaseException) -> dict[int, Batch | NogradError]:
        """Return answers by position after the parts failed together."""
        if is_device_lost(error):
            raise device_lost(error) from error
        if len(parts) > 1 or is_out_of_memory(error):
            release_frames(error)  # they hold the failed run's tensors, while the retries need the memory
        if is_out_of_memory(error):
            return self._with_less_memory(parts, error)
        return self._apart(parts, self.plan(len(parts))[1], error)

    def _with_less_memory(self, parts: Sequence[tuple[int, Batch]], error: BaseException) -> dict[int, Batch | NogradError]:
        """Run halves. If all succeed, the whole batch was too large. (A part that is too large alone does not lower the
        limit.)
        """
        rows = sum(num_rows(part) for _, part in parts)
        if len(parts) > 1:
            answers = self._apart(parts, _halves(len(parts)), error)
        elif rows > 1 and self.signature.batching != "alone":
            answers = {parts[0][0]: self._in_chunks(parts[0][1], rows)}
        else:
            return {parts[0][0]: _as_error(error)}
        if not any(isinstance(answer, NogradError) for answer in answers.values()):
            smallest = self.outcome.too_many_rows
            if not smallest or rows < smallest:
                self.outcome.too_many_rows = rows
                self.outcome.too_long = max(sum(self.signature.sizes_of(part)) or 1 for _, part in parts)
        return answers

    def _in_chunks(self, part: Batch, rows: int) -> Batch | NogradError:
        pieces = self.run(list(enumerate(chunks(part, -(-rows // 2)))))
        outputs: list[Batch] = []
        for position in sorted(pieces):
            piece = pieces[position]
            if isinstance(piece, NogradError):
                return piece
            outputs.append(piece)
        return merge(outputs)

    def _apart(
        self, parts: Sequence[tuple[int, Batch]], sizes: Sequence[int], error: BaseException
    ) -> dict[int, Batch | NogradError]:
        if len(parts) == 1:
            return {parts[0][0]: _as_error(error)}
        answers: dict[int, Batch | NogradError] = {}
        for group in _cut(parts, sizes):
            due = [(position, part) for position, part in group if self.is_due(position)]
            late = "its batch failed for another's fault, and no time was left to run it again"
            answers.update({position: DeadlineError(late) for position, _ in group})
            if due:
                answers.update(self.run(due))
        return answers


def retry_sizes(count: int, seconds: Callable[[int], float]) -> tuple[int, ...]:
    """Return the group sizes for retrying a failed batch: halves, or single parts if that is cheaper with one bad part.

    Args:
        count: number of parts in the batch.
        seconds: run time by number of parts.
    """
    plan = cache(lambda parts: _cheapest_retry(parts, seconds, plan))
    return plan(count)[1]


def _cheapest_retry(
    count: int, seconds: Callable[[int], float], plan: Callable[[int], tuple[float, tuple[int, ...]]]
) -> tuple[float, tuple[int, ...]]:
    """Return the seconds to find one bad part among `count`, and the group sizes of the first step."""
    if count < 2:
        return 0.0, (count,)
    sizes = _halves(count)
    by_halves = sum(map(seconds, sizes)) + plan(sizes[0])[0]
    singly = count * seconds(1)
    return (singly, (1,) * count) if singly < by_halves else (by_halves, sizes)


def _halves(count: int) -> tuple[int, ...]:
    return -(-count // 2), count // 2


def _cut(parts: Sequence[tuple[int, Batch]], sizes: Sequence[int]) -> Iterator[Sequence[tuple[int, Batch]]]:
    start = 0
    for size in sizes:
        yield parts[start : start + size]
        start += size


def _as_error(error: BaseException) -> NogradError:
    return error if isinstance(error, NogradError) else model_error("the model", error)
