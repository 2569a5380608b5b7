"""Batched runs of a list of single rows as tensors, without threads or windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from nograd.backends import TorchBackend
from nograd.core.inputs import by_name, is_tensor, to_host, without_inference_tensors
from nograd.core.tensors import Batch, Signature
from nograd.errors import SignatureError, UnsupportedError
from nograd.predictors.calls import as_tensors
from nograd.predictors.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["concatenated", "run_stacked"]

MAX_BYTES_AT_ONCE = 1 << 20
"""Bytes of rows that are stacked before the first run. More would double the memory."""


def run_stacked(predictor: Predictor, rows: Sequence[Any], max_rows: int) -> list[Mapping[str, Tensor]] | None:
    """Return the outputs of each batch of rows, on the CPU; None if the rows are not tensors that may share a batch.

    The outputs may be inference tensors: see `without_inference_tensors`.

    Args:
        predictor: a predictor without `preprocess`, whose model is probed.
        rows: tensors without dimension 0, or tuples or dicts of them, all of one layout.
        max_rows: maximum rows per batch.

    Raises:
        SignatureError: the rows do not fit the model's signature.
        ModelError: the model raised.
    """
    signature, backend = predictor.signature, predictor.backend
    columns = _columns(rows, signature) if signature.batching != "alone" else None
    if columns is None:
        return None
    starts = range(0, len(rows), max_rows)
    batch_from = _batcher(columns, max_rows)
    if isinstance(backend, TorchBackend) and backend.lanes == 1 and not predictor.has_cache:
        return list(backend.forward_each(_checked(map(batch_from, starts), signature)))

    def run(start: int) -> Mapping[str, Tensor]:
        batch = batch_from(start)
        on_host = not predictor.has_cache and not isinstance(backend, TorchBackend)
        return as_tensors(backend.run(signature.check(to_host(batch)))) if on_host else _on_cpu(predictor.outputs(batch))

    if predictor.lanes == 1 or len(starts) == 1:
        return list(map(run, starts))
    with ThreadPoolExecutor(min(predictor.lanes, len(starts)), "nograd-device") as lanes:
        return list(lanes.map(run, starts))


def _on_cpu(outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in outputs.items()}


def _checked(batches: Iterator[Mapping[str, Tensor]], signature: Signature) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of one layout in the model's form. If the first one fits unchanged, later ones need no check.

    Raises:
        SignatureError: a batch does not fit.
    """
    from nograd.core.module import check_tensors

    always = any(spec.limits is not None for spec in signature.inputs)  # the values differ, so check each batch
    for batch in batches:
        tensors = check_tensors(batch, signature)
        yield tensors
        if not always and tensors.keys() == batch.keys() and all(tensors[name] is batch[name] for name in batch):
            yield from batches  # the same iterator continues here


def _columns(rows: Sequence[Any], signature: Signature) -> dict[str, Sequence[Tensor]] | None:
    """Return the rows of each input by name; None if they are not tensors of one layout.

    Raises:
        SignatureError: the number of inputs differs from the model's.
    """
    first = rows[0]
    if is_tensor(first):
        columns = by_name(rows, signature)
    elif isinstance(first, Mapping):
        if not all(isinstance(row, Mapping) and row.keys() == first.keys() for row in rows):
            return None
        columns = {name: [row[name] for row in rows] for name in first}
    elif isinstance(first, tuple) and all(isinstance(row, tuple) and len(row) == len(first) for row in rows):
        columns = by_name(tuple(zip(*rows, strict=True)), signature)
    else:
        return None
    return columns if all(map(_is_alike, columns.values())) else None


def _is_alike(column: Sequence[Any]) -> bool:
    """Return whether all are tensors of one class, dtype, size and device; C code looks at each row.

    Rows of one size may still differ in shape, which `torch.stack` rejects; comparing shapes here would take longer.
    """
    kind = type(column[0])
    if not is_tensor(column[0]) or len(set(map(type, column))) > 1:
        return False
    return all(len(set(map(look, column))) == 1 for look in (attrgetter("dtype"), kind.numel, kind.get_device))


def _batcher(columns: Mapping[str, Sequence[Tensor]], max_rows: int) -> Callable[[int], Mapping[str, Tensor]]:
    """Return a function that returns the batch from a row on. Few bytes are stacked at once, while the rows are in the cache.

    Raises:
        SignatureError: rows of the same size differ in shape.
    """
    if sum(len(column) * column[0].nbytes for column in columns.values()) > MAX_BYTES_AT_ONCE:
        return lambda start: {name: _stacked(column[start : start + max_rows]) for name, column in columns.items()}
    whole = {name: _stacked(column) for name, column in columns.items()}
    return lambda start: {name: tensor[start : start + max_rows] for name, tensor in whole.items()}


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    from torch import stack

    try:
        return stack(rows)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise SignatureError(str(error)) from error


def concatenated(batches: Sequence[Mapping[str, Any]]) -> Batch | Mapping[str, Any]:
    """Return outputs of several batches as one, without inference tensors.

    Raises:
        UnsupportedError: the rows of an output differ in shape.
    """
    has_tensors = is_tensor(next(iter(batches[0].values())))
    if len(batches) == 1:
        return without_inference_tensors(batches[0]) if has_tensors else batches[0]
    for name in batches[0]:
        shapes = sorted({tuple(batch[name].shape[1:]) for batch in batches})
        if len(shapes) > 1:
            listed = " and ".join(str(list(shape)) for shape in shapes[:2])
            raise UnsupportedError(
                f"output {name!r} has rows of the shapes {listed}, which cannot be concatenated; "
                "use predict(items), which yields one answer per item"
            )
    if has_tensors:
        import torch

        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}  # a new, normal tensor
    import numpy as np

    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
