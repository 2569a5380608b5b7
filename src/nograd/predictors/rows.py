"""Rows: a list of single rows, run in batches as tensors, without threads or windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from nograd.backends import Backend, TorchBackend
from nograd.core.inputs import by_name, is_tensor, to_host
from nograd.core.tensors import Batch
from nograd.errors import UnsupportedError
from nograd.predictors.calls import as_tensors
from nograd.predictors.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["concatenated", "run_stacked"]


def run_stacked(predictor: Predictor, rows: Sequence[Any], max_rows: int) -> list[Mapping[str, Tensor]] | None:
    """Return the outputs of each batch of rows, on the CPU; None if the rows are not tensors that may share a batch.

    Args:
        predictor: its model is probed; without `preprocess`.
        rows: tensors without dimension 0, or tuples or dicts of them, all of one layout.
        max_rows: rows in one batch, at most.

    Raises:
        SignatureError: the rows do not fit the model's signature.
        ModelError: the model raised.
    """
    if predictor.signature.batching == "alone" or not _is_alike(rows):
        return None
    starts = range(0, len(rows), max_rows)
    backend = predictor.backend
    if isinstance(backend, TorchBackend) and backend.lanes == 1 and not predictor.has_cache:
        return list(backend.forward_each(_checked((_stacked(rows[start : start + max_rows]) for start in starts), backend)))

    def run(start: int) -> Mapping[str, Tensor]:
        batch = _stacked(rows[start : start + max_rows])
        on_host = not predictor.has_cache and not isinstance(backend, TorchBackend)
        return _run_arrays(backend, batch) if on_host else _on_cpu(predictor.outputs(batch))

    if predictor.lanes == 1 or len(starts) == 1:
        return list(map(run, starts))
    with ThreadPoolExecutor(min(predictor.lanes, len(starts)), "nograd-device") as lanes:
        return list(lanes.map(run, starts))


def _on_cpu(outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in outputs.items()}


def _run_arrays(backend: Backend, inputs: Any) -> Mapping[str, Tensor]:
    signature = backend.signature
    return as_tensors(backend.run(signature.check(by_name(to_host(inputs), signature))))


def _checked(batches: Iterator[Any], backend: Backend) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of one layout as the model takes them: if the first one fits as it is, later ones need no check.

    Raises:
        SignatureError: a batch does not fit.
    """
    from nograd.core.module import check_tensors

    signature = backend.signature
    always = any(spec.limits is not None for spec in signature.inputs)  # of the values, which differ
    for batch in batches:
        named = by_name(batch, signature)
        tensors = check_tensors(named, signature)
        yield tensors
        if not always and tensors.keys() == named.keys() and all(tensors[name] is named[name] for name in named):
            yield from (by_name(each, signature) for each in batches)  # of the same iterator, which continues here


def _is_alike(rows: Sequence[Any]) -> bool:
    first = rows[0]
    if is_tensor(first):
        kind, shape, dtype, device = type(first), first.shape, first.dtype, first.device
        return all(type(row) is kind and row.shape == shape and row.dtype is dtype and row.device == device for row in rows)
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
