"""Rows: a list of single rows, run in batches as tensors, without threads or windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from nograd.errors import UnsupportedError
from nograd.inputs import is_tensor
from nograd.predictor import Predictor
from nograd.tensors import Batch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["concatenated", "run_stacked"]


def run_stacked(predictor: Predictor, rows: Sequence[Any], max_rows: int) -> list[Mapping[str, Tensor]] | None:
    """Return the outputs of each batch of rows, on the CPU; None if the rows are not tensors that may share a batch.

    Args:
        predictor: knows its model; without `preprocess`.
        rows: tensors without dimension 0, or tuples or dicts of them, all of one layout.
        max_rows: rows in one batch, at most.

    Raises:
        SignatureError: the rows are not the model's.
        ModelError: the model raised.
    """
    if predictor.signature.batching == "alone" or not _is_alike(rows):
        return None

    def run(start: int) -> Mapping[str, Tensor]:
        outputs = predictor.outputs(_stacked(rows[start : start + max_rows]))
        return {name: tensor.cpu() for name, tensor in outputs.items()}

    starts = range(0, len(rows), max_rows)
    if predictor.lanes == 1 or len(starts) == 1:
        return list(map(run, starts))
    with ThreadPoolExecutor(min(predictor.lanes, len(starts)), "nograd-device") as lanes:
        return list(lanes.map(run, starts))


def _is_alike(rows: Sequence[Any]) -> bool:
    first = rows[0]
    if is_tensor(first):
        shape, dtype, device = first.shape, first.dtype, first.device
        return all(is_tensor(row) and row.shape == shape and row.dtype == dtype and row.device == device for row in rows)
    if isinstance(first, Mapping):
        same_names = all(isinstance(row, Mapping) and row.keys() == first.keys() for row in rows)
        return same_names and all(_is_alike([row[name] for row in rows]) for name in first)
    if isinstance(first, tuple) and first:
        same_length = all(isinstance(row, tuple) and len(row) == len(first) for row in rows)
        return same_length and all(map(_is_alike, zip(*rows, strict=True)))
    return False


def _stacked(rows: Sequence[Any]) -> Any:
    import torch

    first = rows[0]
    if isinstance(first, Mapping):
        return {name: torch.stack([row[name] for row in rows]) for name in first}
    if isinstance(first, tuple):
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))
    return torch.stack(list(rows))


def concatenated(batches: Sequence[Mapping[str, Any]]) -> Batch | Mapping[str, Any]:
    """Return outputs of several batches as one.

    Raises:
        UnsupportedError: the rows of an output differ in shape.
    """
    if len(batches) == 1:
        return batches[0]
    for name in batches[0]:
        shapes = sorted({tuple(batch[name].shape[1:]) for batch in batches})
        if len(shapes) > 1:
            listed = " and ".join(str(list(shape)) for shape in shapes[:2])
            raise UnsupportedError(
                f"output {name!r} has rows of the shapes {listed}, which cannot be concatenated; "
                "use predict(items), which yields one answer per item"
            )
    if is_tensor(next(iter(batches[0].values()))):
        import torch

        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    import numpy as np

    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
