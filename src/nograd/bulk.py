"""BatchPredictor: a stream of items in, a stream of answers out, in order, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from nograd.backends import Backend
from nograd.batching.collate import chunks, plan
from nograd.batching.faults import run_apart
from nograd.batching.tracking import TokenCost
from nograd.errors import ConfigError, ItemError, NogradError, SignatureError
from nograd.inputs import each_item, holds_tensors, stacked
from nograd.predictor import Predictor
from nograd.tensors import Batch, num_rows, split

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
        progress: shows a bar with the rate and the time left, on standard error.
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
            name = next(iter(predictor_options))
            raise ConfigError(
                f"there is no option {name!r} beside a Predictor; options here are max_batch_size, window_batches, progress"
            )
        self._predictor = predictor if isinstance(predictor, Predictor) else Predictor(predictor, **predictor_options)
        self._max_batch_size = max_batch_size
        cost = self._predictor.cost
        self._overhead = TokenCost(cost if cost is not None and cost.unit == "tokens" else None).overhead
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
            ItemError: an item could not be prepared, or the model raised on it. The answers of all items before it were
                yielded; so they are where `items` itself raises, whose error then follows as it is.
            SignatureError: `items` is one string, or a dict of columns.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        reader = _Reader(items)
        first = reader.peek(SAMPLE_ITEMS)
        if not first:
            if reader.error is not None:
                raise reader.error
            return
        self._learn_from(first)
        preparing = ThreadPoolExecutor(1, "nograd-prepare")
        device = ThreadPoolExecutor(self._predictor.lanes, "nograd-device")
        try:
            with _progress_bar(total, shown=self._progress) as advance:
                for window in self._windows(reader, preparing, device):
                    yield from self._answers(window, device, as_tensors=holds_tensors(first[0]))
                    advance(sum(map(num_rows, window.parts)))
        finally:
            preparing.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _learn_from(self, items: Sequence[Any]) -> None:
        """Teach the predictor, of the first item alone where a later one is bad: that one fails when its turn comes."""
        try:
            self._predictor.learn_from(items)
        except NogradError:
            try:
                self._predictor.learn_from(items[:1])
            except SignatureError as error:
                raise ItemError(f"item 0: {error}", 0) from error

    def _windows(self, reader: _Reader, preparing: ThreadPoolExecutor, device: ThreadPoolExecutor) -> Iterator[_Window]:
        ahead: deque[Future[_Window]] = deque()
        start = 0
        while window := reader.read(self._window_rows):
            ahead.append(preparing.submit(self._send, window, start, device))
            start += len(window)
            if len(ahead) > WINDOWS_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        if reader.error is not None:
            raise reader.error

    def _send(self, items: list[Any], start: int, device: ThreadPoolExecutor) -> _Window:
        """Prepare a window and queue its runs; in the preparing thread."""
        parts, error = self._prepare(items, start)
        signature = self._predictor.signature
        runs: dict[int, tuple[Future[list[Batch | NogradError]], int]] = {}
        for group in plan(parts, signature, self._max_batch_size, overhead=self._overhead) if parts else []:
            chosen = [parts[position] for position in group]
            future = device.submit(_run, chosen, self._predictor)
            runs.update({position: (future, place) for place, position in enumerate(group)})
        return _Window(start, parts, [runs[position] for position in range(len(parts))], error)

    def _prepare(self, items: list[Any], start: int) -> tuple[list[Batch], ItemError | None]:
        """Return the window as parts: many rows each where they stack, else one row each up to the first that fails."""
        if not self._predictor.has_preprocess and self._predictor.signature.batching != "alone":
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

    def _answers(self, window: _Window, device: ThreadPoolExecutor, *, as_tensors: bool) -> Iterator[Any]:
        index = window.start
        for part, (run, place) in zip(window.parts, window.runs, strict=True):
            pieces = [run.result()[place]]
            if isinstance(pieces[0], NogradError) and num_rows(part) > 1:  # which of its rows was it?
                rows = split(part, [1] * num_rows(part))
                pieces = device.submit(_run, rows, self._predictor).result()
            for outputs in pieces:
                if isinstance(outputs, NogradError):
                    raise ItemError(f"item {index}: {outputs}", index) from outputs
                yield from self._predictor.answers(outputs, as_tensors=as_tensors)
                index += num_rows(outputs)
        if window.error is not None:
            raise window.error


def _run(parts: Sequence[Batch], predictor: Predictor) -> list[Batch | NogradError]:
    return run_apart(parts, predictor.run, predictor.signature).answers


class _Reader:
    """Reads the caller's items, and keeps the error that ends them until the answers before it are delivered."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = each_item(items)
        self.error: Exception | None = None

    def read(self, count: int) -> list[Any]:
        """Return the next items, `count` at most; none at the end."""
        found: list[Any] = []
        try:
            found.extend(islice(self._items, count))
        except Exception as error:  # noqa: BLE001  the items are the caller's code, and the caller gets it
            self._items, self.error = iter(()), error
        return found

    def peek(self, count: int) -> list[Any]:
        """Return the next items, and leave them to be read."""
        found = self.read(count)
        self._items = chain(found, self._items)
        return found


@contextmanager
def _progress_bar(total: int | None, *, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
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
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda rows: progress.advance(task, rows)
