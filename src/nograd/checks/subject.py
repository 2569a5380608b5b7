"""ModelSubject and TorchSubject: the inputs of the model checks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nograd.checks.arrays import difference, lively, row, varied
from nograd.checks.resources import available_bytes, resident_bytes
from nograd.core.cost import CostCurve
from nograd.core.inputs import to_host
from nograd.core.tensors import Batch, Signature
from nograd.errors import ConfigError, ModelError
from nograd.predictors.predictor import Predictor
from nograd.runtime.cores import usable_cores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nograd.backends.modules import ModuleBackend

__all__ = ["ModelSubject", "TorchSubject", "model_subject", "module_backend", "torch_subject"]

TOLERANCE = 1e-3
"""Largest difference, relative to an output's largest value, that another order of float32 arithmetic may cause; the same as
for probing backends (`nograd.backends.coupling`). MiniLM alone and in a batch of 32 differ by 1e-6.
"""

HALF_TOLERANCE = 2e-2
"""Tolerance for float16 (11 significant bits) and bfloat16 (8)."""

MAX_ROWS = 8


@dataclass(frozen=True, slots=True)
class ModelSubject:
    """A model that runs, with sample rows and its answers to them."""

    name: str
    predictor: Predictor
    rows: Batch
    """Sample inputs, 2 to 8 rows, checked."""

    one: Batch
    """The smallest batch that runs: one row, or all `rows` if one row alone does not run."""

    answer: Batch
    """The model's first answer to `rows`."""

    is_repeatable: bool
    """True if two more runs gave the same answer."""

    first_s: float
    """Seconds of the first run, of `one`."""

    max_batch_size: int = 32
    memory_left: int | None = None
    """Bytes that the process may still take; None if unknown."""

    cores: float = 1
    """Processors that the process may use; a fraction if a container has a quota."""

    curve: CostCurve | None = None
    tolerance: float = TOLERANCE
    clock: Callable[[], float] = time.perf_counter

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs."""
        return self.predictor.signature

    def run(self, batch: Batch) -> Batch:
        """Run a batch as the server would."""
        return self.predictor.run(batch)


@dataclass(frozen=True, slots=True)
class TorchSubject:
    """The torch module inside a model."""

    module: nn.Module
    backend: ModuleBackend
    sample: dict[str, Tensor]
    """Inputs by name, on the module's device; at least two rows."""

    model: ModelSubject

    @contextmanager
    def as_found(self) -> Iterator[None]:
        """Allow any mode of the module within this context; on exit, restore buffers, attributes and the random state."""
        import torch

        from nograd.probing.runs import as_found

        with torch.random.fork_rng(devices=[]), as_found(self.module):
            yield

    def answer(self, sample: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the module's own answer by name, in its current mode; the inputs are copied first."""
        from nograd.core.inputs import is_tensor
        from nograd.core.structure import flatten

        given = {name: tensor.clone() for name, tensor in (sample or self.sample).items()}
        leaves, _ = flatten(self.backend.call(self.module, given), is_tensor)
        return leaves


def model_subject(
    predictor: Predictor,
    *,
    name: str,
    max_batch_size: int = 32,
    memory_bytes: int | None = None,
    cores: float | None = None,
    curve: CostCurve | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ModelSubject:
    """Run a predictor's sample three times, and return the subject of its checks.

    Raises:
        ConfigError: a setting is out of its range.
        NogradError: the model cannot run its own sample.
    """
    if max_batch_size < 1:
        raise ConfigError(f"max_batch_size is {max_batch_size}; it must be at least 1")
    rows, one, first_s = _first_run(predictor, clock)
    answer = predictor.run(rows)
    tolerance = _tolerance(predictor)
    is_repeatable = all(difference(answer, predictor.run(rows)) <= tolerance for _ in range(2))
    left = available_bytes() or None if memory_bytes is None else max(0, memory_bytes - resident_bytes())
    return ModelSubject(
        name, predictor, rows, one, answer, is_repeatable, first_s, max_batch_size, left,
        usable_cores() if cores is None else cores, curve or predictor.cost, tolerance, clock,
    )  # fmt: skip


def _first_run(predictor: Predictor, clock: Callable[[], float]) -> tuple[Batch, Batch, float]:
    """Return sample rows, the smallest batch of them that runs, and the seconds of its first run."""
    given = _sample_rows(predictor)
    raised: ModelError | None = None
    for sample in (lively(given, predictor.signature), given):
        rows = varied(sample, 2)
        for one in (row(rows, 0), rows):
            begun = clock()
            try:
                predictor.run(one)
            except ModelError as failure:
                raised = failure
                continue
            return rows, one, clock() - begun
    raise raised or ConfigError("the model has no sample")


def _sample_rows(predictor: Predictor) -> Batch:
    """Return the rows that the model was probed with; without such rows, its example."""
    backend = module_backend(predictor)
    if backend is None or not backend.samples:
        return predictor.example_part
    return predictor.signature.check({name: to_host(tensor[:MAX_ROWS]) for name, tensor in backend.samples[0].items()})


def _tolerance(predictor: Predictor) -> float:
    backend = module_backend(predictor)
    if backend is None:
        return TOLERANCE
    dtypes = {str(parameter.dtype) for parameter in backend.model.parameters()}
    return HALF_TOLERANCE if dtypes & {"torch.float16", "torch.bfloat16"} else TOLERANCE


def torch_subject(subject: ModelSubject) -> TorchSubject | None:
    """Return the module inside a model; None unless the model runs as an eager torch module."""
    backend = module_backend(subject.predictor)
    if backend is None or backend.name != "eager" or not backend.samples:
        return None
    from nograd.probing.samples import first_rows, with_rows

    sample = with_rows(first_rows(dict(backend.samples[0]), MAX_ROWS), 2)
    return TorchSubject(backend.model, backend, sample, subject)


def module_backend(predictor: Predictor) -> ModuleBackend | None:
    """Return the backend if it runs a torch module, else None. For other backends, torch is not imported."""
    modules = sys.modules.get("nograd.backends.modules")
    return predictor.backend if modules is not None and isinstance(predictor.backend, modules.ModuleBackend) else None
