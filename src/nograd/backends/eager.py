"""The eager backend: the module itself. Every other backend is compared with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nograd.backends.coupling import with_independence
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

    The caller's module runs on its own device. For another device a copy is moved.

    Args:
        model: the module.
        samples: one or more inputs that it can run. Two samples of different lengths are more reliable than one.
        device: a torch device, or `auto`: the module's device, or the first GPU for a module on the CPU.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads per call on a CPU; default: torch's setting.
        padding: values that pad a shorter row, by input (see `nograd.probe`); default: found by the probe.

    Raises:
        SignatureError: the model cannot run a sample, or dimension 0 of an output is not the row.
        ConfigError: torch has no such device here.
    """
    model = moved(model, device)
    probed = probe(original_of(model), *samples, padding=padding)
    signature = probed.signature
    if probed.independence is not None:
        signature = with_independence(signature, probed.independence.measured_on("eager", precision_of(model)))
    return ModuleBackend(
        model, signature, probed.call, probed.restore, samples=probed.samples, lanes=lanes, num_threads=num_threads
    )


def in_layout(module: ModuleBackend, options: LoadOptions) -> ModuleBackend:
    """Return a backend over the same module, with the lanes and threads of the options."""
    return module.in_layout(options.lanes, options.num_threads)


def precision_of(model: nn.Module) -> str:
    """Return the name of the module's floating dtype; float32 if it has no floating tensors."""
    dtype = computing_dtype(model)
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def unprobed_backend(
    model: nn.Module,
    sample: Any,
    *,
    device: str | torch.device = "auto",
    reason: str = "nothing was probed: no sample was given",
) -> ModuleBackend:
    """Return a backend with the names, dtypes and ranks of one input. How rows may be batched is unknown."""
    model = moved(model, device)
    call = ModuleCall.learn(model, sample)
    specs = tuple(_loose_spec(name, tensor) for name, tensor in to_tensors(sample, call, model).items())
    return ModuleBackend(model, Signature(specs, batching="alone", reason=reason), call)


def moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    """Return the module if it is on the device, otherwise a copy on the device.

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
