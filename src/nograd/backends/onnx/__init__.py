"""The onnx backend: ONNX Runtime runs any ONNX file. Only `export` imports torch. Extra: onnx."""

from nograd.backends.onnx.backend import OnnxBackend, load_file
from nograd.backends.onnx.session import CUDA_OPTIONS, providers_for, run_bound

__all__ = ["CUDA_OPTIONS", "OnnxBackend", "load_file", "providers_for", "run_bound"]
