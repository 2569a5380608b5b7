"""Row coupling of any backend, measured by running it on plain arrays.

Two effects are distinguished. *Coupling*: other rows of a batch change a row's answer, at equal batch size and position. *Size
effect*: the batch size changes it: a row alone differs from the same row among copies of itself, because matrix libraries
choose kernels by size, and kernels round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from nograd.backends.companions import MIXED, kinds_for, make_row, random_target, stretched, with_companions
from nograd.core.differences import LargestDifference, largest_value, max_difference
from nograd.core.independence import Independence
from nograd.core.tensors import Batch, Signature, concat, cut_back
from nograd.errors import ModelError, SignatureError

__all__ = [
    "QUICK",
    "accept_coupling",
    "how_to_batch",
    "measure_independence",
    "measured_signature",
    "with_independence",
    "without_independence",
]

QUICK = 12
"""Number of compared batches while a user waits: each kind of companion twice."""

TOLERANCE = 1e-3
"""Largest difference between two runs of one batch, relative to the output's largest value, for a model without state."""

BATCH_ROWS = (2, 3, 5)

Run = Callable[[Batch], Batch]


def how_to_batch(run: Run, sample: Batch, signature: Signature, *, precision: str = "float32", backend: str = "") -> Signature:
    """Return the signature with the measured batching: rows batch freely, only at equal lengths, or not at all.

    Args:
        run: runs a checked batch.
        sample: a checked batch.
        signature: the model's signature.
        precision: precision of the arithmetic; it sets the tolerance.
        backend: name of the backend.

    Raises:
        ModelError: the model cannot run the sample.
    """
    base = run(sample)
    if not _same(base, run(sample)):
        return _limited(signature, "the same input gave two different answers: the model keeps state between calls")
    try:
        run({name: np.concatenate([array[:1], array[:1]]) for name, array in sample.items()})
    except ModelError as error:
        return _limited(signature, f"two rows together do not run: {error}")
    if signature.lengths:
        names = " and ".join(signature.lengths)
        reason = f"rows do not influence each other; whether {names} may be padded is not known"
        free = replace(signature, batching="equal_lengths", reason=reason)
    else:
        free = replace(signature, batching="pad", reason="rows do not influence each other; all inputs have one fixed shape")
    found = measure_independence(run, [sample], free, precision=precision, backend=backend)
    if found is None:
        return _limited(signature, "one row alone, or a row next to others, does not run")
    return with_independence(free, found)


def measured_signature(
    run: Run, samples: Sequence[Batch], signature: Signature, *, precision: str = "float32", backend: str = ""
) -> Signature:
    """Return the signature with its measured independence, and with batching that respects it; unchanged if unmeasurable.

    Args:
        run: runs a checked batch.
        samples: checked batches.
        signature: the model's signature.
        precision: precision of the arithmetic; it sets the tolerance.
        backend: name of the backend.
    """
    if not signature.repeatable or not signature.outputs:
        return replace(signature, independence=None)
    found = measure_independence(run, samples, signature, precision=precision, backend=backend)
    return replace(signature, independence=None) if found is None else with_independence(signature, found)


def with_independence(signature: Signature, found: Independence) -> Signature:
    """Return the signature with a measured independence. Coupled rows run alone unless the user accepted the coupling."""
    if not found.is_coupled:
        return replace(signature, independence=replace(found, batching_if_accepted=""))
    free = _batching_if_free(signature)
    found = replace(found, batching_if_accepted=free)
    if found.is_accepted:
        return accept_coupling(replace(signature, independence=found))
    reason = signature.reason if signature.batching == "alone" and signature.reason else found.fault()
    return replace(signature, batching="alone", reason=reason, independence=found)


def accept_coupling(signature: Signature) -> Signature:
    """Return the signature for a user who accepts coupled rows; unchanged if rows are independent."""
    found = signature.independence
    if found is None or not found.is_coupled or not found.batching_if_accepted:
        return signature
    reason = f"coupled rows are accepted: {found.fault()}"
    return replace(signature, batching=found.batching_if_accepted, reason=reason, independence=replace(found, is_accepted=True))


def without_independence(signature: Signature) -> Signature:
    """Return the signature without its measured independence, which is a property of one backend."""
    found = signature.independence
    if found is None:
        return signature
    inherited = replace(signature, independence=None)
    is_limited_by_it = found.is_coupled and signature.reason == found.fault()
    if found.batching_if_accepted and is_limited_by_it:
        return replace(inherited, batching=found.batching_if_accepted)
    return inherited


def _batching_if_free(signature: Signature) -> Literal["pad", "equal_lengths"]:
    if signature.batching != "alone":
        return signature.batching
    return "equal_lengths" if signature.lengths else "pad"


