"""Learner: a module without a sample, which is probed with its first inputs.

A call runs the module directly and does not depend on the probe. The probe (about twenty runs) is delayed until rows must be
batched, and uses the first input that ran. If it fails, no call fails (docs/adr/0019).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from nograd.backends.eager import eager_backend, moved, unprobed_backend
from nograd.backends.first_inputs import backend_from_inputs
from nograd.backends.modules import resolve_device
from nograd.core.inputs import by_name
from nograd.core.module import check_tensors, to_tensors
from nograd.core.tensors import Signature
from nograd.errors import NogradError, SignatureError
from nograd.runtime.threads import in_own_thread

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nograd.backends import Backend
    from nograd.backends.modules import ModuleBackend

__all__ = ["Build", "Learner"]

FIRST_ROWS = 8
"""Maximum rows of the first input that are stored for the probe, which uses no more."""

MAX_LAYOUTS = 8
"""Maximum kinds of input to store, because each call may have other names, dtypes and ranks."""

Checked = TypeVar("Checked")
Outputs = TypeVar("Outputs")

Build: TypeAlias = "Callable[[nn.Module, Sequence[Any]], Backend]"
"""Makes the backend from a module on its device, and samples."""


class Learner:
    """Makes the backend of a module once its inputs are known.

    Args:
        model: the module. For another device a copy is moved at the first use.
        device: as for `eager_backend`.
        build: makes the backend; default: a probed eager one.
        padding: values that pad shorter rows, by input; the probe verifies them.

    Raises:
        ConfigError: torch has no such device here.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device = "auto",
        build: Build | None = None,
        *,
        padding: Mapping[str, float] | None = None,
    ) -> None:
        resolve_device(device, model)
        self._given, self._device = model, device
        self._build = build
        self._padding = padding
        self._placed: nn.Module | None = None
        self._lock = threading.RLock()
        self._loose: tuple[ModuleBackend, ...] = ()
        self._first: dict[str, Tensor] | None = None
        self.settled: Backend | None = None
        """The backend that runs batches; None until it is known."""

        self.failure = ""
        """Why the first inputs could not be probed; empty if they were, or if there were none."""

    @property
    def decides(self) -> bool:
        """Whether the first input is used to choose the backend before it is answered."""
        return self._build is not None

    @property
    def device(self) -> torch.device:
        """Device of the module."""
        return resolve_device(self._device, self._given)

    @property
    def model(self) -> nn.Module:
        """The module, on its device."""
        with self._lock:
            if self._placed is None:
                self._placed = moved(self._given, self._device)
            return self._placed

    @property
    def first(self) -> Mapping[str, Tensor] | None:
        """The first rows of the first input that ran."""
        return self._first

    def settle(self, samples: Sequence[Any]) -> Backend:
        """Return the backend made with samples; later samples do not change it.

        Raises:
            SignatureError: the model cannot run a sample, or dimension 0 of an output is not the row.
        """
        with self._lock:
            if self.settled is None or not self.settled.signature.outputs:
                build = self._build or partial(eager_backend, device=self.device, padding=self._padding)
                self.settled = in_own_thread(partial(build, self.model, samples)).result()
                self.failure = ""
            return self.settled

    def settle_if_possible(self, samples: Sequence[Any] = ()) -> Backend | None:
        """Return the backend; if a probe fails, one that runs each call separately. None: no inputs are known.

        Args:
            samples: inputs that the model can run; default: the first input that ran.

        Raises:
            ModelError: the model raised on the first sample.
        """
        with self._lock:
            if self.settled is not None:
                return self.settled
            chosen = list(samples) or ([self._first] if self._first is not None else [])
            if not chosen:
                return None
            try:
                backend = self.settle(chosen)
                self._remember_first(chosen[0], backend.signature)
                return backend
            except Exception as error:  # noqa: BLE001  a probe tries what no caller did, and the caller is answered without it
                return self._settle_loosely(chosen[0], error)

    def learn(self, inputs: Any) -> Backend:
        """Return the backend, probed with inputs `[rows, ...]` or with one row without the batch dimension.

        Raises:
            SignatureError: the model cannot run the inputs, with or without an added batch dimension.
        """
        with self._lock:
            if self.settled is None and self._build is None and not self._padding:
                try:
                    found = in_own_thread(partial(backend_from_inputs, self.model, inputs, device=self.device)).result()
                except SignatureError as error:
                    return self._settle_if_it_runs(inputs, error)
                self.settled, sample = found
                self._remember_first(sample, self.settled.signature)
            return self.settled or cast("Backend", self.settle_if_possible([inputs]))

    def _settle_if_it_runs(self, inputs: Any, error: SignatureError) -> Backend:
        try:
            return self._settle_loosely(inputs, error)
        except NogradError:
            raise error from None

    def _settle_loosely(self, sample: Any, error: Exception) -> Backend:
        reason = f"the first input could not be probed: {error}"
        backend = unprobed_backend(self.model, sample, device=self.device, reason=reason)
        tensors = to_tensors(sample, backend.call, self.model)
        in_own_thread(partial(backend.forward, tensors)).result()
        self.settled, self.failure = backend, str(error)
        if self._build is not None:
            warnings.warn(f"the model runs eagerly: {reason}", stacklevel=2)
        return backend

    def _remember_first(self, inputs: Any, signature: Signature) -> None:
        if self._first is None:
            tensors = check_tensors(by_name(inputs, signature), signature)
            self._first = {name: tensor[:FIRST_ROWS].detach().clone() for name, tensor in tensors.items()}

    def run(
        self,
        inputs: Any,
        check: Callable[[Mapping[str, Any], Signature], Checked],
        run: Callable[[ModuleBackend, Checked], Outputs],
    ) -> tuple[ModuleBackend, Outputs]:
        """Run inputs in the form of the module's arguments; return the backend and its outputs.

        Args:
            inputs: tensors, arrays or lists; a single one, several in order, or by name.
            check: converts the inputs for a signature.
            run: runs the converted inputs.

        Raises:
            SignatureError: the inputs differ in kind from earlier ones, and the model cannot run them.
            ModelError: the model raised on its first inputs, or on inputs of the same kind as earlier ones.
        """
        refusal: SignatureError | None = None
        for backend in self._loose:
            try:
                checked = check(by_name(inputs, backend.signature), backend.signature)
            except SignatureError as error:
                refusal = refusal or error
            else:
                return backend, run(backend, checked)
        try:
            fresh = unprobed_backend(self.model, inputs, device=self.device)
            outputs = run(fresh, check(by_name(inputs, fresh.signature), fresh.signature))
        except NogradError as error:
            if refusal is None:
                raise
            raise refusal from error
        self._remember(fresh, inputs)
        return fresh, outputs

    def _remember(self, backend: ModuleBackend, inputs: Any) -> None:
        with self._lock:
            self._loose = (*self._loose, backend)[-MAX_LAYOUTS:]
            self._remember_first(inputs, backend.signature)
