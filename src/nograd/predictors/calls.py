"""Calls: runs a Predictor's inputs, on its backend if that is known, otherwise directly on the module.

This module imports torch only if the inputs or the model are torch's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nograd.backends import Backend, TorchBackend
from nograd.batching.collate import plan, run_together
from nograd.caching.answers import Answers
from nograd.core.inputs import by_name, holds_tensors, is_module, is_tensor, to_host
from nograd.core.model_kinds import not_a_model
from nograd.core.scores import choose_output
from nograd.core.tensors import Batch, Signature
from nograd.errors import SignatureError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nograd.backends.direct import Direct, KnownLayouts
    from nograd.backends.learning import Learner
    from nograd.caching.answers import Run

__all__ = ["Calls", "as_tensors"]

MAX_BATCH_SIZE = 32


class Calls:
    """A model and the way its calls run.

    Args:
        model: a backend, a module, or a Learner.
        device: device of a module, as for `Predictor`.
        padding: padding values of a module, as for `Predictor`.

    Raises:
        ConfigError: `model` has another type, or torch has no such device here.
    """

    def __init__(
        self,
        model: nn.Module | Backend | Learner,
        device: str | torch.device = "auto",
        padding: Mapping[str, float] | None = None,
    ) -> None:
        self.backend: Backend | None = None
        """Backend that runs batches; None until the model's inputs are known."""

        self.learner: Learner | None = None
        """Learns a module's inputs; None for a backend."""

        self.is_strict = True
        """Whether inputs must be like a given sample; otherwise the model itself raises for inputs that it cannot run."""

        self.answers: Answers | None = None
        """Cache of answers, for a cached predictor."""

        self.direct: Direct | None = None
        """Fast path for tensors of known layouts."""

        self._layouts: KnownLayouts | None = None
        self._local = threading.local()
        if isinstance(model, Backend):
            self.backend = model
        else:
            self.learner = _learner(model, device, padding)

    def known(self) -> Backend:
        """Return the backend; a module without a sample is probed with the first input that ran.

        Raises:
            UnsupportedError: no sample was given, and no call has run yet.
        """
        if self.backend is None and self.learner is not None:
            self.backend = self.learner.settle_if_possible()
        if self.backend is None:
            raise UnsupportedError("the model's inputs are not known yet; give `sample=`, or predict once")
        return self.backend

    def settle(self, samples: Sequence[Any]) -> None:
        """Probe with samples, unless the model is probed already.

        Raises:
            SignatureError: the model cannot run a sample.
        """
        if self.learner is not None and (self.backend is None or not self.backend.signature.outputs):
            self.backend = self.learner.settle(samples)

    def settle_if_possible(self, samples: Sequence[Any]) -> None:
        """Probe with samples; if that fails, each call runs separately.

        Raises:
            ModelError: the model raised on the first sample.
        """
        if self.backend is None and self.learner is not None:
            self.backend = self.learner.settle_if_possible(samples)

    def learn(self, inputs: Any) -> None:
        """Probe with inputs `[rows, ...]` or one row without the batch dimension, unless the model is probed already.

        Raises:
            SignatureError: the model cannot run the inputs.
        """
        if self.backend is None and self.learner is not None:
            self.backend = self.learner.learn(inputs)

    def outputs(self, inputs: Any) -> tuple[Backend, Mapping[str, Any]]:
        """Return outputs by name, on the device of the inputs, and the backend that ran.

        Raises:
            SignatureError: a name, dtype, shape or number of rows does not fit the model.
            ModelError: the model raised.
        """
        if self.backend is None and self.learner is not None and (self.learner.decides or self.answers is not None):
            self.settle_if_possible([inputs])
        if self.backend is not None:
            try:
                return self.backend, self._known_outputs(inputs, self.backend)
            except SignatureError:
                if self.is_strict or self.learner is None:
                    raise
        learner = cast("Learner", self.learner)
        if not holds_tensors(inputs):
            return learner.run(inputs, _check_arrays, _run_arrays)
        from nograd.core.module import check_tensors

        backend, outputs = learner.run(inputs, check_tensors, _run_tensors)
        self._shorten(backend, inputs)
        return backend, outputs

    def scores(self, inputs: Any, output: str | None) -> tuple[Any, str]:
        """Return an output that holds class scores, `[rows, classes]`, and the model's problem type; see `choose_output`."""
        answer = None if self.direct is None else self.direct.answer(inputs)
        if self.direct is not None and is_tensor(answer):
            problem = self.direct.backend.problem_type
            return choose_output({"output": answer}, output, problem), problem
        backend, outputs = self.outputs(inputs)
        return choose_output(outputs, output, backend.problem_type), backend.problem_type

    def _known_outputs(self, inputs: Any, backend: Backend) -> Mapping[str, Any]:
        """Check inputs against the backend's signature, and run them."""
        if type(inputs) is np.ndarray or not holds_tensors(inputs):
            part = backend.signature.check(by_name(inputs, backend.signature))
            return backend.run(part) if self.answers is None else self.answered([part])[0]
        gradients = getattr(self._local, "gradients", False)
        if self.answers is not None and not gradients and (found := self._recalled(inputs, backend)) is not None:
            return found
        named = by_name(inputs, backend.signature)
        if isinstance(backend, TorchBackend) and (self.answers is None or gradients):
            from nograd.core.module import check_tensors

            outputs = _run_tensors(backend, check_tensors(named, backend.signature))
            self._shorten(backend, inputs)
            return outputs
        origin = next(value.device for value in named.values() if is_tensor(value))
        part = backend.signature.check(to_host(named))
        if self._layouts is not None:
            self._layouts.note(inputs, part)
        answered = as_tensors(self.answered([part])[0])
        return answered if origin.type == "cpu" else {name: tensor.to(origin) for name, tensor in answered.items()}

    def _recalled(self, inputs: Any, backend: Backend) -> Mapping[str, Any] | None:
        """Return outputs of tensors whose layout was checked before, from the cache if possible; None for other inputs.

        Cached values need no check, because only checked values were stored.
        """
        from nograd.backends.direct import KnownLayouts

        if self._layouts is None or self._layouts.signature is not backend.signature:
            self._layouts = KnownLayouts(backend.signature)
        part = self._layouts.arrays(inputs)
        return None if part is None else as_tensors(self.answered([part], self._run_checked)[0])

    def _run_checked(self, parts: Sequence[Batch]) -> list[Batch]:
        """Check parts and run them like `run_parts`."""
        return self.run_parts(list(map(self.known().signature.check, parts)))

    def _shorten(self, backend: Backend, inputs: Any) -> None:
        """Register the layout of these inputs for the fast path."""
        if self.answers is not None:
            return
        from nograd.backends.direct import Direct
        from nograd.backends.modules import ModuleBackend

        if not isinstance(backend, ModuleBackend) or not Direct.can_run(backend):
            return
        if self.direct is None or self.direct.backend is not backend:
            self.direct = Direct(backend)
        self.direct.note(inputs)

    def answered(self, parts: Sequence[Batch], run: Run | None = None) -> list[Batch]:
        """Return the outputs of each part, from the cache or from a run.

        Args:
            parts: checked parts, or parts that `run` checks.
            run: returns the outputs of parts; default: `run_parts`.
        """
        run = self.run_parts if run is None else run
        if self.answers is None or (self.learner is not None and self.learner.failure):
            return list(run(parts))
        return list(self.answers.of(parts, run, self.known().signature))

    def run_parts(self, parts: Sequence[Batch]) -> list[Batch]:
        """Run checked parts, grouped by similar length; return the outputs of each."""
        backend = self.known()
        if len(parts) == 1:
            return [backend.run(parts[0])]
        outputs: dict[int, Batch] = {}
        for group in plan(parts, backend.signature, MAX_BATCH_SIZE):
            chosen = [parts[position] for position in group]
            outputs.update(zip(group, run_together(chosen, backend.run, backend.signature), strict=True))
        return [outputs[position] for position in range(len(parts))]

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """Return a context in which calls with tensors record gradients, in this thread.

        Raises:
            UnsupportedError: the backend does not use torch, or the model's inputs are not known yet.
        """
        backend = self.known()
        if not isinstance(backend, TorchBackend):
            raise UnsupportedError(f"backend {backend.name!r} has no gradients; use a torch backend such as eager")
        with backend.gradients():
            before = getattr(self._local, "gradients", False)
            self._local.gradients = True  # cached answers have no gradients
            try:
                yield
            finally:
                self._local.gradients = before

    def close(self) -> None:
        """Release the resources of backend and cache."""
        if self.backend is not None:
            self.backend.close()
        if self.answers is not None:
            self.answers.close()


def as_tensors(outputs: Batch) -> dict[str, Tensor]:
    """Return arrays as torch tensors that share their memory."""
    import torch

    return {name: torch.from_numpy(array) for name, array in outputs.items()}


def _learner(model: Any, device: Any, padding: Mapping[str, float] | None) -> Learner:
    if "torch" in sys.modules:  # otherwise there is no module and no learner
        from nograd.backends.learning import Learner

        if is_module(model):
            return Learner(model, device, padding=padding)
        if isinstance(model, Learner):
            return model
    raise not_a_model(model)


def _check_arrays(named: Mapping[str, Any], signature: Signature) -> Batch:
    return signature.check(named)


def _run_arrays(backend: Backend, batch: Batch) -> Batch:
    return backend.run(batch)


def _run_tensors(backend: TorchBackend, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the outputs on the device of the inputs."""
    origin = next(iter(named.values())).device
    return {name: tensor.to(origin) for name, tensor in backend.forward(named).items()}
