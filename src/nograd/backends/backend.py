"""The interface of backends. `nograd.Predictor` runs any subclass of `Backend`, also one from another package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nograd.core.tensors import Batch, Signature
from nograd.errors import ConfigError
from nograd.runtime.fingerprint import Fingerprint, of_object

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

__all__ = ["Backend", "TorchBackend", "check_lanes"]


class Backend(ABC):
    """Runs one Batch, blocking, row for row."""

    name: str
    """Name by which users select it, such as `eager`."""

    device: str
    """Device on which it runs: `cpu`, `cuda:0`, ..."""

    signature: Signature

    lanes: int = 1
    """Number of calls to `run` that may run at the same time, each in its own thread."""

    @abstractmethod
    def run(self, batch: Batch) -> Batch:
        """Return the outputs of a checked batch by name, each `[rows, ...]`; float16 and bfloat16 are returned as float32.

        Raises:
            ModelError: the model raised; its error is the cause.
        """

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        """Return outputs by name in the structure that the model itself returns."""
        return outputs["output"] if len(outputs) == 1 and "output" in outputs else dict(outputs)

    def fingerprint(self) -> Fingerprint:
        """Return a digest of everything besides the inputs that answers depend on: weights, code, precision, runtime, device.

        It is part of every cache key, so it must change whenever answers may change. The default is unique to this object:
        no other process can have it.
        """
        if not hasattr(self, "_fingerprint"):
            self._fingerprint = of_object()
        return self._fingerprint

    @property
    def problem_type(self) -> str:
        """The `problem_type` of a transformers configuration, such as `multi_label_classification`; empty: unknown."""
        return ""

    @property
    def compilations(self) -> int:
        """Graphs compiled since the warm-up; above 0, users have waited for a compiler. Most backends compile none."""
        return 0

    def limit_threads(self, count: int) -> None:  # noqa: B027  most backends have no such setting
        """Limit runs that are called from this thread to `count` threads, if the backend has such a setting."""

    def close(self) -> None:  # noqa: B027  most have nothing to release
        """Release the backend's resources. It cannot run afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class TorchBackend(Backend):
    """A backend that also accepts and returns torch tensors, on any device."""

    @abstractmethod
    def forward(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the outputs by name, on the backend's device, in the model's own dtypes.

        Raises:
            ModelError: the model raised; its error is the cause.
        """

    def forward_each(self, batches: Iterable[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """Return the outputs of each batch by name, on the CPU, possibly as inference tensors; errors as for `forward`."""
        return [{name: tensor.cpu() for name, tensor in self.forward(batch).items()} for batch in batches]

    @abstractmethod
    def gradients(self) -> AbstractContextManager[None]:
        """Return a context in which `forward` records gradients, in this thread."""


def check_lanes(lanes: int, num_threads: int | None) -> None:
    """Raise ConfigError if lanes or threads are fewer than one."""
    for name, value in (("lanes", lanes), ("num_threads", num_threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
