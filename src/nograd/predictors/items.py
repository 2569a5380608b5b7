"""Items: `preprocess` and `postprocess`, applied one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nograd.backends import Backend
from nograd.batching.collate import model_error
from nograd.core.inputs import each_item, is_tensor, one_row
from nograd.core.tensors import TEXT, Batch, Signature, TensorSpec
from nograd.errors import ItemError, NogradError
from nograd.runtime.interrupts import is_interrupt

__all__ = [
    "answer_of", "answers_of_rows", "first_item", "item_error", "row_of", "rows_before_a_fault", "rows_of",
    "whole_answer", "zeros_of",
]  # fmt: skip

Step = Callable[[Any], Any]


def row_of(item: Any, preprocess: Step | None) -> Any:
    """Return the result of `preprocess` for an item, as inputs with one row."""
    return one_row(item if preprocess is None else preprocess(item))


def rows_of(items: Sequence[Any], preprocess: Step | None) -> list[Any]:
    """Return a row for each item.

    Raises:
        ItemError: `preprocess` raised on an item.
    """
    rows = []
    for index, item in enumerate(items):
        try:
            rows.append(row_of(item, preprocess))
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise item_error(index, error) from error
    return rows


def rows_before_a_fault(items: Sequence[Any], preprocess: Step | None) -> list[Any]:
    """Return a row for each item, up to the first one on which `preprocess` raises."""
    rows = []
    for item in items:
        try:
            rows.append(row_of(item, preprocess))
        except Exception:  # noqa: BLE001  `prepare_item` raises it again, with the item's position
            break
    return rows


def answers_of_rows(backend: Backend, leaves: Mapping[str, Any], postprocess: Step | None) -> Iterator[Any]:
    """Return an iterator over the answers of the rows of outputs by name, tensors or arrays, postprocessed."""
    names = list(leaves)
    columns = [leaf.unbind() if is_tensor(leaf) else leaf for leaf in leaves.values()]  # a list of arrays has no `unbind`
    if len(columns) == 1 and postprocess is None and backend.restore({names[0]: columns[0][0]}) is columns[0][0]:
        return iter(columns[0])  # the model returns one tensor, so no structure must be restored
    restored = (backend.restore(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
    return restored if postprocess is None else (answer_of(answer, postprocess) for answer in restored)


def whole_answer(backend: Backend, leaves: Mapping[str, Any], postprocess: Step | None) -> Any:
    """Return outputs by name in the model's structure; with `postprocess`, a list of its answers for each row."""
    return backend.restore(leaves) if postprocess is None else list(answers_of_rows(backend, leaves, postprocess))


def answer_of(answer: Any, postprocess: Callable[[Any], Any]) -> Any:
    """Return the result of `postprocess` for a row. Exceptions that would end the program or event loop become a ModelError."""
    try:
        return postprocess(answer)
    except Exception:
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise model_error("postprocess", error) from error


def item_error(index: int, error: BaseException) -> ItemError:
    """Return the error for an item on which `preprocess` raised."""
    what = str(error) if isinstance(error, NogradError) else f"preprocess raised {type(error).__name__}: {error}"
    return ItemError(f"item {index}: {what}", index)


def first_item(sample: Any) -> Any:
    """Return the first item of a sample; one string is one item."""
    return sample if isinstance(sample, str | bytes) else next(each_item(sample))


def zeros_of(signature: Signature) -> Batch:
    """Return one row of the smallest size, of zeros, empty text and defaults."""
    smallest = {
        spec.name: tuple(size if isinstance(size, int) else signature.size_range(size)[0] for size in spec.shape)
        for spec in signature.inputs
    }
    return signature.check({spec.name: _filler(spec, (1, *smallest[spec.name])) for spec in signature.inputs})


def _filler(spec: TensorSpec, shape: tuple[int, ...]) -> Any:
    return np.full(shape, "", dtype=object) if spec.dtype == TEXT else np.full(shape, spec.default or 0, dtype=spec.dtype)
