"""The compiled backend: torch.compile, warmed up with the shapes that it will serve. Later compilations are counted."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from nograd.backends import Backend, TorchBackend
from nograd.backends.compiling import MODES, CompiledModel, Mode
from nograd.backends.coupling import measured_signature, without_independence
from nograd.backends.eager import precision_of
from nograd.backends.exporting import check_module, example_of, reference_of
from nograd.backends.modules import ModuleBackend
from nograd.core.inputs import to_host
from nograd.core.module import original_of
from nograd.core.tensors import Batch, TensorSpec, cut_back, num_rows
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.probing.samples import resized, with_rows
from nograd.runtime.fingerprint import Fingerprint, of_value

if TYPE_CHECKING:
    from nograd.backends.kinds import LoadOptions

__all__ = ["CompiledBackend", "compiled_backend", "optimize_model_compile"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32)

MAX_GRAPHS = 256
"""Maximum graphs of one model if each shape is compiled separately; torch's own limit is 8."""

RECORDING = ("reduce-overhead", "max-autotune")
"""Modes that record one CUDA graph per shape."""

RUNS_TO_RECORD = 3
"""Runs of a shape until its graph is replayed: the first warms up, the second records."""


@overload
def optimize_model_compile(
    model: nn.Module,
    sample: Any = None,
    *,
    mode: Mode = "default",
    dynamic: bool | None = None,
    fullgraph: bool = False,
    batch_sizes: Sequence[int] = ...,
    lengths: Sequence[int] = ...,
    num_threads: int | None = None,
) -> CompiledModel: ...
@overload
def optimize_model_compile(
    model: Backend,
    sample: Any = None,
    *,
    mode: Mode = "default",
    dynamic: bool | None = None,
    fullgraph: bool = False,
    batch_sizes: Sequence[int] = ...,
    lengths: Sequence[int] = ...,
    num_threads: int | None = None,
) -> CompiledBackend: ...
def optimize_model_compile(
    model: nn.Module | Backend,
    sample: Any = None,
    *,
    mode: Mode = "default",
    dynamic: bool | None = None,
    fullgraph: bool = False,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lengths: Sequence[int] = (16, 32, 64, 128, 256),
    num_threads: int | None = None,
) -> CompiledModel | CompiledBackend:
    """Return the model compiled with torch.compile: a module for a module, a backend for a backend.

    The compiled module is called like the model, and accepts every size that the model accepts (see `CompiledModel`). Without
    a sample it compiles at its first call. With a sample, the model is probed and compiled for all sizes to be served before
    this function returns; the module's `backend` then runs named arrays.

    With `dynamic` (the default with a sample, except for CUDA graphs) two graphs serve every shape: one for a single row, and
    one for more rows. Without it every shape is compiled separately. A backend then fills a batch up to the next of
    `batch_sizes` and, if rows may be padded, to the next of `lengths`, and cuts the answer back: no other shape is compiled.

    A model with graph breaks is compiled in pieces. A model that cannot be compiled runs eagerly, with one warning. `reason`
    gives the cause in both cases. torch caches compiled graphs on disk (TORCHINDUCTOR_CACHE_DIR), which makes restarts fast.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend, or to compile at the first call.
        mode: torch.compile's mode. `reduce-overhead` and `max-autotune` record CUDA graphs on a GPU; on a CPU the former has no
            effect.
        dynamic: whether one graph serves all shapes. None: yes with a sample, unless CUDA graphs are recorded; without a
            sample torch decides from the sizes of the calls.
        fullgraph: True: never compile in pieces; a model with graph breaks runs eagerly.
        batch_sizes: numbers of rows to warm up, with a sample. Without `dynamic`, batches have no other sizes.
        lengths: the same for dimensions that vary.
        num_threads: threads of one run of the backend, on a CPU; default: torch's setting.

    Raises:
        ConfigError: a setting is not allowed, or the model is not a module.
        SignatureError: the model cannot run the sample.
    """
    _check_settings(mode, batch_sizes, lengths)
    if isinstance(model, Backend) or sample is not None:
        reference = reference_of(model, sample)
        if num_threads is not None:
            reference = reference.in_layout(1, num_threads)
        backend = CompiledBackend(
            reference, mode=mode, dynamic=dynamic, fullgraph=fullgraph, batch_sizes=batch_sizes, lengths=lengths
        )
        backend.warm_up()
        return backend if isinstance(model, Backend) else backend.model
    check_module(model)
    return CompiledModel(original_of(model), mode=mode, dynamic=dynamic, fullgraph=fullgraph, max_graphs=None)


