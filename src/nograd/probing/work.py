"""Bounded runs: a model runs a large input until it has done a given amount of work; then the run ends.

Work is counted in elements before each operation. Probe runs therefore never take seconds or gigabytes, and their extent does
not depend on the machine or its load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nograd.probing.tables import Operation, TableRead, decomposed, name_of, reads_of

__all__ = ["BoundedWork", "OverBudget"]

PRODUCTS_PER_ELEMENT = 16
"""Multiplications that take as long as reading and writing one element: about 30 and 2 billion per second on two cores."""


class OverBudget(BaseException):
    """The run exceeded its budget. Not an Exception, because models may catch those."""


class BoundedWork(TorchDispatchMode):
    """Counts the work of a run and records its look-ups; raises OverBudget before an operation would exceed the budget.

    Args:
        budget: work in elements; None: no limit.
    """

    def __init__(self, budget: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._budget = budget
        self.work = 0
        self.reads: list[TableRead] = []

    def __torch_dispatch__(
        self, function: Operation, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.work += work_of(function, args)
        if self._budget is not None and self.work > self._budget:
            raise OverBudget
        self.reads += reads_of(function, args)
        return decomposed(self, function, args, kwargs or {})


def work_of(operation: Operation, args: Sequence[Any]) -> int:
    """Estimate the work of an operation from the shapes of its arguments, in elements."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if (grown := GROWTH.get(name_of(operation))) is not None and tensors and len(args) > 1:
        return grown(tensors[0], args[1])
    elements = _broadcast(tensors) + sum(_size(arg) for arg in args)
    return elements + _products(operation, args) // PRODUCTS_PER_ELEMENT


def _broadcast(tensors: Sequence[Tensor]) -> int:
    """Return the elements of the broadcast result; if the shapes do not broadcast, those of the largest tensor."""
    try:
        return prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return max(tensor.numel() for tensor in tensors)


def _size(arg: Any) -> int:
    """Return the elements of a shape (`zeros`, `repeat`) or of a list of tensors (`cat`)."""
    if not isinstance(arg, list | tuple) or not arg:
        return 0
    if all(isinstance(each, int) for each in arg):
        return max(0, prod(arg))
    return sum(each.numel() for each in arg if isinstance(each, Tensor))


def _products(operation: Operation, args: Sequence[Any]) -> int:
    """Return the number of multiplications of an operation with many of them."""
    listed = [each for arg in args for each in (arg if isinstance(arg, list | tuple) else (arg,))]
    tensors = [each for each in listed if isinstance(each, Tensor)]
    count = PRODUCTS.get(name_of(operation))
    return count(tensors) if count is not None and len(tensors) > 1 and tensors[0].ndim else 0


def _of_repeat(tensor: Tensor, times: Any) -> int:
    if isinstance(times, Tensor):
        return int(times.sum()) * tensor.numel() // max(1, times.numel())
    return tensor.numel() * (prod(times) if isinstance(times, list | tuple) else int(times))


def _of_resize(tensor: Tensor, size: Any) -> int:
    return prod((*tensor.shape[:2], *size)) if isinstance(size, list | tuple) else tensor.numel()


GROWTH: dict[str, Callable[[Tensor, Any], int]] = {
    **dict.fromkeys(("repeat", "tile", "repeat_interleave"), _of_repeat),
    **{
        f"{kind}{dims}d": _of_resize
        for kind in ("upsample_nearest", "upsample_bilinear", "upsample_bicubic", "upsample_linear", "upsample_trilinear")
        for dims in (1, 2, 3)
    },
}
"""Operations whose result is larger than their arguments: name -> elements of the result, from the first two arguments."""


def _of_matrices(tensors: Sequence[Tensor]) -> int:
    left, right = tensors[-2:]
    return left.numel() * right.shape[-1]


def _of_convolution(tensors: Sequence[Tensor]) -> int:
    return tensors[0].numel() // max(1, tensors[0].shape[1]) * tensors[1].numel()


def _of_layer(tensors: Sequence[Tensor]) -> int:
    positions = tensors[0].numel() // max(1, tensors[0].shape[-1])
    return positions * sum(tensor.numel() for tensor in tensors[1:] if tensor.ndim == 2)


def _of_attention(tensors: Sequence[Tensor]) -> int:
    return _of_layer(tensors) + 2 * tensors[0].numel() * tensors[0].shape[-2]


PRODUCTS: dict[str, Callable[[Sequence[Tensor]], int]] = {
    **dict.fromkeys(("mm", "bmm", "matmul", "addmm", "baddbmm", "addbmm"), _of_matrices),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _of_convolution),
    **dict.fromkeys(("linear", "lstm", "gru", "rnn_tanh", "rnn_relu"), _of_layer),
    **dict.fromkeys(
        ("scaled_dot_product_attention", "_native_multi_head_attention", "_transformer_encoder_layer_fwd"), _of_attention
    ),
}
"""Operations with many multiplications, by name."""
