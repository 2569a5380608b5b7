"""nograd: a trained PyTorch model in, fast, correct, measured inference out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nograd.backends import Backend, TorchBackend
    from nograd.batching import BatchPolicy, DeadlinePolicy, Decision, DynamicBatcher, LengthPolicy, measure_cost
    from nograd.bulk import BatchPredictor
    from nograd.cost import CostCurve
    from nograd.errors import NogradError
    from nograd.predictor import Predictor
    from nograd.probing import probe
    from nograd.sources import load
    from nograd.tensors import Batch, Signature, TensorSpec

_HOME = {
    "Backend": "backends",
    "Batch": "tensors",
    "BatchPolicy": "batching",
    "BatchPredictor": "bulk",
    "CostCurve": "cost",
    "DeadlinePolicy": "batching",
    "Decision": "batching",
    "DynamicBatcher": "batching",
    "LengthPolicy": "batching",
    "NogradError": "errors",
    "Predictor": "predictor",
    "Signature": "tensors",
    "TensorSpec": "tensors",
    "TorchBackend": "backends",
    "load": "sources",
    "measure_cost": "batching",
    "probe": "probing",
}
"""Public name -> the module it lives in; imported when first asked for (PEP 562), so that `import nograd` costs nothing."""

__all__ = [
    "Backend",
    "Batch",
    "BatchPolicy",
    "BatchPredictor",
    "CostCurve",
    "DeadlinePolicy",
    "Decision",
    "DynamicBatcher",
    "LengthPolicy",
    "NogradError",
    "Predictor",
    "Signature",
    "TensorSpec",
    "TorchBackend",
    "__version__",
    "load",
    "measure_cost",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nograd' has no attribute {name!r}")
    return getattr(import_module(f"nograd.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
