"""Backends: one file per way of running a batch.

`Backend` is all that the layers above know: `nograd.Predictor` runs any subclass of it, also one from another package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nograd.core.tensors import Batch, Signature
from nograd.errors import ConfigError
from nograd.runtime.fingerprint import Fingerprint, of_files, of_object, of_value
from nograd.runtime.threads import in_own_thread

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

__all__ = ["Backend", "FileFingerprint", "TorchBackend", "check_lanes"]


class Backend(ABC):
    """Runs one Batch, blocking, row for row."""

    name: str
    """The word that users select it by, such as `eager`."""

    device: str
    """Where it runs: `cpu`, `cuda:0`, ..."""

    signature: Signature

    lanes: int = 1
    """Calls to `run` that may go on side by side, each from a thread of its own."""

    @abstractmethod
    def run(self, batch: Batch) -> Batch:
        """Return the outputs of a checked batch, by name, each `[rows, ...]`; float16 and bfloat16 come as float32.

        Raises:
            ModelError: the model raised; its error is the cause.
        """

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        """Return outputs by name in the structure that the model itself returns."""
        return outputs["output"] if len(outputs) == 1 and "output" in outputs else dict(outputs)

    def fingerprint(self) -> Fingerprint:
        """Return a digest of all that the answers depend on beside the inputs: weights, code, precision, runtime, device.

        A cache keeps answers under it, so that it must change whenever answers may. A backend that does not say gets one of
        its own, which another process cannot have.
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
        """Let a run that is called from this thread compute with at most `count` threads, where that can be set."""

    def close(self) -> None:  # noqa: B027  most have nothing to give back
        """Give back what the backend holds; it answers no more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class TorchBackend(Backend):
    """A backend that also takes and gives torch tensors, wherever they live."""

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
        """Within this context, in this thread, `forward` records gradients."""


class FileFingerprint:
    """The fingerprint of a model that was loaded from files. A thread reads them during the load: 90 MB take 0.1 s.

    Args:
        path: the file.
        weights: returns the other files that belong to the model; called in the thread.
        known: a digest of all files that was computed before; nothing is read then.
    """

    def __init__(self, path: Path, weights: Callable[[Path], Sequence[Path]] | None = None, *, known: str = "") -> None:
        self._digest = in_own_thread(partial(_digest, path, weights)) if not known else _done(known)
        self._found: Fingerprint | None = None

    def of(self, *runtime: str) -> Fingerprint:
        """Return the fingerprint for a runtime: its name, version, device, ..."""
        if self._found is None:
            self._found = self._read(runtime)
        return self._found

    def _read(self, runtime: tuple[str, ...]) -> Fingerprint:
        try:
            return of_value(self._digest.result(), *runtime)
        except (OSError, ValueError) as error:
            return Fingerprint(of_object().text, f"its files could not be read a second time: {error}")


def _digest(path: Path, weights: Callable[[Path], Sequence[Path]] | None) -> str:
    return of_files(path, *(weights(path) if weights is not None else ()))


def _done(digest: str) -> Future[str]:
    found: Future[str] = Future()
    found.set_result(digest)
    return found


def check_lanes(lanes: int, num_threads: int | None) -> None:
    """Raise ConfigError where lanes or threads are fewer than one."""
    for name, value in (("lanes", lanes), ("num_threads", num_threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
