"""Running a model for the probe: its outputs, comparison of answers, and restoring its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from nograd.core.inputs import is_tensor
from nograd.core.module import EvalMode, ModuleCall, computing_dtype, module_device, row_fault
from nograd.core.structure import Restore, flatten
from nograd.errors import SignatureError
from nograd.probing.samples import Tensors, only_row
from nograd.probing.tables import CheckedIndexes
from nograd.runtime.device_errors import device_lost, is_device_lost
from nograd.runtime.interrupts import is_interrupt

__all__ = ["ProbeRuns", "as_found", "undisturbed"]

TOLERANCE = 1e-4
"""Largest difference, relative to the output's largest value, that float32 arithmetic in another order may cause. Padding
MiniLM to 128 tokens moves its embedding by 7e-8; a real effect of padding or neighbours moves answers by percents.
"""

HALF_TOLERANCE = 2e-2
"""The same for arithmetic in float16 (10 bits of mantissa) and bfloat16 (7 bits), also if the output is float32."""

HALVES = (torch.float16, torch.bfloat16)

NOISE = 1e-2
"""Share of an ordinary row's magnitude below which an answer is small: with the tolerance, eight steps of float32."""


class ProbeRuns:
    """Runs a model with a fixed call."""

    restore: Restore
    """Restores the structure of the latest outputs from outputs by name."""

    def __init__(self, model: nn.Module, call: ModuleCall) -> None:
        self.model, self.call = model, call
        self._tolerance = HALF_TOLERANCE if computing_dtype(model) in HALVES else TOLERANCE
        self._ranks: dict[str, int] = {}

    def outputs(self, tensors: Tensors, call: ModuleCall | None = None) -> Tensors:
        """Return the model's outputs by name.

        Raises:
            SignatureError: the model cannot run the inputs, dimension 0 of an output is not the row, or the outputs differ in
                names or ranks from earlier ones.
            DeviceLostError: all further runs on the GPU would fail.
        """
        call = call or self.call
        try:
            leaves, self.restore = flatten(call(self.model, tensors), is_tensor)
        except SignatureError:
            raise
        except BaseException as error:  # any error of the model is reported to the caller
            if is_interrupt(error):
                raise
            if is_device_lost(error):
                raise device_lost(error) from error
            raise SignatureError(f"the model cannot run {call.describe(tensors)}: {type(error).__name__}: {error}") from error
        if fault := row_fault(leaves, len(next(iter(tensors.values())))):
            raise SignatureError(fault)
        ranks = {name: leaf.ndim for name, leaf in leaves.items()}
        self._ranks = self._ranks or ranks
        if ranks != self._ranks:
            raise SignatureError(f"the model's outputs have the ranks {ranks}, and had {self._ranks} for another input")
        return call.owned(leaves)

    def attempt(self, tensors: Tensors, call: ModuleCall | None = None) -> Tensors | None:
        """Return the model's outputs, or None if it cannot run the inputs."""
        try:
            return self.outputs(tensors, call)
        except SignatureError:
            return None

    def same(self, expected: Tensors | None, given: Tensors | None, scales: Mapping[str, float] | None = None) -> bool:
        """Return whether both ran and the answers are equal except for rounding.

        Args:
            expected: answers by output.
            given: the same outputs of another run.
            scales: largest value of each output for ordinary rows. Answers that are nearly zero compared with it are compared
                with the rounding of such rows.
        """
        if expected is None or given is None:
            return False
        return all(
            _close(tensor, given[name], (scales or {}).get(name, 0.0), self._tolerance) for name, tensor in expected.items()
        )

    def same_rows(self, expected: Tensors, given: Tensors | None, scales: Mapping[str, float]) -> bool:
        """Return whether all rows are equal, each compared relative to its own largest value."""
        if given is None:
            return False
        rows = range(len(next(iter(expected.values()))))
        return all(self.same(only_row(expected, row), only_row(given, row), scales) for row in rows)


def _close(expected: Tensor, given: Tensor, scale: float, tolerance: float) -> bool:
    """Return whether the largest difference, relative to the largest value, is rounding."""
    if expected.shape != given.shape:
        return False
    if torch.equal(expected, given):  # fast path: usually equal
        return True
    if expected.is_complex():
        return _close(torch.view_as_real(expected), torch.view_as_real(given), scale, tolerance)
    if not expected.is_floating_point():
        return False
    tolerance = HALF_TOLERANCE if expected.dtype in HALVES else tolerance
    a, b = expected.double(), given.double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return False
    a, b = a[finite], b[finite]
    return a.numel() == 0 or float((a - b).abs().max()) <= tolerance * max(float(a.abs().max()), scale * NOISE)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval and inference mode within this context; modes, buffers, attributes and random state are restored afterwards."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices=devices),
        EvalMode(model)(),
        as_found(model),
        torch.inference_mode(),
        CheckedIndexes() if module_device(model).type == "cuda" else nullcontext(),
    ):
        yield


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Restore rebound attributes, the contents of dict and list attributes, and the values of tensors."""
    attributes = [vars(module) for module in model.modules()]
    values = [value for each in attributes for value in each.values()]
    containers = [(kept, copy(kept)) for kept in (*attributes, *values) if isinstance(kept, dict | list)]
    dense = [kept for kept in (*model.buffers(), *values) if isinstance(kept, Tensor) and kept.layout is torch.strided]
    tensors = [(kept, kept.clone()) for kept in dense]
    try:
        yield
    finally:
        for container, held in containers:
            _refill(container, held)
        with torch.inference_mode():
            for tensor, value in tensors:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _refill(container: Any, held: Any) -> None:
    """Restore a container in place. It is never empty in between, because another thread may be running the model."""
    if isinstance(container, list):
        container[:] = held
        return
    for name in [name for name in container if name not in held]:
        del container[name]
    container.update(held)