def compiled_backend(module: ModuleBackend, options: LoadOptions) -> CompiledBackend:
    """Return a compiled backend over an eager one; it has one lane. See `optimize_model_compile`."""
    largest = options.max_batch_size
    sizes = BATCH_SIZES if largest is None else sorted({1, 2, largest})
    return optimize_model_compile(module, batch_sizes=sizes, num_threads=options.num_threads)


def _check_settings(mode: Mode, batch_sizes: Sequence[int], lengths: Sequence[int]) -> None:
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    for name, sizes in (("batch_sizes", batch_sizes), ("lengths", lengths)):
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"{name} is {tuple(sizes)}; it must contain at least one size, each at least 1")


def records_graphs(mode: Mode, device: str, *, dynamic: bool | None) -> bool:
    """Return whether the mode records CUDA graphs, each for one shape.

    Raises:
        ConfigError: `dynamic` is True, which would record a graph for each shape without a limit.
    """
    records = mode in RECORDING and device.startswith("cuda")
    if records and dynamic:
        raise ConfigError(
            f"dynamic is True and mode {mode!r}, which records a CUDA graph for each shape and keeps it: "
            "leave dynamic out, or use mode='default'"
        )
    return records


class CompiledBackend(TorchBackend):
    """Runs a module through torch.compile; made by `optimize_model_compile`."""

    name = "compiled"

    def __init__(
        self,
        reference: ModuleBackend,
        *,
        mode: Mode,
        dynamic: bool | None,
        fullgraph: bool,
        batch_sizes: Sequence[int],
        lengths: Sequence[int],
    ) -> None:
        self.signature, self.device = reference.signature, reference.device
        records = records_graphs(mode, self.device, dynamic=dynamic)
        self._dynamic = not records if dynamic is None else dynamic
        self._runs_per_shape = RUNS_TO_RECORD if records else 1
        self._replaying: AbstractContextManager[object] = threading.Lock() if records else nullcontext()
        self._reference, self._mode = reference, mode
        self._batch_sizes = tuple(sorted(set(batch_sizes)))
        self._lengths = tuple(sorted(set(lengths)))
        self._warm_compilations = 0
        max_graphs = None if self._dynamic else MAX_GRAPHS
        self.model = CompiledModel(
            original_of(reference.model), mode=mode, dynamic=self._dynamic, fullgraph=fullgraph, max_graphs=max_graphs
        )
        """The module that is run; called directly it takes and returns what the model does."""

        self.model.warmed_by(self)
        self._inner = ModuleBackend(self.model, reference.signature, reference.call, reference.restore, name=self.name,
                                    has_gradients=False, num_threads=reference.num_threads)  # fmt: skip

    @property
    def reason(self) -> str:
        """Why the model is not compiled in one piece; empty if it is."""
        return self.model.reason

    @property
    def problem_type(self) -> str:
        return self._reference.problem_type

    @property
    def compilations(self) -> int:
        """Graphs compiled since the warm-up; above 0, users have waited for a compiler."""
        return self.model.num_graphs - self._warm_compilations

    def fingerprint(self) -> Fingerprint:
        own = self._reference.fingerprint()
        return own if own.private_because else of_value(own.text, self.name, self._mode)

    # -- compiling

    def warm_up(self) -> None:
        """Compile all shapes to be served. If one fails, compile all in the next way (see `CompiledModel`)."""
        way = None
        while self.model.way != way and self.model.way.is_compiled:
            way = self.model.way
            self._run_all_shapes()
        self._measure()
        self._warm_compilations = self.model.num_graphs

    def _run_all_shapes(self) -> None:
        sizes = self._batch_sizes if not self._dynamic else sorted({1, 2, max(self._batch_sizes)})
        dims = self.signature.lengths
        lengths = [self._sizes_of(dim) for dim in dims]
        if self._dynamic:
            lengths = make_distinct(lengths, taken=sizes)
        for rows, *each in product(sizes, *lengths):
            batch = self._shaped(rows, dict(zip(dims, each, strict=True)))
            if self._runs_eagerly(batch):
                for _ in range(self._runs_per_shape):
                    self._inner.run(batch)

    def _measure(self) -> None:
        """Measure the independence of rows of the compiled code, which may differ from eager's."""
        samples = [{name: to_host(tensor) for name, tensor in sample.items()} for sample in self._reference.samples]
        precision = precision_of(self._reference.model)
        signature = without_independence(self._reference.signature)
        self.signature = measured_signature(self.run, samples, signature, precision=precision, backend=self.name)

    def _runs_eagerly(self, batch: Batch) -> bool:
        """Return whether eager runs the inputs; a size may be too small for the model, such as an image smaller than the
        kernel.
        """
        try:
            self._reference.run(batch)
        except ModelError:
            return False
        return True

    def _sizes_of(self, dim: str) -> list[int]:
        """Return the sizes to warm up. A dynamic graph serves every size except 1, which torch compiles separately."""
        smallest, largest = self.signature.size_range(dim)
        most = max(self._lengths) if largest is None else largest
        allowed = [size for size in self._lengths if smallest <= size <= most] or [self.signature.allowed_size(dim, most)]
        return sorted({smallest, allowed[-1]} if self._dynamic else allowed)

    def _shaped(self, rows: int, sizes: Mapping[str, int]) -> Batch:
        tensors = with_rows(example_of(self._reference), rows)
        for spec in self.signature.inputs:
            for axis, size in enumerate(spec.shape, start=1):
                if isinstance(size, str):
                    tensors = resized(tensors, [(spec.name, axis)], sizes[size])
        return {name: to_host(tensor[:rows].contiguous()) for name, tensor in tensors.items()}

    # -- running

    def forward(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.inference_mode():  # warm-up compiled for clones made here; other tensors would cause another compilation
            tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        with self._replaying:
            return self._inner.forward(tensors)

    def run(self, batch: Batch) -> Batch:
        with self._replaying:
            return self._run(batch)

    def _run(self, batch: Batch) -> Batch:
        if self._dynamic or not self.model.way.is_compiled:
            return self._inner.run(batch)
        most, rows = self._batch_sizes[-1], num_rows(batch)
        parts = [
            self._run_filled({name: array[start : start + most] for name, array in batch.items()})
            for start in range(0, rows, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]

    def _run_filled(self, batch: Batch) -> Batch:
        """Run at the next warm shape, and cut the outputs back to the requested shape."""
        signature, rows = self.signature, num_rows(batch)
        can_pad = signature.batching == "pad"
        sizes = dict(zip(signature.lengths, signature.sizes_of(batch), strict=True))
        targets = {dim: self._next(size, self._lengths, dim) if can_pad else size for dim, size in sizes.items()}
        filled_rows = next(size for size in self._batch_sizes if size >= rows) if signature.batching != "alone" else rows
        outputs = self._inner.run(
            {spec.name: _filled(batch[spec.name], spec, filled_rows, targets) for spec in signature.inputs}
        )
        return cut_back({name: array[:rows] for name, array in outputs.items()}, signature.outputs, sizes)

    def _next(self, size: int, buckets: Sequence[int], dim: str) -> int:
        """Return the next warm size; a size above all warm ones is returned as it is, and compiled at its run."""
        most = self.signature.max_sizes.get(dim)
        return next((bucket for bucket in buckets if bucket >= size and (most is None or bucket <= most)), size)

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._reference.restore(outputs)

    def limit_threads(self, count: int) -> None:
        self._inner.limit_threads(count)

    def gradients(self) -> AbstractContextManager[None]:
        raise UnsupportedError("backend 'compiled' has no gradients, because they need another compilation; use eager")


def _filled(array: Any, spec: TensorSpec, rows: int, sizes: Mapping[str, int]) -> Any:
    """Return an array with copies of its first row appended, and its varying dimensions padded."""
    widths = [(0, rows - len(array))]
    widths += [
        (0, sizes[size] - given if isinstance(size, str) else 0)
        for size, given in zip(spec.shape, array.shape[1:], strict=True)
    ]
    if not any(after for _, after in widths):
        return array
    wide = np.pad(array, [(0, 0), *widths[1:]], constant_values=spec.pad_value)
    return np.concatenate([wide, np.repeat(wide[:1], rows - len(wide), axis=0)]) if rows > len(wide) else wide


def make_distinct(lengths: Sequence[Sequence[int]], *, taken: Sequence[int]) -> list[list[int]]:
    """Return the sizes of each dimension, the largest lowered until it differs from all other dimensions and numbers of rows.

    torch assumes that dimensions of equal size in the example are the same (duck shapes), and recompiles when they differ.
    """
    used, found = set(taken), []
    for *smaller, largest in lengths:
        lowest = smaller[-1] + 1 if smaller else largest
        size = next((size for size in range(largest, lowest - 1, -1) if size not in used), largest)
        used.add(size)
        found.append([*smaller, size])
    return found
