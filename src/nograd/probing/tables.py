"""Tables that a model reads by index: their size, and how far a run reads into them.

A position table is an `nn.Embedding`, a parameter or a buffer, read by ids, by an index or by a slice. Operations are observed
in torch's dispatcher, so the surrounding code does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CheckedIndexes", "Operation", "TableRead", "decomposed", "furthest", "name_of", "reads_of"]

Operation: TypeAlias = Callable[..., Any]

WHOLE = frozenset(
    ("linear", "matmul", "lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention", "conv1d", "conv2d", "conv3d")
)
"""Operations that read no table and are not decomposed."""

ATEN = torch.ops.aten
BY_DIMENSION = (ATEN.index_select.default, ATEN.gather.default)
"""Operations with a tensor, a dimension and an index, which torch checks against the tensor's size."""

WRITES_BY_DIMENSION = (ATEN.scatter.src, ATEN.scatter.value, ATEN.scatter_.src, ATEN.scatter_.value, ATEN.index_add.default)


@dataclass(frozen=True, slots=True)
class TableRead:
    """One look-up: the number of entries in the table, and the last one read."""

    entries: int
    last: int


def reads_of(operation: Operation, args: Sequence[Any]) -> Iterator[TableRead]:
    """Yield the look-ups of an operation before it runs: by index, and by a slice from the start."""
    for table_size, index in _indexes(operation, args):
        if index.numel():
            yield TableRead(table_size, int(index.max()))
    if operation is ATEN.slice.Tensor and len(args) > 3 and isinstance(args[3], int) and args[3] >= 0:
        entries = args[0].shape[args[1]]
        yield TableRead(entries, min(args[3], 2**31) - 1)


def _indexes(operation: Operation, args: Sequence[Any]) -> Iterator[tuple[int, Tensor]]:
    """Yield the size of an indexed dimension, and the index."""
    if operation is ATEN.embedding.default:
        yield len(args[0]), args[1]
    elif operation in BY_DIMENSION or operation in WRITES_BY_DIMENSION:
        if args[0].ndim:
            yield args[0].shape[args[1]], args[2]
    elif operation in (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default):
        for axis, index in enumerate(args[1]):
            if index is not None and index.dtype in (torch.int64, torch.int32):
                yield args[0].shape[axis], index


def furthest(reads: Sequence[TableRead]) -> dict[int, int]:
    """Return the last entry read from the tables of each size."""
    found: dict[int, int] = {}
    for read in reads:
        found[read.entries] = max(read.last, found.get(read.entries, read.last))
    return found


def name_of(operation: Operation) -> str:
    """Return the name of a torch operation without its overload."""
    return str(getattr(operation, "__name__", "")).partition(".")[0]


def decomposed(mode: TorchDispatchMode, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run an operation. Composite operations (`narrow`, `einsum`, `one_hot`) run as their parts, each seen by the mode.

    In inference mode torch passes composite operations on without decomposing them.
    """
    if isinstance(operation, torch._ops.OpOverload) and name_of(operation) not in WHOLE:  # noqa: SLF001  as torch's own modes
        with mode:
            result = operation.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
    return operation(*args, **kwargs)


class CheckedIndexes(TorchDispatchMode):
    """Raises IndexError before an index beyond a table reaches a GPU, like torch on a CPU.

    On a GPU the kernel itself would detect it, and break the CUDA context of the process.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Operation, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for size, index in _indexes(function, args):
            if index.numel() and not -size <= int(index.min()) <= int(index.max()) < size:
                worst = int(index.max()) if int(index.max()) >= size else int(index.min())
                raise IndexError(f"index {worst} is out of range; the table has {size} entries")
        return decomposed(self, function, args, kwargs or {})
