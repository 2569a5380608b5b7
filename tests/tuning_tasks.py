"""Tasks for candidates' processes: small models, and some that crash, hang or grow once they run in a process of their own."""

from __future__ import annotations

import os
import threading
from typing import Any

import torch
from torch import Tensor, nn

from nograd import Predictor
from nograd.backends.modules import ModuleBackend
from nograd.core.parity import HALF, Tolerance
from nograd.tuning.bench import Metric, Task
from nograd.tuning.data import sample_of
from nograd.tuning.workload import workload_of


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class Misbehaves(Classifier):
    """Like the classifier in the process that made it; elsewhere it does what it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.home = os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home:
            if self.how == "crashes":
                os.abort()
            if self.how == "raises":
                raise ValueError("not here")
            if self.how == "grows":
                self.kept = bytearray(300_000_000)
            threading.Event().wait()
        return super().forward(x)


def task_of(
    model: nn.Module, sample: Any = None, *, tolerance: Tolerance = HALF, metric: Metric | None = None,
    records: tuple[dict[str, Any], ...] = (),
) -> Task:  # fmt: skip
    """What `nograd.tuning.tuner` makes of a model and its sample."""
    torch.manual_seed(1)
    rows = torch.randn(12, 8) if sample is None else sample
    predictor = Predictor(model, device="cpu", sample=rows)
    assert isinstance(predictor.backend, ModuleBackend)
    workload = workload_of(sample_of(predictor, rows), predictor.signature, 1e-4)
    expected = [dict(predictor.run(batch)) for batch in workload.proof_batches()]
    return Task(predictor, predictor.backend, workload, expected, records, tolerance, metric)
