"""The smallest and largest size of each varying dimension.

A size counts as refused only if the model raises for every tried form of the sample. If the model reads further into a table
with each step of the dimension, the table's end is tried: one run at the end and one beyond it are sufficient. Without a table,
a large size is tried; if the model refuses it, bisection finds the limit. All runs have one row and are bounded (see `work`).

A model that runs beyond its table, because its code clamps the index, has no limit. If two dimensions share a limit (height
times width), the limit of each is found with the other at its smallest size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nograd.errors import SignatureError
from nograd.probing.dims import Dim
from nograd.probing.runs import ProbeRuns
from nograd.probing.samples import Tensors, only_row, resized
from nograd.probing.tables import TableRead, furthest
from nograd.probing.work import BoundedWork, OverBudget
from nograd.runtime.device_errors import is_out_of_memory

__all__ = ["SizeLimits", "find_size_limits"]

LEAST_WORK, MOST_WORK = 2**22, 2**25
"""Limits of a bounded run's work in elements: some milliseconds, and 50 ms or 128 MB. If the sample needs more: twice the
sample's work.
"""

MOST_RUNS = 8
"""Total work of all bounded runs of a dimension, in runs; sizes that were not tried count as accepted."""

FAR_SIZE, FAR_FACTOR = 1024, 16
"""Without a table, limits are searched up to this size, and up to this multiple of the sample's."""

MOST_INPUT = 2**24
"""Maximum elements of a tried row."""

