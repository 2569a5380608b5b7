"""Direct: the fast path of `predict` for tensors whose layout was checked before.

A tiny model runs in 25 us, and the full path (names, dtypes, shapes, devices, lanes, threads) takes three times as long. After
one call on the full path, further calls with the same names, dtypes and shapes need none of its checks.

The model runs under `torch.no_grad()`, not in inference mode: the caller may use its outputs in any way, and an output that has
no other reference is returned without a copy. A copy takes a tenth of a tiny model's time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from nograd.core.inputs import is_tensor
from nograd.core.module import Accelerated
from nograd.core.structure import flatten
from nograd.runtime.interrupts import is_interrupt

if TYPE_CHECKING:
    from nograd.backends.modules import ModuleBackend
    from nograd.core.tensors import Array, Batch, Signature

__all__ = ["Direct", "KnownLayouts"]

MAX_LAYOUTS = 1024

Layout: TypeAlias = tuple[Any, ...]

_set_gradients = torch._C._set_grad_enabled  # noqa: SLF001  what torch.no_grad calls; its context manager costs 2 us
_num_storage_users: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001
"""Returns the number of tensors and handles that share a storage. It is a private function; None: this torch lacks it."""


class Direct:
    """Runs a module on tensors of known layouts, with the same answers as the full path.

    A model may write to its inputs, which are the caller's. Unless the probe has ruled that out, the first run on the fast path
    uses copies, whose version counters reveal writes.

    Args:
        backend: runs the module. Its signature must have no limits of values, because only the full path checks them.
    """

    def __init__(self, backend: ModuleBackend) -> None:
        self.backend = backend
        self._model = backend.model
        self._device = torch.device(backend.device)
        self._call = replace(backend.call, copies=False)
        self._is_positional = self._call.style == "positional"
        self._has_rows = bool(backend.signature.outputs)
        self._is_plain = _is_plain(backend.model)
        self._returns_fresh = self._is_plain and self._device.type == "cpu" and _num_storage_users is not None
        fresh = torch.empty(0)
        self._num_references = _references(fresh)
        self._keeps_inputs = not backend.call.copies
        self._is_off = (
            self._has_rows and backend.call.copies
        )  # the probe found that the model writes to its inputs, or shares memory
        self._layouts: dict[Layout, tuple[torch.dtype, ...]] = {}
        self._is_in_eval_mode = backend.eval_mode.is_at_rest

    @staticmethod
    def can_run(backend: ModuleBackend) -> bool:
        """Whether names, dtypes and shapes are all that must be checked."""
        return backend.num_threads_set is None and all(spec.limits is None for spec in backend.signature.inputs)

    def note(self, inputs: Any) -> None:
        """Add the layout of inputs that the full path ran unchanged, without a default or a cast."""
        if type(inputs) is Tensor:
            tensors: Mapping[str, Any] = {self._call.names[0]: inputs}
        elif type(inputs) is dict:
            tensors = inputs
        else:
            return
        specs = {spec.name: spec.dtype for spec in self.backend.signature.inputs}
        fits = set(tensors) == set(self._call.names) and all(
            type(tensor) is Tensor and tensor.device == self._device and str(tensor.dtype) == f"torch.{specs[name]}"
            for name, tensor in tensors.items()
        )
        if fits and len(self._layouts) < MAX_LAYOUTS:
            key = inputs.shape if type(inputs) is Tensor else _layout(inputs)
            self._layouts[key] = tuple(tensor.dtype for tensor in tensors.values())

    def answer(self, inputs: Any) -> Any:
        """Return the model's answer, or None if the full path must be taken.

        Raises:
            ModelError: the model raised; its error is the cause.
        """
        if type(inputs) is Tensor:
            dtypes = self._layouts.get(inputs.shape)
            if dtypes is None or inputs.dtype is not dtypes[0] or inputs.device != self._device:
                return None
        elif type(inputs) is not dict or not self._fits(inputs):
            return None
        if self._is_off or not self.backend.is_unobserved or not self._is_in_eval_mode():
            return None
        if self._returns_fresh and self._is_positional and self._keeps_inputs and type(inputs) is Tensor:
            return self._run_tensor(inputs)
        return self._run(inputs) if self._keeps_inputs else self._run_on_copies(inputs)

    def _run_tensor(self, inputs: Tensor) -> Any:
        """Run one tensor; copy the output only if it has other references."""
        before = torch.is_grad_enabled()
        _set_gradients(False)  # noqa: FBT003  the C function takes it by position
        try:
            try:
                output = self._model(inputs)
            except BaseException as error:  # noqa: BLE001  a model may raise anything: see `_retried`
                output = self._retried(inputs, error)
            if type(output) is not Tensor or not _is_fresh(output, self._num_references):
                return self._owned(output, inputs)
            if self._has_rows and (not output.dim() or output.size(0) != inputs.size(0)):
                self.backend.check_rows({"output": output}, self._by_name(inputs))
            return output
        finally:
            _set_gradients(before)

    def _run(self, inputs: Any) -> Any:
        before = torch.is_grad_enabled()
        _set_gradients(False)  # noqa: FBT003
        try:
            try:
                output = self._called(inputs)
            except BaseException as error:  # noqa: BLE001  a model may raise anything: see `_retried`
                output = self._retried(inputs, error)
            return self._owned(output, inputs)
        finally:
            _set_gradients(before)

    def _called(self, inputs: Any) -> Any:
        if self._is_plain:
            return self._call(self._model, self._by_name(inputs))
        with torch.inference_mode():
            return self._call(self._model, self._by_name(inputs))

    def _retried(self, inputs: Any, error: BaseException) -> Any:
        """Run again in inference mode if the model holds state that was created in it; otherwise raise the error."""
        if is_interrupt(error):
            raise error
        if not self._is_plain or "inference tensor" not in str(error).lower():
            raise self.backend.model_error(error, self._by_name(inputs)) from error
        self._is_plain = self._returns_fresh = False
        return self._run(inputs)

    def _owned(self, output: Any, inputs: Any) -> Any:
        """Return the output with copies of its tensors, whose memory may belong to the caller or the model."""
        leaves, restore = flatten(output, is_tensor)
        if self._has_rows:
            self.backend.check_rows(leaves, self._by_name(inputs))
        return restore({name: leaf.clone() for name, leaf in leaves.items()})

    def _run_on_copies(self, inputs: Any) -> Any:
        """Run on copies. If the model changes them, the fast path is not used again."""
        copies = inputs.clone() if type(inputs) is Tensor else {name: tensor.clone() for name, tensor in inputs.items()}
        answer = self._run(copies)
        originals, given = self._by_name(inputs), self._by_name(copies)
        self._keeps_inputs = all(
            tensor._version == 0 and torch.equal(tensor, originals[name])  # noqa: SLF001  autograd's own counter
            for name, tensor in given.items()
        )
        self._is_off = not self._keeps_inputs
        return answer

    def _fits(self, inputs: dict[str, Any]) -> bool:
        if not all(type(tensor) is Tensor and tensor.device == self._device for tensor in inputs.values()):
            return False
        return self._layouts.get(_layout(inputs)) == tuple([tensor.dtype for tensor in inputs.values()])

    def _by_name(self, inputs: Any) -> Mapping[str, Tensor]:
        return {self._call.names[0]: inputs} if type(inputs) is Tensor else inputs


class KnownLayouts:
    """Converts tensors of known layouts to arrays that share the caller's memory, without another check of the layout.

    Args:
        signature: the model's signature.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._name = signature.inputs[0].name
        self._layouts: set[Layout] = set()

    def arrays(self, inputs: Any) -> Batch | None:
        """Return the inputs as arrays by name; None if the layout is unknown. Limits of values are not checked."""
        named = {self._name: inputs} if type(inputs) is Tensor else inputs
        layout = _host_layout(named) if type(named) is dict else None
        return {name: tensor.numpy() for name, tensor in named.items()} if layout in self._layouts else None

    def note(self, inputs: Any, checked: Batch) -> None:
        """Add the layout of inputs if the check returned arrays of the same memory, without a default or a cast."""
        named = {self._name: inputs} if type(inputs) is Tensor else inputs
        layout = _host_layout(named) if type(named) is dict else None
        if layout is None or named.keys() != checked.keys() or len(self._layouts) >= MAX_LAYOUTS:
            return
        if all(tensor.dtype is not torch.bfloat16 and _is_same(tensor, checked[name]) for name, tensor in named.items()):
            self._layouts.add(layout)


