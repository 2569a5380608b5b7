"""Workload of candidates: rows for the comparison, single rows, and batches of a size. Pure functions of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nograd.batching.collate import join, plan
from nograd.core.tensors import Batch, Signature, concat, num_rows
from nograd.tuning.data import Sample

__all__ = ["Workload", "workload_of"]

NUM_SINGLE_ROWS = 4
"""Number of single rows, of several lengths, because users send more than texts of five tokens."""

PROOF_ROWS = 8
"""Rows of a batch in the comparison: answers are compared as they will be served, padded among other rows."""

BULK_S = 0.25
"""Approximate seconds of eager work in one measurement of batches. More would leave no time for rounds."""

MAX_BULK_ROWS = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows and batches for every candidate."""

    signature: Signature
    parts: tuple[Batch, ...]
    proof: tuple[tuple[int, ...], ...]
    """Batches for parity: positions in `parts`. Every row is in a batch; some rows also form a batch alone."""

    single_rows: tuple[Batch, ...]
    bulk_parts: tuple[Batch, ...]

    def proof_batches(self) -> list[Batch]:
        """Return the batches for the comparison with eager."""
        return [join([self.parts[place] for place in group], self.signature) for group in self.proof]

    def bulk(self, max_rows: int, lanes: int) -> list[Batch]:
        """Return the bulk rows in batches of `max_rows` at most, grouped by length as in the batcher.

        If the signature has no varying dimension, rows are repeated so that each of the `lanes` gets at least one full
        batch.
        """
        if self.signature.batching == "alone":
            return list(self.bulk_parts)
        if self.signature.lengths:
            groups = plan(self.bulk_parts, self.signature, max_rows)
            return [join([self.bulk_parts[place] for place in group], self.signature) for group in groups]
        count = max(lanes, len(self.bulk_parts) // max_rows)
        rows = [self.bulk_parts[place % len(self.bulk_parts)] for place in range(count * max_rows)]
        return [concat(rows[start : start + max_rows], self.signature.inputs) for start in range(0, len(rows), max_rows)]

    def of_size(self, rows: int, length: int | None = None) -> Batch:
        """Return one batch of `rows` rows. If lengths vary, all rows are copies of the row whose length is nearest to
        `length`."""
        if length is None:
            return concat([self.bulk_parts[place % len(self.bulk_parts)] for place in range(rows)], self.signature.inputs)
        nearest = min(self.parts, key=lambda part: abs(sum(self.signature.sizes_of(part)) - length))
        return concat([nearest] * rows, self.signature.inputs)


def workload_of(sample: Sample, signature: Signature, eager_row_s: float) -> Workload:
    """Return the workload of candidates.

    Args:
        sample: the user's rows.
        signature: the model's signature.
        eager_row_s: approximate seconds of a row on eager. For a slow model, fewer rows are measured.
    """
    order = sorted(range(len(sample.parts)), key=sample.lengths.__getitem__)
    rows = int(np.clip(BULK_S / max(eager_row_s, 1e-9), 8, MAX_BULK_ROWS))
    bulk = [sample.parts[place % len(sample.parts)] for place in range(rows)] if len(sample.parts) < rows else [
        sample.parts[int(place)] for place in np.linspace(0, len(sample.parts) - 1, rows)
    ]  # fmt: skip
    quantiles = [order[int(place)] for place in np.linspace(0, len(order) - 1, NUM_SINGLE_ROWS + 2)[1:-1]]
    groups = plan(sample.parts, signature, PROOF_ROWS)
    alone = [[place] for place in dict.fromkeys((order[0], *quantiles, order[-1]))]
    return Workload(
        signature,
        sample.parts,
        tuple(tuple(group) for group in [*groups, *alone]),
        tuple(sample.parts[place] for place in dict.fromkeys(quantiles)),
        tuple(bulk),
    )


def rows_in(batches: Sequence[Batch]) -> int:
    """Return the number of rows in all batches."""
    return sum(map(num_rows, batches))
