"""Case: one trained model with labelled data, as every backend and precision is measured on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Arrays", "Case", "class_accuracy", "in_batches", "run_eager", "to_tensors"]

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Inputs or outputs of one run by name, every array `[rows, ...]`."""


@dataclass(frozen=True, slots=True)
class Case:
    """A trained model, labelled inputs as a user would batch them, and the accuracy that eager fp32 reaches on them."""

    name: str

    model: nn.Module
    """In eval mode, float32, on the CPU."""

    sample: dict[str, Tensor]
    """A few rows, at least two, that the probe may run."""

    batches: list[Arrays]
    """The labelled inputs, at most 32 rows each."""

    single: list[Arrays]
    """Inputs of one row, taken from the labelled ones, for the latency of one request."""

    calibration: list[Arrays]
    """Unlabelled inputs for static quantization; none is in `batches`."""

    accuracy: Callable[[Sequence[Arrays]], float]
    """From the outputs for `batches`, by output name and in their order, the share of labelled rows that are right."""

    reference: float
    """What `accuracy` gave for eager fp32 when the case was written."""

    is_convolutional: bool

    def __post_init__(self) -> None:
        if self.model.training:
            raise ValueError(f"the model of {self.name} is in training mode; it must be in eval mode")

    @property
    def num_rows(self) -> int:
        """Rows in `batches`, unlabelled ones included."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches)


def in_batches(arrays: Arrays, max_rows: int) -> list[Arrays]:
    """Return the rows in order, `max_rows` at a time; the last batch may be smaller."""
    rows = len(next(iter(arrays.values())))
    return [{name: array[at : at + max_rows] for name, array in arrays.items()} for at in range(0, rows, max_rows)]


def to_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Return torch tensors that share no memory with the arrays."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def run_eager(case: Case) -> list[Arrays]:
    """Return the model's outputs for `batches`: float32, eager, a lone tensor under the name `output`, as nograd names it."""
    results: list[Arrays] = []
    with torch.inference_mode():
        for batch in case.batches:
            found = case.model(**to_tensors(batch))
            named = {"output": found} if isinstance(found, Tensor) else found
            results.append({name: tensor.numpy() for name, tensor in named.items()})
    return results


def class_accuracy(accepted: Sequence[Sequence[int]]) -> Callable[[Sequence[Arrays]], float]:
    """Return the share of rows whose largest value of `output` `[rows, classes]` is in one of the classes accepted for it.

    Args:
        accepted: for each row, in the order of the batches, the classes that are right.
    """

    def accuracy(outputs: Sequence[Arrays]) -> float:
        # float32 first: bfloat16 arrays of other runtimes have no argmax
        chosen = np.concatenate([batch["output"].astype(np.float32).argmax(1) for batch in outputs])
        return float(np.mean([row in right for row, right in zip(chosen.tolist(), accepted, strict=True)]))

    return accuracy
