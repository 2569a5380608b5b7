"""ModuleBackend: runs a torch module: Python code, a compiled graph, or a loaded program."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch

from nograd.backends import FileFingerprint, TorchBackend, check_lanes
from nograd.backends.changes import ChangeWatch
from nograd.core.inputs import is_tensor, without_inference_tensors
from nograd.core.module import EvalMode, ModuleCall, module_device, problem_type, row_fault
from nograd.core.structure import Restore, flatten, left_out
from nograd.core.tensors import Array, Batch, Signature, dtype_name
from nograd.errors import ConfigError, InputSizeError, ModelError, UnsupportedError
from nograd.runtime.fingerprint import Fingerprint, of_value
from nograd.runtime.interrupts import is_interrupt
from nograd.runtime.threads import in_own_thread

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ModuleBackend", "resolve_device"]


def resolve_device(device: str | torch.device, model: nn.Module) -> torch.device:
    """Return the device to run on; `auto` is the module's device, or the first GPU for a module on the CPU.

    Raises:
        ConfigError: torch has no such device here.
    """
    if device == "auto":
        own = module_device(model)
        return torch.device("cuda", 0) if own.type == "cpu" and torch.cuda.is_available() else own
    try:
        return torch.empty(0, device=device).device  # replace "cuda" by the name of the current GPU
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device is {str(device)!r}; torch cannot use it here: {str(error).splitlines()[0]}") from error


class ModuleBackend(TorchBackend):
    """Runs a module in eval and inference mode.

    On a CPU the batch's memory is shared with a model that does not write to its inputs, not copied. On a GPU batches are
    staged through pinned memory and copied without blocking, on the backend's own stream.

    Args:
        model: the module.
        signature: signature of the module.
        call: how the module is called.
        restore: restores the model's output structure from outputs by name; default: learned from the first run.
        name: the backend's.
        samples: inputs that it was probed with; exports need them.
        device: device of a program without parameters; default: the device of the parameters.
        has_gradients: whether autograd works through it.
        lanes: number of calls to `run` that may run at the same time.
        num_threads: threads per call on a CPU; default: torch's setting.
        file: fingerprint of the file, for a program whose content cannot be examined.
        problem_type: problem type of a program that was loaded from a file; default: the module's.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        signature: Signature,
        call: ModuleCall,
        restore: Restore | None = None,
        *,
        name: str = "eager",
        samples: Sequence[Mapping[str, Tensor]] = (),
        device: torch.device | None = None,
        has_gradients: bool = True,
        lanes: int = 1,
        num_threads: int | None = None,
        file: FileFingerprint | None = None,
        problem_type: str = "",
    ) -> None:
        check_lanes(lanes, num_threads)
        self.name = name
        self.signature = signature
        self.model, self.call, self.samples = model, call, tuple(samples)
        self.lanes = lanes
        self._num_threads = num_threads
        self._restore = restore
        self._is_examined = False
        self.eval_mode = EvalMode(model)
        """Sets the module's mode for a run."""

        self._device = device or module_device(model)
        self.device = str(self._device)
        self._is_on_cpu = self._device.type == "cpu"
        self._has_gradients = has_gradients
        self._local = threading.local()
        self._file = file
        self._problem_type = problem_type
        self._known: tuple[ChangeWatch, Fingerprint] | None = None
        self._num_recording = 0
        self.is_unobserved = True
        """Whether a run only needs eval mode: it does not record gradients or watch for changes."""

        self.accepts_coupled_rows = False
        """Whether the user accepts coupled rows: exported files then declare that such rows may be batched."""

        self._reading = threading.Lock()

    def in_layout(self, lanes: int, num_threads: int | None) -> ModuleBackend:
        """Return a backend over the same module with other lanes and threads."""
        return ModuleBackend(
            self.model, self.signature, self.call, self._restore, name=self.name, samples=self.samples, device=self._device,
            has_gradients=self._has_gradients, lanes=lanes, num_threads=num_threads, file=self._file,
            problem_type=self._problem_type,
        )  # fmt: skip

    @property
    def problem_type(self) -> str:
        return self._problem_type or problem_type(self.model)

    @property
    def num_threads(self) -> int:
        """Threads per run on a CPU."""
        return self._num_threads or torch.get_num_threads()

    def forward(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        recording = getattr(self._local, "gradients", False)
        with self._threads(), torch.inference_mode(not recording), torch.set_grad_enabled(recording), self.eval_mode():
            leaves = self._run(self._moved(tensors))
        return leaves if recording else without_inference_tensors(leaves)

    def forward_each(self, batches: Iterable[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        if getattr(self._local, "gradients", False):
            return super().forward_each(batches)
        # entered once, because it costs as much as a small model
        with self._threads(), torch.inference_mode(), self.eval_mode(), self._watched():
            return self._run_each(batches)

    def _run_each(self, batches: Iterable[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Run batches.

        Single tensors are examined after all runs, because the examination evicts code from processor caches.
        """
        found: list[Any] = []
        rows: list[int] = []
        may_wait = self._is_on_cpu and not self.call.copies
        for tensors in batches:
            output = self._called(tensors if may_wait and all(map(_is_on_cpu, tensors.values())) else self._moved(tensors))
            rows.append(_num_rows(tensors))
            found.append(output if may_wait and type(output) is torch.Tensor else self._leaves_on_cpu(output, rows[-1]))
        for place, (output, count) in enumerate(zip(found, rows, strict=True)):
            if type(output) is torch.Tensor:
                is_usual = place and output.ndim and len(output) == count
                found[place] = {"output": output} if is_usual else self._leaves_on_cpu(output, count)
        return found

    def _leaves_on_cpu(self, output: Any, rows: int) -> dict[str, Tensor]:
        return {name: leaf.cpu() for name, leaf in self._leaves(output, rows).items()}

    def _moved(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _watched(self) -> AbstractContextManager[None]:
        """Return a context in which the module runs. Attributes that it sets itself do not count as changes."""
        return nullcontext() if self._known is None else self._known[0].running()

    def _run(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._watched():
            output = self._called(tensors)
        return self._leaves(output, _num_rows(tensors))

    def _called(self, tensors: Mapping[str, Tensor]) -> Any:
        try:
            return self.call(self.model, tensors)
        except BaseException as error:  # a model may raise any error; it becomes the cause
            if is_interrupt(error):
                raise
            raise self.model_error(error, tensors) from error

    def _leaves(self, output: Any, rows: int) -> dict[str, Tensor]:
        """Return the outputs by name, with checked rows."""
        leaves, restore = flatten(output, is_tensor)
        if not self._is_examined:
            self._is_examined = True
            _warn_of_left_out(output)
        if self._restore is None:
            self._restore = restore
        if self.signature.outputs and (fault := row_fault(leaves, rows)):
            raise ModelError(fault)
        return self.call.owned(leaves)

    def model_error(self, error: BaseException, tensors: Mapping[str, Tensor]) -> ModelError:
        """Return the error to raise for an error of the model."""
        message = f"the model raised {type(error).__name__} on {self.call.describe(tensors)}: {_message_of(error)}"
        if isinstance(error, IndexError) and (known := self._size_beyond_samples(tensors)):
            return InputSizeError(f"{message}; {known}")
        return ModelError(message)

    def _size_beyond_samples(self, tensors: Mapping[str, Tensor]) -> str:
        """Return a description of a size that is larger than in all samples; empty if there is none."""
        for dim, (name, axis) in self.signature.places.items():
            sizes = [sample[name].shape[axis] for sample in self.samples if name in sample]
            if sizes and name in tensors and (size := tensors[name].shape[axis]) > max(sizes):
                return f"input {name!r} has {size} {dim}; the samples have at most {max(sizes)}"
        return ""

    def check_rows(self, leaves: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        """Raise ModelError if an output does not have the rows of the inputs."""
        if fault := row_fault(leaves, _num_rows(tensors)):
            raise ModelError(fault)

    @property
    def num_threads_set(self) -> int | None:
        """Threads that each run sets; None: torch's setting."""
        return self._num_threads

    def run(self, batch: Batch) -> Batch:
        with self._threads(), torch.inference_mode(), self.eval_mode():
            stream = self._stream()
            if stream is None:
                leaves = self._run({name: _from_host(array) for name, array in batch.items()})
                return {name: _to_host(leaf) for name, leaf in leaves.items()}
            return self._run_on_stream(batch, stream)

    def _threads(self) -> AbstractContextManager[None]:
        """Return a context with the requested number of threads.

        The calling thread's setting is restored; OpenMP has one per thread.
        """
        before = torch.get_num_threads()  # the first use in a thread copies torch's setting; otherwise all cores compute
        if self._num_threads in (None, before):
            return nullcontext()
        return self._with_threads(before)

    @contextmanager
    def _with_threads(self, before: int) -> Iterator[None]:
        torch.set_num_threads(self.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _stream(self) -> torch.cuda.Stream | None:
        """Return the calling thread's stream. Each lane has its own, so that lanes do not wait for each other."""
        if not hasattr(self._local, "stream"):
            on_gpu = self._device.type == "cuda"
            self._local.stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        stream: torch.cuda.Stream | None = self._local.stream
        return stream

    def _run_on_stream(self, batch: Batch, stream: torch.cuda.Stream) -> Batch:
        """Run on a stream of this lane, after the work that the caller's stream holds, such as an update of the weights."""
        stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(stream):
                staged = {name: _from_host(array).pin_memory() for name, array in batch.items()}
                leaves = self._run({name: t.to(self._device, non_blocking=True) for name, t in staged.items()})
                host = {name: _float32(leaf).to("cpu", non_blocking=True) for name, leaf in leaves.items()}
            stream.synchronize()
        except ModelError:
            raise
        except Exception as error:  # errors of kernels arrive with a later call: a copy, or `synchronize`
            raise self.model_error(error, {name: _from_host(array) for name, array in batch.items()}) from error
        return {name: tensor.numpy() for name, tensor in host.items()}

    def fingerprint(self) -> Fingerprint:
        """Return a digest of the module's weights, attributes and code; it is recomputed after changes (see `changes`)."""
        runtime = (self.name, self._device.type, torch.__version__)
        if self._file is not None:
            return self._file.of(*runtime)
        known = self._known
        if known is not None and not known[0].changed():
            return known[1]
        with self._reading:  # other threads wait instead of reading the module as well
            if self._known is None or self._known[0].changed():
                self.is_unobserved = False
                watch = ChangeWatch(self.model)  # before reading, so that changes during reading are detected the next time
                self._known = watch, of_value(*runtime, self.call, self.model)
            return self._known[1]

    def limit_threads(self, count: int) -> None:
        before = torch.get_num_threads()  # read it in any case: the first use in a thread sets it again
        torch.set_num_threads(count)  # for this thread and all later ones, which may run other models
        in_own_thread(lambda: torch.set_num_threads(before)).result()

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._restore(outputs) if self._restore else super().restore(outputs)

    @contextmanager
    def gradients(self) -> Iterator[None]:
        if not self._has_gradients:
            raise UnsupportedError(f"backend {self.name!r} has no gradients; use eager")
        before = getattr(self._local, "gradients", False)
        self._local.gradients = True
        self._count_recording(1)
        try:
            yield
        finally:
            self._count_recording(-1)
            self._local.gradients = before

    def _count_recording(self, change: int) -> None:
        with self._reading:
            self._num_recording += change
            self.is_unobserved = self._known is None and not self._num_recording


def _warn_of_left_out(output: Any) -> None:
    found = left_out(output, is_tensor)
    if found:
        named = ", ".join(f"{name!r} ({kind})" for name, kind in found.items())
        warnings.warn(
            f"the model returns entries that are not tensors: {named}; answers contain None in their place",
            stacklevel=2,
        )


def _message_of(error: BaseException) -> str:
    """Return an error's message without the stack of native code that torch's C++ adds."""
    return str(error).split("\nException raised from")[0]


_is_on_cpu = attrgetter("is_cpu")


def _num_rows(tensors: Mapping[str, Tensor]) -> int:
    return next(iter(tensors.values())).shape[0]


def _from_host(array: Array) -> Tensor:
    if dtype_name(array.dtype) == "bfloat16":
        return torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _to_host(tensor: Tensor) -> Array:
    return _float32(tensor).contiguous().numpy()
