"""Direct: the short path of `predict` for tensors whose layout was checked before.

A tiny model runs in 25 us, and the full path (names, dtypes, shapes, devices, lanes, threads) takes three times as long. After
one call on the full path, another one with the same names, dtypes and shapes needs none of its checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from nograd.inputs import is_tensor
from nograd.interrupts import is_interrupt
from nograd.structure import flatten

if TYPE_CHECKING:
    from nograd.backends.modules import ModuleBackend

__all__ = ["Direct"]

MAX_LAYOUTS = 1024

Layout: TypeAlias = tuple[Any, ...]


class Direct:
    """Runs a module on tensors of known layouts; answers as the full path does.

    A model may write to its inputs, which are the caller's. Unless the probe has shown that it does not, the first run on the
    short path is made with copies, whose version counters tell.

    Args:
        backend: runs the module; its signature has no limits of values, which the full path must check.
    """

    def __init__(self, backend: ModuleBackend) -> None:
        self.backend = backend
        self._model = backend.model
        self._device = torch.device(backend.device)
        self._call = replace(backend.call, copies=False)
        self._is_positional = self._call.style == "positional"
        self._has_rows = bool(backend.signature.outputs)
        self._keeps_inputs = not backend.call.copies
        self._is_off = self._has_rows and backend.call.copies  # the probe saw the model write, or share its memory
        self._layouts: dict[Layout, tuple[torch.dtype, ...]] = {}

    @staticmethod
    def can_run(backend: ModuleBackend) -> bool:
        """Whether nothing but names, dtypes and shapes has to be checked."""
        return backend.num_threads_set is None and all(spec.limits is None for spec in backend.signature.inputs)

    def note(self, inputs: Any) -> None:
        """Remember the layout of inputs that the full path has answered just as they are, without a default or a cast."""
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
        if self._is_off or not self.backend.is_at_rest():
            return None
        if not self._keeps_inputs:
            return self._try(inputs)
        return self._run(inputs)

    def _run(self, inputs: Any) -> Any:
        try:
            with torch.inference_mode():
                if type(inputs) is not Tensor:
                    output = self._call(self._model, inputs)
                elif self._is_positional:
                    output = self._model(inputs)
                else:
                    output = self._call(self._model, {self._call.names[0]: inputs})
        except BaseException as error:  # a model may raise anything: the caller gets it as the cause
            if is_interrupt(error):
                raise
            raise self.backend.model_error(error, self._named(inputs)) from error
        if type(output) is Tensor and not self._has_rows:
            return output.clone()  # made in inference mode, or the caller's or the model's own memory
        leaves, restore = flatten(output, is_tensor)
        if self._has_rows:
            self.backend.check_rows(leaves, self._named(inputs))
        return restore({name: leaf.clone() for name, leaf in leaves.items()})

    def _try(self, inputs: Any) -> Any:
        """Run on copies; if the model changed them, this was the last run here."""
        copies = inputs.clone() if type(inputs) is Tensor else {name: tensor.clone() for name, tensor in inputs.items()}
        answer = self._run(copies)
        originals, given = self._named(inputs), self._named(copies)
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

    def _named(self, inputs: Any) -> Mapping[str, Tensor]:
        return {self._call.names[0]: inputs} if type(inputs) is Tensor else inputs


def _layout(inputs: Mapping[str, Tensor]) -> Layout:
    return tuple([(name, tensor.shape) for name, tensor in inputs.items()])
