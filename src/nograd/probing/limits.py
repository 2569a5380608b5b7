"""Limits of integer inputs, from the embeddings that look them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nograd.core.tensors import TensorSpec
from nograd.probing.runs import ProbeRuns
from nograd.probing.samples import Tensors

__all__ = ["within_limits"]

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def within_limits(runs: ProbeRuns, sample: Tensors, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the specs with limits for integer inputs that an embedding looks up directly.

    An input that is transformed first (hashed, shifted, clamped) may have any value, and gets no limits. No run with an invalid
    id is needed, which would break the GPU context.
    """
    given = {name: tensor.clone() for name, tensor in sample.items()}
    integers = {name: tensor for name, tensor in given.items() if tensor.dtype in INTEGERS}
    if not integers:
        return tuple(specs)
    watch = _Lookups(integers)
    with watch:
        ProbeRuns(runs.model, replace(runs.call, copies=False)).attempt(given)
    rows = watch.rows
    return tuple(replace(spec, limits=(0, rows[spec.name] - 1)) if spec.name in rows else spec for spec in specs)


class _Lookups(TorchDispatchMode):
    """Records the size of each embedding that looks up an input's values."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs = inputs
        self.rows: dict[str, int] = {}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten.embedding.default:
            weight, ids = args[0], args[1]
            for name, tensor in self._inputs.items():
                if tensor.shape == ids.shape and (tensor.data_ptr() == ids.data_ptr() or _converted(tensor, ids)):
                    self.rows[name] = min(len(weight), self.rows.get(name, len(weight)))
        return function(*args, **(kwargs or {}))


def _converted(tensor: Tensor, ids: Tensor) -> bool:
    """Return whether the ids are the input converted to another width; equal values of the same width may belong to another
    input.
    """
    return tensor.dtype != ids.dtype and torch.equal(tensor.to(ids.dtype), ids)
