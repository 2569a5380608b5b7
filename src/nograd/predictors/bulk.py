"""BatchPredictor: answers for a stream of items, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from operator import mul
from typing import TYPE_CHECKING, Any

from nograd.backends import Backend
from nograd.batching.collate import chunks, padding_share, plan
from nograd.batching.faults import run_apart
from nograd.batching.tracking import TokenCost
from nograd.core.aliases import one_of
from nograd.core.inputs import each_item, holds_tensors, stacked, without_inference_tensors
from nograd.core.tensors import Batch, num_rows, split
from nograd.errors import ConfigError, ItemError, ModelError, NogradError, SignatureError
from nograd.predictors.as_predictor import as_predictor
from nograd.predictors.calls import as_tensors
from nograd.predictors.predictor import Predictor
from nograd.predictors.rows import concatenated, run_stacked

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["BatchPredictor", "WindowAnswers"]

DEFAULT_ROWS = 32

SAMPLE_ITEMS = 2
"""Items that the model is probed with if no sample was given."""

WINDOWS_AHEAD = 2
"""Windows that are prepared or run while the caller consumes the answers of an earlier window."""


@dataclass(frozen=True, slots=True)
class WindowAnswers:
    """Outputs of the items of one window."""

    rows: list[Batch | ItemError]
    """For each item, in order, its outputs by name, `[1, ...]`, or an error with its position in the window."""

    elements: int
    """Sum of rows x length of all runs, without padding; 0 if all rows of the model have one length."""

    padding: float
    """Number of padding elements in all runs."""

    repeats: int = 0
    """Number of items that were not run: texts that repeat an earlier text of the window and have its answer."""


@dataclass(frozen=True, slots=True)
class _Window:
    """An in-flight window of the input: its parts in order, and the run of each part."""

    start: int
    """Position of its first item in the input."""

    parts: list[Batch | ItemError]
    """An item that could not be prepared is represented by its error."""

    runs: dict[int, tuple[Future[list[Batch | NogradError]], int]]
    """For each part, its run and its position in the run."""

    elements: int = 0
    padding: float = 0.0


class BatchPredictor:
    """Predicts over any number of items.

    Items are collected in windows, sorted by length within each window, run in batches, and answered in their original order.
    While the device runs one window, the next is read and prepared.

    >>> import torch
    >>> rows = (torch.full((4,), float(i)) for i in range(1000))
    >>> predictor = BatchPredictor(torch.nn.Linear(4, 3), sample=torch.rand(2, 4))
    >>> sum(1 for answer in predictor.predict(rows))
    1000

    Args:
        predictor: a Predictor, a torch module or a backend.
        device: device of a module, as for `Predictor`.
        batch_size: maximum rows per run; default: 32.
        max_batch_size: alias of `batch_size`.
        window_batches: batches per window; up to three windows are in memory.
        progress: show a progress bar with rate and remaining time on standard error.
        overhead: cost of starting a run, in padded elements. It decides which rows of different lengths run together. None:
            from the predictor's cost curve, otherwise a value measured with MiniLM.
        predictor_options: options of the Predictor that is created from a module: `sample`, `preprocess`, `postprocess`.
            Without `sample`, the model is probed with the first two items.

    Raises:
        ConfigError: a setting is out of its range.
    """

    def __init__(
        self,
        predictor: Predictor | nn.Module | Backend,
        device: str | torch.device = "auto",
        *,
        batch_size: int | None = None,
        max_batch_size: int | None = None,
        window_batches: int = 16,
        progress: bool = False,
        overhead: float | None = None,
        **predictor_options: Any,
    ) -> None:
        rows = one_of("batch_size", batch_size, "max_batch_size", max_batch_size, default=None)
        rows = DEFAULT_ROWS if rows is None else rows
        for name, value in (("batch_size", rows), ("window_batches", window_batches)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if isinstance(predictor, Predictor) and predictor_options:
            name = next(iter(predictor_options))
            raise ConfigError(
                f"option {name!r} is for a module; with a Predictor, the options are "
                "batch_size, window_batches, progress, overhead"
            )
        self._predictor = as_predictor(predictor, device, **predictor_options)
        self.max_batch_size = rows
        """Maximum rows per run."""

        cost = self._predictor.cost
        known = TokenCost(cost if cost is not None and cost.unit == "tokens" else None).overhead
        self.overhead = known if overhead is None else overhead
        """Cost of starting a run, in padded elements."""

        self._window_rows = rows * window_batches
        self._progress = progress

    def predict(self, items: Iterable[Any], *, total: int | None = None) -> Iterator[Any]:
        """Yield one answer per item, in order.

        Args:
            items: items for `preprocess`. Without it, rows: arrays or tensors `[...]` without dimension 0, or dicts of them.
            total: number of items, for the remaining time; default: `len(items)`, if it has a length.

        Yields:
            The answer of `predictor.predict` to the item: tensors for tensors.

        Raises:
            ItemError: an item could not be prepared, or the model raised on it. The answers to all earlier items are yielded
                first. The same holds if `items` itself raises; its error is raised unchanged.
            SignatureError: `items` is one string, or a dict of columns.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        reader = _ItemReader(items)
        first = reader.peek(SAMPLE_ITEMS)
        if not first:
            if reader.error is not None:
                raise reader.error
            return
        self._learn_from(first)
        has_tensors = holds_tensors(first[0])
        with closing(self._outputs(reader)) as batches, _progress_bar(total, shown=self._progress) as advance:
            for outputs in batches:
                yield from self._predictor.answers(outputs, as_tensors=has_tensors)
                advance(num_rows(outputs))

    def predict_batch(self, items: Iterable[Any]) -> Any:
        """Return the outputs of all items, concatenated in order, in the structure that the model itself returns.

        Args:
            items: as for `predict`; all are in memory at the same time.

        Returns:
            Tensors on the CPU for tensors, otherwise arrays; each `[items, ...]`. With `postprocess`: a list, one answer per
            item.

        Raises:
            SignatureError: there are no items, or they are one string or a dict of columns.
            ItemError: an item could not be prepared, or the model raised on it.
            UnsupportedError: the outputs of items differ in shape, such as one vector per token: use `predict`.
        """
        rows = list(each_item(items))
        if not rows:
            raise SignatureError("the list of items is empty; give at least 1")
        if self._predictor.has_postprocess:
            return list(self.predict(rows))
        self._learn_from_all(rows)
        return self._predictor.backend.restore(concatenated(self._batches_of(rows)))

    def predict_each(self, items: Iterable[Any]) -> list[Any]:
        """Return the answers of `predict` as a list, with a fast path for tensors that may share a batch.

        Raises:
            SignatureError: `items` is one string, or a dict of columns.
            ItemError: an item could not be prepared, or the model raised on it.
        """
        rows, predictor = list(each_item(items)), self._predictor
        if not rows or predictor.has_preprocess or not holds_tensors(rows[0]):
            return list(self.predict(rows))
        self._learn_from_all(rows)
        answers: list[Any] = []
        for outputs in self._batches_of(rows):
            answers.extend(predictor.row_answers(without_inference_tensors(outputs)))
        return answers

    def _batches_of(self, rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Return the outputs of rows, in order, in batches."""
        if not self._predictor.has_preprocess:
            with suppress(SignatureError, ModelError):  # the general path names the invalid row
                stacked = run_stacked(self._predictor, rows, self.max_batch_size)
                if stacked is not None:
                    return stacked
        batches = list(self._outputs(_ItemReader(rows)))
        if self._predictor.has_preprocess or not holds_tensors(rows[0]):
            return batches
        return [as_tensors(outputs) for outputs in batches]

    def _outputs(self, reader: _ItemReader) -> Generator[Batch]:
        """Yield the outputs of items in order, of one or more rows each.

        Raises:
            ItemError: an item could not be prepared, or the model raised on it.
        """
        with self._threads() as (preparing, device):
            send = partial(self._send, device=device, until_error=True)
            for window in _send_ahead(reader.windows(self._window_rows), send, preparing):
                for outputs in self._outcomes(window, device):
                    if isinstance(outputs, ItemError):
                        raise outputs
                    yield outputs
        if reader.error is not None:
            raise reader.error

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield the answers of each window. Windows are batched separately, so that answers do not depend on other windows.

        Two windows are read, prepared and run ahead of the consumed one. An invalid item does not affect the answers to other
        items. Windows of equal items run in equal batches. A text that occurs more than once in a window runs once, if the
        model gives equal answers to equal items.

        Args:
            windows: lists of items, as for `predict`; they may be empty. The model must be known from a sample or from
                `Predictor.learn_from`.

        Yields:
            The backend's outputs for each window, in order, not postprocessed.

        Raises:
            UnsupportedError: the model's inputs are not known yet.
            DeviceLostError: the device is lost; later runs fail, too.
        """
        sent: deque[list[int]] = deque()

        def distinct() -> Iterator[tuple[int, Sequence[Any]]]:
            for items in windows:
                some, places = (
                    _without_repeats(items) if self._predictor.signature.repeatable else (items, [*range(len(items))])
                )
                sent.append(places)
                yield 0, some

        with self._threads() as (preparing, device):
            send = partial(self._send, device=device, until_error=False)
            for window in _send_ahead(distinct(), send, preparing):
                rows = [row for outputs in self._outcomes(window, device) for row in _one_by_one(outputs)]
                places = sent.popleft()
                yield WindowAnswers(_repeat_rows(rows, places), window.elements, window.padding, len(places) - len(rows))

    @contextmanager
    def _threads(self) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        """Return a context that owns the preparing thread and the running threads."""
        preparing = ThreadPoolExecutor(1, "nograd-prepare")
        device = ThreadPoolExecutor(self._predictor.lanes, "nograd-device")
        try:
            yield preparing, device
        finally:
            preparing.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _learn_from_all(self, rows: Sequence[Any]) -> None:
        """Probe the model unless it is known. Comparing the layouts of all rows would take as long as a small model."""
        predictor = self._predictor
        if not predictor.is_probed or not predictor.signature.outputs:
            self._learn_from(rows[:SAMPLE_ITEMS] if predictor.has_preprocess else _rows_to_probe(rows))

    def _learn_from(self, items: Sequence[Any]) -> None:
        """Probe the model; with the first item only if a later one is invalid, which is reported when its turn comes."""
        try:
            self._predictor.learn_from(items)
        except NogradError:
            try:
                self._predictor.learn_from(items[:1])
            except SignatureError as error:
                try:
                    self._predictor.learn_from(items[:1], or_run_singly=True)
                except NogradError:
                    raise ItemError(f"item 0: {error}", 0) from error

    def _send(self, start: int, items: Sequence[Any], *, device: ThreadPoolExecutor, until_error: bool) -> _Window:
        """Prepare a window and queue its runs, in the preparing thread."""
        parts = self._prepare(items, start, until_error=until_error)
        signature = self._predictor.signature
        good = {position: part for position, part in enumerate(parts) if not isinstance(part, ItemError)}
        places, chosen = list(good), list(good.values())
        runs: dict[int, tuple[Future[list[Batch | NogradError]], int]] = {}
        elements, padding = 0, 0.0
        for group in plan(chosen, signature, self.max_batch_size, overhead=self.overhead) if chosen else []:
            together = [chosen[position] for position in group]
            future = device.submit(_run, together, self._predictor)
            runs.update({places[position]: (future, place) for place, position in enumerate(group)})
            if signature.lengths:
                rows, lengths = [num_rows(part) for part in together], [sum(signature.sizes_of(part)) for part in together]
                share, real = padding_share(rows, lengths), sum(map(mul, rows, lengths))
                elements, padding = elements + real, padding + real * share / (1 - share)
        return _Window(start, parts, runs, elements, padding)

    def _prepare(self, items: Sequence[Any], start: int, *, until_error: bool) -> list[Batch | ItemError]:
        """Return the parts of the window: many rows each if they stack, otherwise one row each, or its error."""
        if items and not self._predictor.has_preprocess and self._predictor.signature.batching != "alone":
            try:
                return [*chunks(self._predictor.check(stacked(items)), self.max_batch_size)]
            except (SignatureError, ValueError):
                pass  # rows of several lengths, or an invalid row: prepare them one by one
        parts: list[Batch | ItemError] = []
        for index, item in enumerate(items, start):
            try:
                parts.append(self._predictor.prepare_item(item, index))
            except ItemError as error:
                parts.append(error)
                if until_error:
                    break
        return parts

    def _outcomes(self, window: _Window, device: ThreadPoolExecutor) -> Iterator[Batch | ItemError]:
        """Yield outputs of one or more rows in order; an item that failed is represented by its error."""
        index = window.start
        for position, part in enumerate(window.parts):
            if isinstance(part, ItemError):
                yield part
                index += 1
                continue
            run, place = window.runs[position]
            pieces = [run.result()[place]]
            if isinstance(pieces[0], NogradError) and num_rows(part) > 1:  # find the row that failed
                rows = split(part, [1] * num_rows(part))
                pieces = device.submit(_run, rows, self._predictor).result()
            for outputs in pieces:
                yield _item_error(outputs, index) if isinstance(outputs, NogradError) else outputs
                index += 1 if isinstance(outputs, NogradError) else num_rows(outputs)


def _rows_to_probe(rows: Sequence[Any]) -> list[Any]:
    """Return two rows to probe with: the first row, and one of another layout if there is one."""
    layout = _layout(rows[0])
    other = next((row for row in rows[1:] if _layout(row) != layout), None)
    return [rows[0], *(rows[1:SAMPLE_ITEMS] if other is None else [other])]


def _layout(row: Any) -> Any:
    if isinstance(row, Mapping):
        return [(name, _layout(value)) for name, value in row.items()]
    if isinstance(row, tuple):
        return list(map(_layout, row))
    return len(row) if isinstance(row, list) else tuple(getattr(row, "shape", ()))


def _send_ahead(
    windows: Iterable[tuple[int, Sequence[Any]]], send: Callable[[int, Sequence[Any]], _Window], preparing: ThreadPoolExecutor
) -> Iterator[_Window]:
    """Yield queued windows in order, `WINDOWS_AHEAD` windows after they were read."""
    ahead: deque[Future[_Window]] = deque()
    for start, items in windows:
        ahead.append(preparing.submit(send, start, items))
        if len(ahead) > WINDOWS_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _item_error(error: NogradError, index: int) -> ItemError:
    named = ItemError(f"item {index}: {error}", index)
    named.__cause__ = error
    return named


def _one_by_one(outputs: Batch | ItemError) -> list[Batch | ItemError]:
    return [outputs] if isinstance(outputs, ItemError) else [*split(outputs, [1] * num_rows(outputs))]


def _without_repeats(items: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """Return the items without repeated texts, and for each item its position among the remaining ones."""
    left: list[Any] = []
    places: list[int] = []
    first: dict[str, int] = {}
    for item in items:
        place = first.setdefault(item, len(left)) if type(item) is str else len(left)
        if place == len(left):
            left.append(item)
        places.append(place)
    return left, places


def _repeat_rows(rows: list[Batch | ItemError], places: Sequence[int]) -> list[Batch | ItemError]:
    """Return a row for each position. Repeated rows are copies, because the caller may write to them."""
    if len(places) == len(rows):
        return rows
    taken: set[int] = set()
    spread: list[Batch | ItemError] = []
    for place in places:
        row = rows[place]
        is_again = place in taken and not isinstance(row, ItemError)
        spread.append({name: array.copy() for name, array in row.items()} if is_again else row)  # type: ignore[union-attr]
        taken.add(place)
    return spread


def _run(parts: Sequence[Batch], predictor: Predictor) -> list[Batch | NogradError]:
    return run_apart(parts, predictor.run, predictor.signature).answers


class _ItemReader:
    """Reads the caller's items. An error of the iterator is raised after the answers to earlier items are delivered."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = each_item(items)
        self.error: Exception | None = None

    def read(self, count: int) -> list[Any]:
        """Return at most `count` next items; none at the end."""
        found: list[Any] = []
        try:
            found.extend(islice(self._items, count))
        except Exception as error:  # noqa: BLE001  the items are the caller's code, and the caller gets it
            self._items, self.error = iter(()), error
        return found

    def windows(self, rows: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield the items in windows, with the position of the first."""
        start = 0
        while window := self.read(rows):
            yield start, window
            start += len(window)

    def peek(self, count: int) -> list[Any]:
        """Return the next items without consuming them."""
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
