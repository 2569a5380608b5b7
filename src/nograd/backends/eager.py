"""The eager backend: the module itself, in eval and inference mode. Every other backend is compared with it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from nograd.backends import TorchBackend
from nograd.errors import ConfigError, ModelError, SignatureError
from nograd.inputs import is_tensor
from nograd.module import Call, EvalMode, dtype_name, module_device, row_fault, to_tensors
from nograd.probing import probe
from nograd.structure import Restore, flatten
from nograd.tensors import Array, Batch, Signature, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EagerBackend", "resolve_device"]


def resolve_device(device: str | torch.device, model: nn.Module) -> torch.device:
    """Return the device to run on; `auto` is the module's own, or the first GPU for a module on the CPU.

    Raises:
        ConfigError: torch has no such device here.
    """
    if device == "auto":
        own = module_device(model)
        return torch.device("cuda", 0) if own.type == "cpu" and torch.cuda.is_available() else own
    try:
        return torch.empty(0, device=device).device  # names the GPU that "cuda" stands for
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device is {str(device)!r}; torch cannot use it here: {str(error).splitlines()[0]}") from error


class EagerBackend(TorchBackend):
    """Runs a module as it is.

    On a CPU the batch's memory is shared with a model that was seen to leave it alone, not copied. On a GPU batches are
    staged through pinned memory and copied without blocking, on a stream of the backend's own.
    """

    name = "eager"

    def __init__(self, model: nn.Module, signature: Signature, call: Call, restore: Restore | None = None) -> None:
        self.signature = signature
        self._model = model
        self._call = call
        self._restore = restore
        self._eval_mode = EvalMode(model)
        self._device = module_device(model)
        self.device = str(self._device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._local = threading.local()

    @classmethod
    def of(cls, model: nn.Module, samples: Sequence[Any], *, device: str | torch.device = "auto") -> EagerBackend:
        """Return a backend whose signature was probed with the samples (see `nograd.probe`).

        The caller's module is run where it is; for another device a copy of it is moved.
        """
        model = _on(model, device)
        probed = probe(model, *samples)
        return cls(model, probed.signature, probed.call, probed.restore)

    @classmethod
    def unprobed(cls, model: nn.Module, sample: Any, *, device: str | torch.device = "auto") -> EagerBackend:
        """Return a backend that knows names, dtypes and ranks from one input, and nothing of what may be batched."""
        model = _on(model, device)
        call = Call.learn(model, sample)
        specs = tuple(_loose_spec(name, tensor) for name, tensor in to_tensors(sample, call, model).items())
        return cls(model, Signature(specs, batching="alone", reason="nothing was probed: no sample was given"), call)

    def forward(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        recording = getattr(self._local, "gradients", False)
        with torch.inference_mode(not recording), torch.set_grad_enabled(recording), self._eval_mode():
            leaves = self._run({name: tensor.to(self._device) for name, tensor in tensors.items()})
        return leaves if recording else {name: leaf.clone() if leaf.is_inference() else leaf for name, leaf in leaves.items()}

    def _run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        try:
            output = self._call(self._model, tensors)
        except Exception as error:  # a model may raise anything: the caller gets it as the cause
            given = self._call.describe(tensors)
            raise ModelError(f"the model raised {type(error).__name__} on {given}: {error}") from error
        leaves, restore = flatten(output, is_tensor)
        if self._restore is None:
            self._restore = restore
        if self.signature.outputs and (fault := row_fault(leaves, len(next(iter(tensors.values()))))):
            raise ModelError(fault)
        return self._call.owned(leaves)

    def run(self, batch: Batch) -> Batch:
        with torch.inference_mode(), self._eval_mode():
            if self._stream is None:
                leaves = self._run({name: _from_host(array) for name, array in batch.items()})
                return {name: _to_host(leaf) for name, leaf in leaves.items()}
            return self._run_on_stream(batch, self._stream)

    def _run_on_stream(self, batch: Batch, stream: torch.cuda.Stream) -> Batch:
        with torch.cuda.stream(stream):
            staged = {name: _from_host(array).pin_memory() for name, array in batch.items()}
            leaves = self._run({name: t.to(self._device, non_blocking=True) for name, t in staged.items()})
            host = {name: _float32(leaf).to("cpu", non_blocking=True) for name, leaf in leaves.items()}
        stream.synchronize()
        return {name: tensor.numpy() for name, tensor in host.items()}

    def limit_threads(self, count: int) -> None:
        torch.set_num_threads(count)

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._restore(outputs) if self._restore else super().restore(outputs)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        before = getattr(self._local, "gradients", False)
        self._local.gradients = True
        try:
            yield
        finally:
            self._local.gradients = before


def _on(model: nn.Module, device: str | torch.device) -> nn.Module:
    target = resolve_device(device, model)
    return model if target == module_device(model) else copy.deepcopy(model).to(target)


def _loose_spec(name: str, tensor: Tensor) -> TensorSpec:
    if tensor.ndim == 0:
        raise SignatureError(f"input {name!r} is a single number; every input must be [rows, ...]")
    free = tuple(f"{name}_{axis}" for axis in range(1, tensor.ndim))
    return TensorSpec(name, dtype_name(tensor), free)


def _from_host(array: Array) -> Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _to_host(tensor: Tensor) -> Array:
    return _float32(tensor).contiguous().numpy()