MOST_TABLES = 4
"""Maximum number of tables to try, smallest first."""


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The limits found, by dimension; dimensions without an entry have no known limit."""

    smallest: dict[str, int]
    """Only sizes above 1."""

    largest: dict[str, int]

    tried: dict[str, int]
    """Largest size that the model answered, of a dimension without an entry in `largest`."""


def find_size_limits(runs: ProbeRuns, sample: Tensors, samples: Sequence[Tensors], dims: Sequence[Dim]) -> SizeLimits:
    """Return the limits of the varying dimensions.

    Args:
        runs: runs a model that gives equal answers to equal inputs.
        sample: inputs that it runs.
        samples: all samples of the user, which it also runs.
        dims: the varying dimensions.
    """
    found = SizeLimits({}, {}, {})
    for dim in dims:
        trials = _SizeTrials(runs, sample, dim, [each for each in dims if each is not dim])
        half = dim.size - dim.size // 2
        other = next((size for size in (half, dim.near) if size != dim.size and not trials.refuses(size)), None)
        if not trials.can_observe or other is None:
            continue  # refusals are meaningless if the model does not run the sample at any other size
        name, axis = dim.places[0]
        search = _LimitSearch(trials, dim, [dim.size, *(each[name].shape[axis] for each in samples)], other)
        if (smallest := search.smallest()) > 1:
            found.smallest[dim.name] = smallest
        if (largest := search.largest()) is not None:
            found.largest[dim.name] = largest
        else:
            found.tried[dim.name] = trials.largest_that_ran()
    return found


class _SizeTrials:
    """Runs one row with a dimension at other sizes, each size once."""

    def __init__(self, runs: ProbeRuns, sample: Tensors, dim: Dim, others: Sequence[Dim]) -> None:
        self._runs, self._dim, self._others = runs, dim, tuple(others)
        self._refused = {dim.size: False}
        self._answered = {dim.size}
        self._is_cut = False
        self._reads: dict[int, list[TableRead]] = {}
        self._budget: int | None = None
        for self._sample in (only_row(sample, 0), sample):
            watch = BoundedWork()
            self.can_observe = self._runs_in(watch, self._sample)
            """Whether the model runs while its operations are counted."""

            if self.can_observe:
                break
        self._budget = budget = max(2 * watch.work, min(16 * watch.work, MOST_WORK), LEAST_WORK)
        self._left = MOST_RUNS * budget
        self._reads[dim.size] = watch.reads

    def reads_at(self, size: int) -> list[TableRead]:
        """Return the look-ups of the run at a tried size."""
        return self._reads.get(size, [])

    def elements_at(self, size: int) -> int:
        """Return the elements of the row at this size."""
        return sum(tensor.numel() for tensor in self._sample.values()) * size // self._dim.size

    def refuses(self, size: int) -> bool:
        """Return whether the model is known to raise at this size, for every form of the sample."""
        if size not in self._refused and self._left <= 0:
            return False
        if size not in self._refused:
            self._refused[size] = not any(self._runs_at(size, form) for form in self._forms(size))
        return self._refused[size]

    def largest_that_ran(self) -> int:
        """Return the largest size that the model answered; runs that the budget ended do not count."""
        return max(self._answered)

    def _runs_at(self, size: int, form: Tensors) -> bool:
        watch = BoundedWork(self._budget)
        runs = self._runs_in(watch, form)
        if runs and not self._is_cut:
            self._answered.add(size)
        self._left -= watch.work if self._budget is None else min(watch.work, self._budget)
        self._reads[size] = watch.reads
        return runs

    def _runs_in(self, watch: BoundedWork, inputs: Tensors) -> bool:
        """Return whether the model runs, as far as the budget allows to see; `_is_cut` says that it did not."""
        self._is_cut = False
        try:
            with watch:
                self._runs.outputs(inputs)
        except OverBudget:  # while the outputs were copied
            self._is_cut = True
        except SignatureError as error:
            cause = error.__cause__
            self._is_cut = isinstance(cause, OverBudget) or (cause is not None and is_out_of_memory(cause))
            return self._is_cut
        return True

    def _forms(self, size: int) -> Iterator[Tensors]:
        """Yield forms of the sample at this size that a model may accept.

        The end of a row may have a meaning (an end token), another input may contain the length or an index into the row, and a
        limit shared with another dimension depends on that dimension's size.
        """
        resize: list[Callable[[Tensors], Tensors]] = [lambda tensors: resized(tensors, self._dim.places, size)]
        if size < self._dim.size:
            resize.append(lambda tensors: _ends(tensors, self._dim, size))
        for change in resize:
            yield change(self._sample)
            if size < self._dim.size and (integers := self._integers_elsewhere()):
                for most in (size, size - 1):
                    yield {**change(self._sample), **{name: self._sample[name].clamp(max=most) for name in integers}}
        for others in self._sizes_of_others(larger=size < self._dim.size):
            changed = self._sample
            for other, other_size in others.items():
                changed = resized(changed, self._others[other].places, other_size)
            yield resize[0](changed)

    def _sizes_of_others(self, *, larger: bool) -> Iterator[dict[int, int]]:
        """Yield sizes of the other dimensions, by index: each alone, then all at their extremes."""
        sizes = [_sizes(other, larger=larger) for other in self._others]
        for index, each in enumerate(sizes):
            yield from ({index: size} for size in each)
        if len(sizes) > 1:
            yield {index: each[-1] for index, each in enumerate(sizes) if each}

    def _integers_elsewhere(self) -> list[str]:
        inside = {name for name, _ in self._dim.places}
        return [name for name, tensor in self._sample.items() if name not in inside and _is_integer(tensor)]


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool


def _ends(sample: Tensors, dim: Dim, size: int) -> Tensors:
    """Return the sample cut at its start."""
    result = dict(sample)
    for name, axis in dim.places:
        result[name] = result[name].narrow(axis, result[name].shape[axis] - size, size)
    return result


def _sizes(dim: Dim, *, larger: bool) -> list[int]:
    if larger:
        return sorted({size for size in (dim.near, dim.far or 2 * dim.size) if size > dim.size})
    return sorted({size for size in (dim.near, dim.size // 2, 1) if 0 < size < dim.size}, reverse=True)


class _LimitSearch:
    """Searches the limits of one dimension, in steps that the model is known to accept."""

    def __init__(self, trials: _SizeTrials, dim: Dim, seen: Sequence[int], other: int) -> None:
        self._trials, self._dim, self._other = trials, dim, other
        self._low, self._high = min(*seen, dim.near, other), max(*seen, dim.near, dim.far or 0)
        is_next = abs(dim.near - dim.size) == 1 or not trials.refuses(dim.size + 1)
        self._step = 1 if is_next else abs(dim.near - dim.size)

    def smallest(self) -> int:
        """Return the smallest size that is not known to be refused."""
        low, step, refuses = self._low, self._step, self._trials.refuses
        if low == 1 or not refuses(1):
            return 1
        accepted = _last_accepted(lambda count: refuses(low - count * step), (low - 1) // step + 1)
        return max(1, low - (accepted + 1) * step + 1)

    def largest(self) -> int | None:
        """Return the largest size that is not known to be refused, if larger sizes are."""
        for end in self._ends_of_tables():
            if (found := self._around(end)) is not None:
                return found
        far = max(FAR_SIZE, FAR_FACTOR * self._dim.size)
        while far > self._high and self._trials.elements_at(far) > MOST_INPUT:
            far //= 2
        steps = (far - self._high) // self._step
        return self._below(steps) if steps > 0 and self._is_refused(steps) else None

    def _is_refused(self, steps: int) -> bool:
        return self._trials.refuses(self._high + steps * self._step)

    def _below(self, refused: int) -> int:
        accepted = _last_accepted(self._is_refused, refused)
        return self._high + (accepted + 1) * self._step - 1

    def _around(self, end: float) -> int | None:
        """Return the limit near the end of a table; None if the model also runs beyond it."""
        below = int(end - self._high) // self._step
        is_exact = end == int(end)
        refused = below + 1 if is_exact else below + 2 + 2 * self._dim.size // self._step
        if not self._is_refused(refused):
            return None
        return int(end) if is_exact and not (below and self._is_refused(below)) else self._below(refused)

    def _ends_of_tables(self) -> Sequence[float]:
        """Return the sizes at which the model would read the last entry of a table, ascending.

        The last read entry grows with the size; runs at two sizes determine the rate.
        """
        size, other = self._dim.size, self._other
        ends = {float(self._dim.max_size)} if self._dim.max_size is not None else set()
        reads = furthest(self._trials.reads_at(other))
        for entries, last in furthest(self._trials.reads_at(size)).items():
            if entries in reads and (rate := (last - reads[entries]) / (size - other)) > 0:
                ends.add(size + (entries - 1 - last) / rate)
        return sorted(end for end in ends if end >= self._high)[:MOST_TABLES]


def _last_accepted(is_refused: Callable[[int], bool], refused: int) -> int:
    """Return the count before the first refused one, by bisection; 0 is accepted, and `refused` is not."""
    low, high = 0, refused
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_refused(middle) else (middle, high)
    return low