def _host_layout(inputs: Mapping[str, Any]) -> Layout | None:
    """Return names, shapes and dtypes of tensors; None if numpy cannot share the memory of one of them."""
    found: list[Any] = []
    for name, tensor in inputs.items():
        if type(tensor) is not Tensor or not tensor.is_cpu or tensor.requires_grad or not tensor.is_contiguous():
            return None
        found += (name, tensor.shape, tensor.dtype)
    return tuple(found)


def _is_same(tensor: Tensor, array: Array) -> bool:
    shared = tensor.numpy()
    return shared.dtype == array.dtype and shared.shape == array.shape and np.shares_memory(shared, array)


def _layout(inputs: Mapping[str, Tensor]) -> Layout:
    return tuple([(name, tensor.shape) for name, tensor in inputs.items()])


def _is_plain(model: nn.Module) -> bool:
    """Whether the module may run outside inference mode.

    A compiled module would be compiled again, the memory of a TorchScript program cannot be examined, and tensors that were
    created in inference mode must stay in it.
    """
    for module in model.modules():
        if isinstance(module, Accelerated | torch.jit.ScriptModule) or "_orig_mod" in module._modules:  # noqa: SLF001
            return False  # `_orig_mod`: a module that torch.compile returned
        if hasattr(module.forward, "_torchdynamo_orig_callable"):
            return False
        if any(is_tensor(value) and value.is_inference() for value in (*vars(module).values(), *module._buffers.values())):  # noqa: SLF001
            return False
    return True


def _references(output: Tensor) -> int:
    """Return the number of references that `_is_fresh` sees for a tensor that only its caller's frame holds."""
    return sys.getrefcount(output)


def _is_fresh(output: Tensor, num_references: int) -> bool:
    """Return whether an output and its memory have no other reference: no input, buffer, attribute or numpy array."""
    if output.requires_grad or sys.getrefcount(output) != num_references:
        return False
    storage, count = output.untyped_storage(), _num_storage_users
    return count is not None and count(storage._cdata) == 2 and storage.resizable()  # noqa: SLF001  2: the output, and `storage`
