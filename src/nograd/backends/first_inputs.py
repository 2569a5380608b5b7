"""Probing a module with the user's first inputs, with or without the batch dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from nograd.backends.eager import eager_backend, unprobed_backend
from nograd.core.inputs import is_tensor, one_row, to_host
from nograd.core.module import to_tensors
from nograd.errors import NogradError, SignatureError
from nograd.probing.runs import ProbeRuns

if TYPE_CHECKING:
    from torch import nn

    from nograd.backends.modules import ModuleBackend

__all__ = ["backend_from_inputs"]


def backend_from_inputs(model: nn.Module, inputs: Any, *, device: str | torch.device = "auto") -> tuple[ModuleBackend, Any]:
    """Return a probed backend, and the inputs as a sample `[rows, ...]`.

    Inputs are ambiguous: many modules accept one row without the batch dimension, too (`[16]` for `Linear(16, 4)`). The rule:

    1. Dimension 0 is the row if the model runs the inputs, and rows do not influence each other.
    2. Otherwise the inputs are one row without the batch dimension, if the model runs them with that dimension added, rows do
       not influence each other, and the answer equals the one to the unchanged inputs (if the model runs those).
    3. Otherwise dimension 0 is the row, and the model is never batched.

    The answer is the model's own in every case; the rule only decides the rank of later inputs.

    Raises:
        SignatureError: the model cannot run the inputs, with or without the added dimension.
        ConfigError: torch has no such device here.
    """
    whole, error = _probed(model, inputs, device)
    if whole is not None and whole.signature.batching != "alone":
        return whole, inputs
    row = _row(inputs)
    as_row = _probed(model, row, device)[0] if row is not None else None
    if as_row is not None and as_row.signature.batching != "alone" and _is_same_answer(model, inputs, as_row, row, device):
        return as_row, row
    if whole is None:
        raise error
    return whole, inputs


def _probed(model: nn.Module, inputs: Any, device: str | torch.device) -> tuple[ModuleBackend | None, SignatureError]:
    try:
        return eager_backend(model, [inputs], device=device), SignatureError()
    except SignatureError as error:
        return None, error


def _row(inputs: Any) -> Any:
    """Return the inputs with the batch dimension added; None if they cannot be one row."""
    if isinstance(inputs, Mapping):
        return {name: _row(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(map(_row, inputs))
    return inputs[None] if is_tensor(inputs) else one_row(to_host(inputs))


def _is_same_answer(model: nn.Module, inputs: Any, as_row: ModuleBackend, row: Any, device: str | torch.device) -> bool:
    """Return whether the model's answers to the inputs and to the row are equal; also true if it cannot run the inputs."""
    try:
        plain = unprobed_backend(model, inputs, device=device)
        direct = plain.forward(to_tensors(inputs, plain.call, plain.model))
    except NogradError:
        return True
    answer = as_row.forward(to_tensors(row, as_row.call, as_row.model))
    return direct.keys() == answer.keys() and ProbeRuns(plain.model, plain.call).same(
        dict(direct), {name: leaf[0] for name, leaf in answer.items()}
    )