def measure_independence(  # noqa: PLR0913
    run: Run,
    samples: Sequence[Batch],
    signature: Signature,
    *,
    precision: str = "float32",
    backend: str = "",
    tolerance: float | None = None,
    num_batches: int = QUICK,
    batch_rows: Sequence[int] = BATCH_ROWS,
    seed: int = 0,
) -> Independence | None:
    """Measure the influence of a batch on one of its rows.

    Args:
        run: runs a checked batch; batches that it cannot run are skipped.
        samples: checked batches; their rows and a random one are tested among companions.
        signature: the model's signature; lengths are mixed if its batching is `pad`.
        precision: precision of the arithmetic, such as `bfloat16`; it sets the tolerances.
        backend: name of the backend.
        tolerance: maximum influence for rows to count as independent; default: `tolerance_for(precision)`.
        num_batches: number of batches to compare.
        batch_rows: numbers of rows to choose from for each batch.
        seed: random seed of values, positions and sizes.

    Returns:
        The measurement; None if no row could be compared, because the model runs no single row or no batch of several rows.
    """
    measuring = _Measurement(run, tuple(samples), signature, np.random.default_rng(seed))
    measuring.prepare()
    if not measuring.targets:
        return None
    kinds = kinds_for(signature)
    for index in range(num_batches):
        kind = kinds[index % len(kinds)] if index < 2 * len(kinds) or len(kinds) == 2 else MIXED
        measuring.compare(kind, kinds, batch_rows)
    if not measuring.num_batches:
        return None
    found = Independence(
        bound=measuring.bound.relative(),
        size_effect=measuring.size_effect.relative(),
        num_batches=measuring.num_batches,
        max_rows=measuring.max_rows,
        companions=measuring.bound.label(),
    ).measured_on(backend, precision)
    return found if tolerance is None else replace(found, tolerance=tolerance)


@dataclass(slots=True)
class _Measurement:
    """One measurement in progress."""

    run: Run
    samples: tuple[Batch, ...]
    signature: Signature
    rng: np.random.Generator
    targets: list[tuple[Batch, Batch]] = field(default_factory=list)
    """Rows under test, each with its answer alone."""

    copies: dict[tuple[int, int, tuple[int, ...]], Batch | None] = field(default_factory=dict)
    """(target, rows, sizes) -> the answers to a batch of copies of the target; None: the model cannot run it."""

    bound: LargestDifference = field(default_factory=LargestDifference)
    size_effect: LargestDifference = field(default_factory=LargestDifference)
    num_batches: int = 0
    max_rows: int = 1

    def prepare(self) -> None:
        """Collect the rows that run alone: the first and last of each sample, and a random one."""
        for target in self._candidates():
            alone = self._attempt(target)
            if alone is not None:
                self.targets.append((target, alone))

    def _candidates(self) -> Iterator[Batch]:
        for sample in self.samples:
            rows = len(next(iter(sample.values())))
            for row in sorted({0, rows - 1}):
                yield {name: np.ascontiguousarray(array[row : row + 1]) for name, array in sample.items()}
        yield random_target(self.samples[0], self.signature, self.rng)

    def _attempt(self, batch: Batch) -> Batch | None:
        try:
            return self.run(batch)
        except (ModelError, SignatureError):
            return None

    def compare(self, kind: str, kinds: Sequence[str], batch_rows: Sequence[int]) -> None:
        """Run a target among companions, and compare its answer with the one among copies of itself."""
        index = self.num_batches % len(self.targets)
        target, alone = self.targets[index]
        rows = int(self.rng.choice(batch_rows))
        sizes = self._sizes(target)
        place = int(self.rng.integers(rows))
        companions = [self._companion(kind, kinds, sizes) for _ in range(rows - 1)]
        among_copies = self._among_copies(index, rows, sizes)
        if among_copies is None:
            return
        given = self._attempt(with_companions(target, companions, place, self.signature))
        if given is None:
            return
        own = self._answer_of(among_copies, place, target)
        self.size_effect.note(alone, own)
        self.bound.note(own, self._answer_of(given, place, target), kind)
        self.num_batches += 1
        self.max_rows = max(self.max_rows, rows)

    def _companion(self, kind: str, kinds: Sequence[str], sizes: Mapping[str, int]) -> Batch:
        chosen = str(self.rng.choice(np.asarray(kinds))) if kind == MIXED else kind
        return stretched(make_row(self.samples, self.signature, chosen, self.rng), self.signature, sizes)

    def _sizes(self, target: Batch) -> dict[str, int]:
        """Return the lengths of the companions: the target's, or if rows may be padded, in half of the cases longer ones."""
        signature = self.signature
        own = dict(zip(signature.lengths, signature.sizes_of(target), strict=True))
        if signature.batching != "pad" or self.rng.random() < 0.5:
            return own
        return {
            name: max(size, min(size + int(self.rng.integers(1, size + 2)), signature.max_sizes.get(name, 2 * size + 1)))
            for name, size in own.items()
        }

    def _among_copies(self, index: int, rows: int, sizes: Mapping[str, int]) -> Batch | None:
        key = (index, rows, tuple(sizes.values()))
        if key not in self.copies:
            self.copies[key] = self._run_copies(self.targets[index][0], rows, sizes)
        return self.copies[key]

    def _run_copies(self, target: Batch, rows: int, sizes: Mapping[str, int]) -> Batch | None:
        longest = stretched(target, self.signature, sizes)
        padded = {name: array[:1] for name, array in concat([target, longest], self.signature.inputs).items()}
        return self._attempt({name: np.repeat(array, rows, axis=0) for name, array in padded.items()})

    def _answer_of(self, answers: Batch, place: int, target: Batch) -> Batch:
        """Return the answer of the row at a position, without padding."""
        signature = self.signature
        row = {name: array[place : place + 1] for name, array in answers.items()}
        own = dict(zip(signature.lengths, signature.sizes_of(target), strict=True))
        return cut_back(row, signature.outputs, own)


def _limited(signature: Signature, reason: str) -> Signature:
    return replace(signature, batching="alone", reason=reason)


def _same(expected: Batch, given: Batch) -> bool:
    return all(max_difference(array, given[name]) <= TOLERANCE * largest_value(array) for name, array in expected.items())
