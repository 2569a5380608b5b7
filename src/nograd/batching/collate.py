"""Joining parts into one batch, and splitting the outputs by part. Pure functions of arrays.

A part is a checked Batch of one or more rows of equal length: the rows of one request, or one row of a data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nograd.batching.grouping import cheapest_groups
from nograd.batching.tracking import TokenCost
from nograd.core.tensors import Batch, Signature, concat, cut_back, join_arrays, num_rows, split
from nograd.errors import ModelError

__all__ = ["chunks", "hand_out", "join", "merge", "model_error", "padding_share", "plan", "run_together"]


def plan(
    parts: Sequence[Batch], signature: Signature, max_rows: int, *, overhead: float = TokenCost.DEFAULT_OVERHEAD
) -> list[list[int]]:
    """Return groups of parts to run together, as positions in `parts`, longest first.

    Parts are sorted by length and cut where it costs least. The run that needs most memory comes first. Parts of different
    lengths share a run only if the signature's batching is `pad`; if it is `alone`, no parts share a run.

    Args:
        parts: checked batches of at most `max_rows` rows each.
        signature: signature of the model.
        max_rows: maximum rows per run.
        overhead: fixed cost of a run, in padded elements.
    """
    if signature.batching == "alone":
        return [[position] for position in range(len(parts))]
    rows = [num_rows(part) for part in parts]
    if signature.lengths and signature.batching == "pad":
        lengths = [sum(signature.sizes_of(part)) for part in parts]
        order = sorted(range(len(parts)), key=lengths.__getitem__, reverse=True)[::-1]
        cuts = cheapest_groups(
            [lengths[position] for position in order],
            [rows[position] for position in order],
            overhead=overhead,
            max_rows=max_rows,
        )
        return [order[start:end][::-1] for start, end in reversed(cuts)]
    sizes = [signature.sizes_of(part) for part in parts]
    groups: list[list[int]] = []
    room, last = 0, None
    for position in sorted(range(len(parts)), key=sizes.__getitem__, reverse=True):
        if rows[position] > room or sizes[position] != last:
            groups.append([])
            room = max_rows
        groups[-1].append(position)
        room -= rows[position]
        last = sizes[position]
    return groups


def join(parts: Sequence[Batch], signature: Signature) -> Batch:
    """Join the parts into one batch, padding shorter ones as the signature says."""
    return concat(parts, signature.inputs)


def hand_out(outputs: Batch, parts: Sequence[Batch], signature: Signature) -> list[Batch]:
    """Split outputs by part and remove the padding."""
    first = next(iter(parts[0]))
    rows = [len(part[first]) for part in parts]
    for name, array in outputs.items():
        if len(array) != sum(rows):
            raise ModelError(f"output {name!r} has {len(array)} rows for a batch of {sum(rows)}; each row needs one")
    pieces = split(outputs, rows)
    if len(parts) == 1 or not any(spec.varying for spec in signature.outputs):
        return pieces
    names = signature.lengths
    return [
        cut_back(piece, signature.outputs, dict(zip(names, signature.sizes_of(part), strict=True)))
        for piece, part in zip(pieces, parts, strict=True)
    ]


def run_together(parts: Sequence[Batch], run: Callable[[Batch], Batch], signature: Signature) -> list[Batch]:
    """Run the parts as one batch; return the outputs of each part."""
    return hand_out(run(join(parts, signature)), parts, signature)


def model_error(who: str, error: BaseException) -> ModelError:
    """Wrap an error of foreign code in a ModelError, with the original as its cause."""
    wrapped = ModelError(f"{who} raised {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def chunks(batch: Batch, max_rows: int) -> list[Batch]:
    """Split a batch into parts of at most `max_rows` rows."""
    rows = num_rows(batch)
    if rows <= max_rows:
        return [batch]
    return split(batch, [min(max_rows, rows - start) for start in range(0, rows, max_rows)])


def merge(pieces: Sequence[Batch]) -> Batch:
    """Merge the outputs of one request's parts; dimensions of different sizes are padded with zeros."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: join_arrays([piece[name] for piece in pieces]) for name in pieces[0]}


def padding_share(rows: Sequence[int], lengths: Sequence[int]) -> float:
    """Return the share of padding in a joined batch: 0 for equal lengths, near 1 for one long row among short ones.

    Args:
        rows: number of rows of each part.
        lengths: row length of each part.
    """
    longest = max(lengths)
    if longest == min(lengths):
        return 0.0
    padded = sum(rows) * longest
    return 1 - sum(count * length for count, length in zip(rows, lengths, strict=True)) / padded
