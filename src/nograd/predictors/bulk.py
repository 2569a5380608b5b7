"""BatchPredictor: a stream of items in, a stream of answers out, in order, in bounded memory."""

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
from nograd.core.inputs import each_item, holds_tensors, stacked
from nograd.core.tensors import Batch, num_rows, split
from nograd.errors import ConfigError, ItemError, ModelError, NogradError, SignatureError
from nograd.predictors.as_predictor import as_predictor
from nograd.predictors.calls import as_tensors
from nograd.predictors.predictor import Predictor
from nograd.predictors.rows import concatenated, owned, run_stacked

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["BatchPredictor", "WindowAnswers"]

DEFAULT_ROWS = 32

SAMPLE_ITEMS = 2
"""Items that teach the signature where no sample was given."""

WINDOWS_AHEAD = 2
"""Windows that are prepared or run while the caller takes the answers of the one before."""


@dataclass(frozen=True, slots=True)
class WindowAnswers:
    """What became of the items of one window."""

    rows: list[Batch | ItemError]
    """For each item, in order, its outputs by name, `[1, ...]`; or why it has none, with its place in the window."""

    elements: int
    """Of the runs, padding left out: rows x length, summed; 0 for models whose rows are all of one length."""

    padding: float
    """Of the runs: elements that were padding."""

    repeats: int = 0
    """Items that were not run: texts that stand earlier in the window, too, and have the answer of those."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of the input on its way through the device: its parts in order, and each part's run."""

    start: int
    """Position of its first item in the input."""

    parts: list[Batch | ItemError]
    """An item that could not be prepared is its error."""

    runs: dict[int, tuple[Future[list[Batch | NogradError]], int]]
    """For each part the run that it is in, and its place there."""

    elements: int = 0
    padding: float = 0.0


class BatchPredictor:
    """Predicts over any number of items.

    Items are gathered in windows, sorted by length within each, run in batches, and given back in the order they came in.
    While the device runs one window, the next is read and prepared.

    >>> import torch
    >>> rows = (torch.full((4,), float(i)) for i in range(1000))
    >>> predictor = BatchPredictor(torch.nn.Linear(4, 3), sample=torch.rand(2, 4))
    >>> sum(1 for answer in predictor.predict(rows))
    1000

    Args:
        predictor: a Predictor, or what one is made of: a torch module or a backend.
        device: of a module, as for `Predictor`.
        batch_size: rows in one run, at most; default: 32.
        max_batch_size: `batch_size` under its longer name.
        window_batches: batches sorted together; memory holds three windows.
        progress: shows a bar with the rate and the time left, on standard error.
        overhead: what starting a run costs, in padded elements: where rows differ in length, that decides which of a window run
            together. None: what the predictor's cost curve says, else what was measured for MiniLM.
        predictor_options: for the Predictor that is made of a module: `sample`, `preprocess`, `postprocess`.
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
        """Rows in one run, at most."""

        cost = self._predictor.cost
        known = TokenCost(cost if cost is not None and cost.unit == "tokens" else None).overhead
        self.overhead = known if overhead is None else overhead
        """What starting a run costs, in padded elements."""

        self._window_rows = rows * window_batches
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
        has_tensors = holds_tensors(first[0])
        with closing(self._outputs(reader)) as batches, _progress_bar(total, shown=self._progress) as advance:
            for outputs in batches:
                yield from self._predictor.answers(outputs, as_tensors=has_tensors)
                advance(num_rows(outputs))

    def predict_batch(self, items: Iterable[Any]) -> Any:
        """Return the outputs of all items, concatenated in order, in the structure that the model itself returns.

        Args:
            items: as for `predict`; all are held in memory.

        Returns:
            Tensors on the CPU for tensors, else arrays; each `[items, ...]`. With `postprocess`: a list, one answer per item.

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
        """Return the answers of `predict` as a list; tensors that may share a batch take a shorter way there.

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
            answers.extend(predictor.row_answers(owned(outputs)))
        return answers

    def _batches_of(self, rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Return the outputs of rows, in order, in batches."""
        if not self._predictor.has_preprocess:
            with suppress(SignatureError, ModelError):  # the longer way names the row that is wrong
                stacked = run_stacked(self._predictor, rows, self.max_batch_size)
                if stacked is not None:
                    return stacked
        batches = list(self._outputs(_Reader(rows)))
        if self._predictor.has_preprocess or not holds_tensors(rows[0]):
            return batches
        return [as_tensors(outputs) for outputs in batches]

    def _outputs(self, reader: _Reader) -> Generator[Batch]:
        """Yield the outputs of items in order, of one or more rows each.

        Raises:
            ItemError: an item could not be prepared, or the model raised on it.
        """
        with self._threads() as (preparing, device):
            send = partial(self._send, device=device, until_error=True)
            for window in _ahead(reader.windows(self._window_rows), send, preparing):
                for outputs in self._outcomes(window, device):
                    if isinstance(outputs, ItemError):
                        raise outputs
                    yield outputs
        if reader.error is not None:
            raise reader.error

    def run_windows(self, windows: Iterable[Sequence[Any]]) -> Generator[WindowAnswers]:
        """Yield what became of each window: a window is batched for itself, so that its answers depend on nothing else.

        Two windows more than were taken are read, prepared and run ahead. A bad item costs nobody else its answer.
        Windows of equal items are run in equal batches, whatever comes before and behind them. A text that stands in a window
        more than once is run once, where the model gives equal answers to equal items.

        Args:
            windows: items each, as `predict` takes them; one may be empty. The predictor must know the model: by a sample, or
                by `Predictor.learn_from`.

        Yields:
            One for each window, in order: outputs as the backend gives them, not postprocessed.

        Raises:
            UnsupportedError: nothing is known of the model yet.
            DeviceLostError: no run will succeed any more.
        """
        sent: deque[list[int]] = deque()

        def distinct() -> Iterator[tuple[int, Sequence[Any]]]:
            for items in windows:
                some, places = _once(items) if self._predictor.signature.repeatable else (items, [*range(len(items))])
                sent.append(places)
                yield 0, some

        with self._threads() as (preparing, device):
            send = partial(self._send, device=device, until_error=False)
            for window in _ahead(distinct(), send, preparing):
                rows = [row for outputs in self._outcomes(window, device) for row in _one_by_one(outputs)]
                places = sent.popleft()
                yield WindowAnswers(_spread(rows, places), window.elements, window.padding, len(places) - len(rows))

    @contextmanager
    def _threads(self) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
        """Own the thread that prepares, and those that run."""
        preparing = ThreadPoolExecutor(1, "nograd-prepare")
        device = ThreadPoolExecutor(self._predictor.lanes, "nograd-device")
        try:
            yield preparing, device
        finally:
            preparing.shutdown(cancel_futures=True)
            device.shutdown(cancel_futures=True)

    def _learn_from_all(self, rows: Sequence[Any]) -> None:
        """Teach the predictor, unless it is taught: comparing the layouts of all rows takes as long as a small model does."""
        predictor = self._predictor
        if not predictor.is_probed or not predictor.signature.outputs:
            self._learn_from(rows[:SAMPLE_ITEMS] if predictor.has_preprocess else _unlike(rows))

    def _learn_from(self, items: Sequence[Any]) -> None:
        """Teach the predictor, of the first item alone where a later one is bad: that one fails when its turn comes."""
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
        """Prepare a window and queue its runs; in the preparing thread."""
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
        """Return the window as parts: many rows each where they stack, else one row each, or its error."""
        if items and not self._predictor.has_preprocess and self._predictor.signature.batching != "alone":
            try:
                return [*chunks(self._predictor.check(stacked(items)), self.max_batch_size)]
            except (SignatureError, ValueError):
                pass  # rows of several lengths, or a bad one among them: take them one by one
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
        """Yield outputs in order, of one or more rows; an item's error in its place."""
        index = window.start
        for position, part in enumerate(window.parts):
            if isinstance(part, ItemError):
                yield part
                index += 1
                continue
            run, place = window.runs[position]
            pieces = [run.result()[place]]
            if isinstance(pieces[0], NogradError) and num_rows(part) > 1:  # which of its rows was it?
                rows = split(part, [1] * num_rows(part))
                pieces = device.submit(_run, rows, self._predictor).result()
            for outputs in pieces:
                yield _named(outputs, index) if isinstance(outputs, NogradError) else outputs
                index += 1 if isinstance(outputs, NogradError) else num_rows(outputs)


