"""Measurement of a model's cost curve before it serves, so that the first request does not pay for one-time work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from nograd.batching.collate import join
from nograd.core.cost import CostCurve
from nograd.core.tensors import Array, Batch, Signature
from nograd.errors import NogradError

__all__ = ["measure_cost", "warm_up"]

BUDGET_S = 5.0
"""Seconds for running larger and larger batches; sizes that do not fit in are skipped."""

REPEATS = 5

SIZE_S = 0.005
"""Minimum seconds per size; tiny models repeat more often, because a busy machine may disturb all of five short runs."""

LONGER = (4, 16)
"""Factors of longer rows to measure if lengths vary."""


class Measurable(Protocol):
    """An object to measure; `nograd.Predictor` implements it."""

    @property
    def signature(self) -> Signature:
        """Signature of the parts that `run` takes."""
        ...

    @property
    def example_part(self) -> Batch:
        """One checked row."""
        ...

    def run(self, batch: Batch) -> Batch:
        """Run one batch, blocking."""
        ...


def measure_cost(
    runner: Measurable, part: Batch | None = None, max_batch_size: int = 32, *, budget_s: float = BUDGET_S
) -> CostCurve:
    """Measure the run time of a part at 1, 2, 4, ... rows, and of longer rows if lengths vary.

    Args:
        runner: the model; it is warm afterwards.
        part: one checked row; None: the predictor's own example.
        max_batch_size: rows of the largest batch.
        budget_s: approximate time limit in seconds.

    Returns:
        Seconds by rows, or by padded elements if lengths vary.

    Raises:
        NogradError: the model cannot run the part.
    """
    begun = time.perf_counter()
    part = runner.example_part if part is None else part
    runner.run(part)
    times = _by_rows(runner, part, max_batch_size, begun + budget_s)
    lengths = runner.signature.lengths
    if not lengths:
        return CostCurve.fit({rows: [found] for rows, found in times.items()})
    own = sum(runner.signature.sizes_of(part))
    by_tokens = {rows * own: [found] for rows, found in times.items()}
    if len(lengths) == 1:
        for factor in LONGER:
            longer = _lengthened(part, runner.signature, own * factor)
            if longer is None or time.perf_counter() - begun + 2 * REPEATS * factor * times[1] > budget_s:
                break
            try:
                found = min(_times_s(runner.run, longer))
            except NogradError:  # beyond a size limit that was not known
                break
            by_tokens.setdefault(own * factor, []).append(found)
    return CostCurve.fit(by_tokens, unit="tokens")


def warm_up(runner: Measurable, part: Batch, curve: CostCurve, max_batch_size: int) -> None:
    """Run a part alone and in the largest measured and allowed batch, so that one-time work happens now.

    Raises:
        NogradError: the model cannot run the part.
    """
    runner.run(part)
    own = max(1, sum(runner.signature.sizes_of(part))) if curve.unit == "tokens" else 1
    rows = min(max_batch_size, curve.max_size // own)
    if rows > 1 and runner.signature.batching != "alone":
        runner.run(join([part] * rows, runner.signature))


def _by_rows(runner: Measurable, part: Batch, max_batch_size: int, until: float) -> dict[int, float]:
    times: dict[int, float] = {}
    rows, last_s = 1, 0.0
    while rows <= max_batch_size and (not times or time.perf_counter() + 2 * REPEATS * last_s < until):
        last_s = times[rows] = min(_times_s(runner.run, join([part] * rows, runner.signature)))
        rows = max_batch_size if rows < max_batch_size < 2 * rows else 2 * rows
        if runner.signature.batching == "alone":
            break
    return times


def _lengthened(part: Batch, signature: Signature, length: int) -> Batch | None:
    """Return the part with its varying dimension repeated up to a length; None beyond the model's limit."""
    (name,) = signature.lengths
    if length != signature.allowed_size(name, length):
        return None
    return {spec.name: _repeated(part[spec.name], spec.shape, length) for spec in signature.inputs}


def _repeated(array: Array, shape: tuple[int | str, ...], length: int) -> Array:
    for axis, size in enumerate(shape, start=1):
        if isinstance(size, str):
            array = np.take(array, np.arange(length) % array.shape[axis], axis)
    return np.ascontiguousarray(array)


def _times_s(run: Callable[[Batch], Batch], batch: Batch) -> list[float]:
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < SIZE_S:
        begun = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - begun)
    return times
