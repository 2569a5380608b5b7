"""BatchPredictor: a stream of items in, a stream of answers out, in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from nograd.backends import Backend
from nograd.batching.collate import chunks, plan, run_apart
from nograd.errors import ConfigError, ItemError, NogradError, SignatureError
from nograd.inputs import holds_tensors, stacked
from nograd.predictor import Predictor
from nograd.tensors import Batch, num_rows

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BatchPredictor"]

SAMPLE_ITEMS = 2
"""Items that teach the signature where no sample was given."""

WINDOWS_AHEAD = 2
"""Windows that are prepared or run while the caller takes the answers of the one before."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of the input on its way through the device: its parts in order, and each part's run."""

    start: int
    """Position of its first item in the input."""

    parts: list[Batch]
    runs: list[tuple[Future[list[Batch | NogradError]], int]]
    """For each part the run that it is in, and its place there."""

    error: ItemError | None
    """The item that ended the window early; the answers before it are delivered first."""


class BatchPredictor:
    """Predicts over any number of items.

    Items are gathered in windows, sorted by length within each, run in batches, and given back in the order they came in.
    While the device runs one window, the next is read and prepared.

    >>> import torch
    >>> rows = (torch.full((4,), float(i)) for i in range(1000))
    >>> predictor = BatchPredictor(torch.nn.Linear(4, 3), sample=torch.zeros(2, 4))
    >>> sum(1 for answer in predictor.predict(rows))
    1000

    Args:
        predictor: a Predictor, or what one is made of: a torch module or a backend.
        max_batch_size: rows in one run, at most.
        window_batches: batches sorted together; memory holds three windows.
        progress: shows a bar with the rate and the time left.
        predictor_options: for the Predictor that is made of a module: `sample`, `preprocess`, `postprocess`, `device`.
            Without `sample`, the first two items are the sample.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __init__(
        self,
        predictor: Predictor | nn.Module | Backend,
        *,
        max_batch_size: int = 32,
        window_batches: int = 16,
        progress: bool = False,
        **predictor_options: Any,
    ) -> None:
        for name, value in (("max_batch_size", max_batch_size), ("window_batches", window_batches)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if isinstance(predictor, Predictor) and predictor_options:
            raise ConfigError(f"{', '.join(predictor_options)} belong to the Predictor; set them where it is made")
        self._predictor = predictor if isinstance(predictor, Predictor) else Predictor(predictor, **predictor_options)
        self._max_batch_size = max_batch_size
        self._window_rows = max_batch_size * window_batches
        self._progress = progress

    def predict(self, items: Iterable[Any], *, total: int | None = None) -> Iterator[Any]:
        """Yield one answer per item, in order.

        Args:
            items: what `preprocess` takes, or else rows: arrays or tensors `[...]` without dimension 0, or dicts of them.
            total: how many items there are, for the time left; taken from `len(items)` where it has one.

        Yields:
            What `predictor.predict` would answer for the item: tensors for tensors.

        Raises:
            ItemError: an item could not be prepared, or the model raised on it. The answers of all items before it were yielded.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        stream = iter(items)
        first = list(islice(stream, SAMPLE_ITEMS))
        if not first:
            return
        self._predictor.learn_from(first)
        preparing = ThreadPoolExecutor(1, "nograd-prepare")
        device = ThreadPoolExecutor(self._predictor.lanes, "nograd-device")
        try:
            with _progress_bar(total, shown=self._progress) as advance:
                for window in self._windows(chain(first, stream), preparing, device):
                    yield from self._answers(window, as_tensors=holds_tensors(first[0]))
                    advance(sum(map(num_rows, window.parts)))
        finally:
            preparing.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _windows(self, items: Iterator[Any], preparing: ThreadPoolExecutor, device: ThreadPoolExecutor) -> Iterator[_Window]:
        ahead: deque[Future[_Window]] = deque()
        start = 0
        while window := list(islice(items, self._window_rows)):
            ahead.append(preparing.submit(self._send, window, start, device))
            start += len(window)
            if len(ahead) > WINDOWS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _send(self, items: list[Any], start: int, device: ThreadPoolExecutor) -> _Window:
        """Prepare a window and queue its runs; in the preparing thread."""
        parts, error = self._prepare(items, start)
        signature = self._predictor.signature
        runs: dict[int, tuple[Future[list[Batch | NogradError]], int]] = {}
        for group in plan(parts, signature, self._max_batch_size) if parts else []:
            chosen = [parts[position] for position in group]
            future = device.submit(run_apart, chosen, self._predictor.run, signature)
            runs.update({position: (future, place) for place, position in enumerate(group)})
        return _Window(start, parts, [runs[position] for position in range(len(parts))], error)

    def _prepare(self, items: list[Any], start: int) -> tuple[list[Batch], ItemError | None]:
        """Return the window as parts: many rows each where they stack, else one row each up to the first that fails."""
        if not self._predictor.has_preprocess:
            try:
                return chunks(self._predictor.check(stacked(items)), self._max_batch_size), None
            except (SignatureError, ValueError):
                pass  # rows of several lengths, or a bad one among them: take them one by one
        parts: list[Batch] = []
        for index, item in enumerate(items, start):
            try:
                parts.append(self._predictor.prepare_item(item, index))
            except ItemError as error:
                return parts, error
        return parts, None

    def _answers(self, window: _Window, *, as_tensors: bool) -> Iterator[Any]:
        index = window.start
        for part, (run, place) in zip(window.parts, window.runs, strict=True):
            outputs = run.result()[place]
            if isinstance(outputs, NogradError):
                last = index + num_rows(part) - 1
                raise ItemError(f"item {index}{f' to {last}' if last > index else ''}: {outputs}", index) from outputs
            yield from self._predictor.answers(outputs, as_tensors=as_tensors)
            index += num_rows(part)
        if window.error is not None:
            raise window.error


@contextmanager
def _progress_bar(total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda rows: progress.advance(task, rows)