def _unlike(rows: Sequence[Any]) -> list[Any]:
    """Return two rows to probe with: the first, and one of another layout if there is one."""
    layout = _layout(rows[0])
    other = next((row for row in rows[1:] if _layout(row) != layout), None)
    return [rows[0], *(rows[1:SAMPLE_ITEMS] if other is None else [other])]


def _layout(row: Any) -> Any:
    if isinstance(row, Mapping):
        return [(name, _layout(value)) for name, value in row.items()]
    if isinstance(row, tuple):
        return list(map(_layout, row))
    return len(row) if isinstance(row, list) else tuple(getattr(row, "shape", ()))


def _ahead(
    windows: Iterable[tuple[int, Sequence[Any]]], send: Callable[[int, Sequence[Any]], _Window], preparing: ThreadPoolExecutor
) -> Iterator[_Window]:
    """Yield the windows sent, in order, `WINDOWS_AHEAD` of them later than they were read."""
    ahead: deque[Future[_Window]] = deque()
    for start, items in windows:
        ahead.append(preparing.submit(send, start, items))
        if len(ahead) > WINDOWS_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _named(error: NogradError, index: int) -> ItemError:
    named = ItemError(f"item {index}: {error}", index)
    named.__cause__ = error
    return named


def _one_by_one(outputs: Batch | ItemError) -> list[Batch | ItemError]:
    return [outputs] if isinstance(outputs, ItemError) else [*split(outputs, [1] * num_rows(outputs))]


def _once(items: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """Return the items without texts that stand there twice, and for each item its place among those left."""
    left: list[Any] = []
    places: list[int] = []
    first: dict[str, int] = {}
    for item in items:
        place = first.setdefault(item, len(left)) if type(item) is str else len(left)
        if place == len(left):
            left.append(item)
        places.append(place)
    return left, places


def _spread(rows: list[Batch | ItemError], places: Sequence[int]) -> list[Batch | ItemError]:
    """Return a row for each place; one that is there again is in memory of its own, which may be written to."""
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

    def windows(self, rows: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield the items in windows, with the position of the first."""
        start = 0
        while window := self.read(rows):
            yield start, window
            start += len(window)

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
