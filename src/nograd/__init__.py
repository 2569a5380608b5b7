"""nograd: fast, correct, measured inference for trained PyTorch models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nograd.runtime.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nograd.backends import Backend, TorchBackend
    from nograd.backends.aot import export_to_pt2
    from nograd.backends.compiled import CompiledBackend, optimize_model_compile
    from nograd.backends.compiling import CompiledModel
    from nograd.backends.onnx.export import export_to_onnx
    from nograd.backends.openvino import export_to_openvino
    from nograd.backends.torchscript import export_to_torchscript
    from nograd.batching import BatchPolicy, DeadlinePolicy, Decision, LengthPolicy, measure_cost
    from nograd.bundle import Bundle
    from nograd.cached import CachedEmbedder, CachedPredictor, RedisCachedPredictor
    from nograd.caching import Cache, MemoryCache
    from nograd.checks import check
    from nograd.client.api import AsyncClient, Client
    from nograd.core.cost import CostCurve
    from nograd.core.parity import ParityReport, Tolerance, compare
    from nograd.core.tensors import Batch, Signature, TensorSpec
    from nograd.errors import NogradError
    from nograd.predictors.batcher import DynamicBatcher
    from nograd.predictors.bulk import BatchPredictor
    from nograd.predictors.predictor import Predictor
    from nograd.presets import FP16Predictor, HighThroughputPredictor, LowLatencyPredictor, ONNXPredictor
    from nograd.probing import SampleWarning, probe
    from nograd.sources import load
    from nograd.transforms.memory import MemoryEfficientModel
    from nograd.transforms.offload import offload
    from nograd.transforms.precision import to_half
    from nograd.transforms.quantize import quantize_dynamic, quantize_static
    from nograd.transforms.quantized import QuantizationReport, QuantizedModel
    from nograd.tuning.api import tune

_HOME = {
    "quantize_dynamic": "transforms.quantize",
    "quantize_static": "transforms.quantize",
    "AsyncClient": "client.api",
    "Cache": "caching",
    "Client": "client.api",
    "CachedEmbedder": "cached",
    "CachedPredictor": "cached",
    "CompiledBackend": "backends.compiled",
    "CompiledModel": "backends.compiling",
    "QuantizationReport": "transforms.quantized",
    "QuantizedModel": "transforms.quantized",
    "MemoryCache": "caching",
    "RedisCachedPredictor": "cached",
    "FP16Predictor": "presets",
    "HighThroughputPredictor": "presets",
    "LowLatencyPredictor": "presets",
    "MemoryEfficientModel": "transforms.memory",
    "ONNXPredictor": "presets",
    "ParityReport": "core.parity",
    "Tolerance": "core.parity",
    "export_to_onnx": "backends.onnx.export",
    "export_to_openvino": "backends.openvino",
    "export_to_pt2": "backends.aot",
    "export_to_torchscript": "backends.torchscript",
    "optimize_model_compile": "backends.compiled",
    "to_half": "transforms.precision",
    "offload": "transforms.offload",
    "compare": "core.parity",
    "Backend": "backends",
    "Batch": "core.tensors",
    "BatchPolicy": "batching",
    "BatchPredictor": "predictors.bulk",
    "Bundle": "bundle",
    "CostCurve": "core.cost",
    "DeadlinePolicy": "batching",
    "Decision": "batching",
    "DynamicBatcher": "predictors.batcher",
    "LengthPolicy": "batching",
    "NogradError": "errors",
    "Predictor": "predictors.predictor",
    "Signature": "core.tensors",
    "TensorSpec": "core.tensors",
    "TorchBackend": "backends",
    "check": "checks",
    "load": "sources",
    "measure_cost": "batching",
    "SampleWarning": "probing",
    "probe": "probing",
    "tune": "tuning.api",
}
"""Public name -> module that defines it. Modules are imported on first access (PEP 562), which keeps `import nograd` fast."""

__all__ = [
    "AsyncClient",
    "Backend",
    "Batch",
    "BatchPolicy",
    "BatchPredictor",
    "Bundle",
    "Cache",
    "CachedEmbedder",
    "CachedPredictor",
    "Client",
    "CompiledBackend",
    "CompiledModel",
    "CostCurve",
    "DeadlinePolicy",
    "Decision",
    "DynamicBatcher",
    "FP16Predictor",
    "HighThroughputPredictor",
    "LengthPolicy",
    "LowLatencyPredictor",
    "MemoryCache",
    "MemoryEfficientModel",
    "NogradError",
    "ONNXPredictor",
    "ParityReport",
    "Predictor",
    "QuantizationReport",
    "QuantizedModel",
    "RedisCachedPredictor",
    "SampleWarning",
    "Signature",
    "TensorSpec",
    "Tolerance",
    "TorchBackend",
    "__version__",
    "check",
    "compare",
    "export_to_onnx",
    "export_to_openvino",
    "export_to_pt2",
    "export_to_torchscript",
    "load",
    "measure_cost",
    "offload",
    "optimize_model_compile",
    "probe",
    "quantize_dynamic",
    "quantize_static",
    "to_half",
    "tune",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME, others=("__version__",))
