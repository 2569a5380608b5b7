"""Sessions of ONNX Runtime: providers, options, runs on a GPU. The only module that imports onnxruntime to run a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nograd.core.tensors import Array, Batch
from nograd.errors import ConfigError, MissingExtraError, ModelLoadError

try:
    import onnxruntime
except ImportError:
    raise MissingExtraError("onnxruntime", "onnx") from None

__all__ = [
    "CUDA_OPTIONS",
    "VERSION",
    "available_providers",
    "device_in_use",
    "open_session",
    "providers_for",
    "run_bound",
    "session_options",
]

VERSION: str = onnxruntime.__version__
"""Version of ONNX Runtime."""


CUDA_OPTIONS = {
    "use_tf32": "0",  # its default is 10 bits of mantissa for float32, also in matrix products: answers differ by 1e-3
    "cudnn_conv_algo_search": "HEURISTIC",  # the default measures all algorithms for each new shape
    "arena_extend_strategy": "kSameAsRequested",  # the default doubles the memory
}
"""Options of ONNX Runtime's CUDA provider."""


def available_providers() -> list[str]:
    """Return the execution providers of this build of ONNX Runtime."""
    return list(onnxruntime.get_available_providers())


def providers_for(device: str, available: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the providers to request from ONNX Runtime, in order of preference, and their options.

    Raises:
        ConfigError: the device is none of `auto`, `cpu`, `cuda` and `cuda:N`, or this build has no CUDA.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device is {device!r}; it must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    has_cuda = "CUDAExecutionProvider" in available
    if kind == "cuda" and not has_cuda:
        raise ConfigError(
            f"device is {device!r}; this onnxruntime has {', '.join(available)}: for CUDA, pip install onnxruntime-gpu"
        )
    if kind == "cpu" or not has_cuda:
        return ["CPUExecutionProvider"], [{}]
    return ["CUDAExecutionProvider", "CPUExecutionProvider"], [{"device_id": index or "0", **CUDA_OPTIONS}, {}]


def device_in_use(
    device: str, wanted: Sequence[str], found: Sequence[str], provider_options: Sequence[Mapping[str, str]]
) -> str:
    """Return the device in use. If CUDA does not start, ONNX Runtime uses the CPU; raise ConfigError if CUDA was requested."""
    if wanted[0] == "CPUExecutionProvider":
        return "cpu"
    if wanted[0] in found:
        return f"cuda:{provider_options[0]['device_id']}"
    if device != "auto":
        raise ConfigError(f"device is {device!r}, and CUDA did not start; ONNX Runtime uses {', '.join(found)} and logged why")
    return "cpu"


def session_options(num_threads: int, *, spins: bool) -> Any:
    """Return the options of a session that computes with a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.log_severity_level = 3  # errors only; ONNX Runtime warns about every unused initializer
    return options


def open_session(path: Path, options: Any, providers: Sequence[str], provider_options: Sequence[Mapping[str, str]]) -> Any:
    """Return a session over a file.

    Raises:
        ModelLoadError: the file does not exist, or ONNX Runtime cannot load it.
    """
    if not path.is_file():
        raise ModelLoadError(f"there is no file {path}")
    try:
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), provider_options=list(map(dict, provider_options))
        )
    except Exception as error:  # one of a dozen kinds of errors, none of them public
        raise ModelLoadError(f"ONNX Runtime cannot load {path}: {type(error).__name__}: {error}") from error


def run_bound(session: Any, batch: Batch, outputs: Sequence[str], index: int) -> list[Array]:
    """Run on a GPU. The outputs stay there until all are ready, and are then copied to the host together.

    Args:
        session: session of ONNX Runtime.
        batch: arrays by input.
        outputs: names in the graph; the arrays have their order.
        index: index of the session's GPU.
    """
    binding = session.io_binding()
    for name, array in batch.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name, "cuda", index)
    session.run_with_iobinding(binding)
    arrays: list[Array] = binding.copy_outputs_to_cpu()
    return arrays
