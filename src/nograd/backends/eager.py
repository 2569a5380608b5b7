"""The eager backend: the module itself. Every other backend is compared with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nograd.backends.coupling import judged
from nograd.backends.modules import ModuleBackend, resolve_device
from nograd.core.module import ModuleCall, computing_dtype, dtype_name, module_device, original_of, to_tensors
from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import SignatureError
from nograd.probing import probe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nograd.backends.kinds import LoadOptions

__all__ = ["eager_backend", "in_layout", "moved", "precision_of", "unprobed_backend"]


def eager_backend(
    model: nn.Module,
    samples: Sequence[Any],
    *,
    device: str | torch.device = "auto",
    lanes: int = 1,
    num_threads: int | None = None,
    padding: Mapping[str, float] | None = None,
) -> ModuleBackend:
    """Return a backend whose signature was probed with the samples (see `nograd.probe`).

    The caller's module is run where it is; for another device a copy of it is moved.

    Args:
        model: the module.
        samples: one or more inputs that it can run; two of different lengths are surer than one.
        device: `auto` is where the module is, or the first GPU for a module on the CPU; else a torch device.
        lanes: calls to `run` that may go on side by side.
        num_threads: threads that one of them computes with, on a CPU; default: as torch is set.
        padding: values that fill a shorter row, by input (see `nograd.probe`); default: found by the probe.

    Raises:
        SignatureError: the model cannot run a sample, or an output does not have the row as its dimension 0.
        ConfigError: torch has no such device here.
    """
    model = moved(model, device)
    probed = probe(original_of(model), *samples, padding=padding)
    signature = probed.signature
    if probed.independence is not None:
        signature = judged(signature, probed.independence.measured_on("eager", precision_of(model)))
    return ModuleBackend(
        model, signature, probed.call, probed.restore, samples=probed.samples, lanes=lanes, num_threads=num_threads
    )


def in_layout(module: ModuleBackend, options: LoadOptions) -> ModuleBackend:
    """Return a backend over the same module in the lanes and threads of the options."""
    return module.in_layout(options.lanes, options.num_threads)


def precision_of(model: nn.Module) -> str:
    """Return the name of the dtype that a module computes in; float32 if it has no floating tensors."""
    dtype = computing_dtype(model)
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def unprobed_backend(
    model: nn.Module,
    sample: Any,
    *,
    device: str | torch.device = "auto",
    reason: str = "nothing was probed: no sample was given",
) -> ModuleBackend:
    """Return a backend that knows names, dtypes and ranks from one input, and nothing of what may be batched."""
    model = moved(model, device)
    call = ModuleCall.learn(model, sample)
    specs = tuple(_loose_spec(name, tensor) for name, tensor in to_tensors(sample, call, model).items())
    return ModuleBackend(model, Signature(specs, batching="alone", reason=reason), call)


def moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Return the module if it is on the device, else a copy that is.

    Raises:
        ConfigError: torch has no such device here.
    """
    target = resolve_device(device, model)
    return model if target == module_device(model) else copy.deepcopy(model).to(target)


def _loose_spec(name: str, tensor: Tensor) -> TensorSpec:
    if tensor.ndim == 0:
        raise SignatureError(f"input {name!r} is a single number; every input must be [rows, ...]")
    free = tuple(f"{name}_{axis}" for axis in range(1, tensor.ndim))
    return TensorSpec(name, dtype_name(tensor), free)
