"""The compiled backend: torch.compile, warmed over the very shapes that it will serve, with a count of what came after."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nograd.backends import Backend, TorchBackend
from nograd.backends.exporting import example_of, quiet, reference_of
from nograd.backends.modules import ModuleBackend
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.fingerprint import Fingerprint, of_value
from nograd.inputs import to_host
from nograd.probing.samples import resized, with_rows
from nograd.tensors import Batch, TensorSpec, cut_back, num_rows

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["CompiledBackend", "optimize_model_compile"]

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
MAX_GRAPHS = 256
"""Graphs of one function: torch counts them over all models of a class, and its 8 would end at the fourth model."""

RECORDING = ("reduce-overhead", "max-autotune")
"""Modes that record CUDA graphs, one for every shape."""


def optimize_model_compile(
    model: nn.Module | Backend,
    sample: Any = None,
    *,
    mode: Mode = "default",
    dynamic: bool | None = None,
    fullgraph: bool = False,
    batch_sizes: Sequence[int] = (1, 2, 4, 8, 16, 32),
    lengths: Sequence[int] = (16, 32, 64, 128, 256),
    num_threads: int | None = None,
) -> CompiledBackend:
    """Return a backend that runs the model through torch.compile, compiled and warm.

    With `dynamic` (the default, but for CUDA graphs) two graphs serve every shape: one row, and more than one. Without it
    every shape is compiled for itself; then a batch is filled up to the next of `batch_sizes` and, where rows may be padded,
    the next of `lengths`, and cut back, so that no shape comes that was not compiled before.

    Where a graph breaks the model is compiled in pieces; where nothing can be compiled it runs eagerly, with a warning. Either
    way `reason` says why. What was compiled is kept on disk by torch (TORCHINDUCTOR_CACHE_DIR): the next start is quick.

    Args:
        model: a module, or an eager backend.
        sample: inputs that the module can run; None for a backend.
        mode: torch.compile's. `reduce-overhead` and `max-autotune` record CUDA graphs on a GPU; on a CPU the former changes
            nothing.
        dynamic: whether a graph takes any shape; None: yes, unless CUDA graphs are recorded.
        fullgraph: never in pieces: a model that breaks its graph runs eagerly.
        batch_sizes: rows of the runs that are warmed up; without `dynamic`, all that there will be.
        lengths: the same for dimensions that vary.
        num_threads: threads that a run computes with, on a CPU; default: as torch is set.

    Raises:
        ConfigError: a setting is not allowed.
        SignatureError: the model cannot run the sample.
    """
    if mode not in MODES:
        raise ConfigError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    for name, sizes in (("batch_sizes", batch_sizes), ("lengths", lengths)):
        if not sizes or min(sizes) < 1:
            raise ConfigError(f"{name} is {tuple(sizes)}; it must hold one size or more, each at least 1")
    reference = reference_of(model, sample)
    if num_threads is not None:
        reference = reference.in_layout(1, num_threads)
    backend = CompiledBackend(
        reference, mode=mode, dynamic=dynamic, fullgraph=fullgraph, batch_sizes=batch_sizes, lengths=lengths
    )
    backend.warm_up()
    return backend


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
        self.reason = ""
        """Why the model is not compiled in one piece; empty where it is."""

        self._reference = reference
        self._records = mode in RECORDING and self.device.startswith("cuda")
        self._dynamic = not self._records if dynamic is None else dynamic
        self._mode, self._fullgraph = mode, fullgraph
        self._batch_sizes = tuple(sorted(set(batch_sizes)))
        self._lengths = tuple(sorted(set(lengths)))
        self._compiled = 0
        self._warm_compilations = 0
        self._lock = threading.Lock()
        self._inner = self._with_graphs(fullgraph=True)

    @property
    def compilations(self) -> int:
        """Graphs compiled since the warm-up; above 0, users have waited for a compiler."""
        return self._compiled - self._warm_compilations

    def fingerprint(self) -> Fingerprint:
        own = self._reference.fingerprint()
        return own if own.private_because else of_value(own.text, self.name, self._mode)

    # -- compiling

    def warm_up(self) -> None:
        """Compile for everything that will be served; where that fails, in pieces; where that fails too, not at all."""
        attempts = [True] if self._fullgraph else [True, False]
        for in_one_piece in attempts:
            self._inner = self._with_graphs(fullgraph=in_one_piece)
            try:
                with quiet(), torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):  # noqa: SLF001
                    self._run_all_shapes()
            except ModelError as error:
                self.reason = self.reason or _reason(error)
            else:
                self._warm_compilations = self._compiled
                return
        self._inner = self._reference
        self._warm_compilations = self._compiled
        warnings.warn(f"the model runs eagerly, not compiled: {self.reason}", stacklevel=3)

    def _with_graphs(self, *, fullgraph: bool) -> ModuleBackend:
        reference = self._reference
        options: dict[str, Any] = {"dynamic": self._dynamic, "fullgraph": fullgraph}
        module: Any = torch.compile(reference.model, backend=self._counted, **options)
        return ModuleBackend(module, reference.signature, reference.call, reference.restore, name=self.name,
                             has_gradients=False, num_threads=reference.num_threads)  # fmt: skip

    def _counted(self, graph: Any, example_inputs: Any) -> Any:
        """Count, and hand the graph to inductor, as torch.compile does for a mode."""
        from torch._inductor import list_mode_options
        from torch._inductor.compile_fx import compile_fx

        with self._lock:
            self._compiled += 1
        return compile_fx(graph, example_inputs, config_patches=list_mode_options(self._mode, self._dynamic))

    def _run_all_shapes(self) -> None:
        sizes = self._batch_sizes if not self._dynamic else sorted({1, 2, max(self._batch_sizes)})
        dims = self.signature.lengths
        lengths = [self._sizes_of(dim) for dim in dims]
        for rows, *each in product(sizes, *lengths):
            batch = self._shaped(rows, dict(zip(dims, each, strict=True)))
            if self._runs_eagerly(batch):
                self._inner.run(batch)

    def _runs_eagerly(self, batch: Batch) -> bool:
        """A size may be below what the model takes: an image smaller than the kernel."""
        try:
            self._reference.run(batch)
        except ModelError:
            return False
        return True

    def _sizes_of(self, dim: str) -> list[int]:
        """A dynamic graph takes every size but 1, for which torch compiles another; fixed ones take one size each."""
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
        with torch.inference_mode():  # clones made here are what warm-up compiled for; other tensors would compile anew
            tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        return self._inner.forward(tensors)

    def run(self, batch: Batch) -> Batch:
        if self._dynamic or self._inner is self._reference:
            return self._inner.run(batch)
        most, rows = self._batch_sizes[-1], num_rows(batch)
        parts = [
            self._run_filled({name: array[start : start + most] for name, array in batch.items()})
            for start in range(0, rows, most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]

    def _run_filled(self, batch: Batch) -> Batch:
        """Run at the next warm shape, and give back what was asked."""
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
        """Return the next warm size; a longer one than all runs at its own, and is compiled then."""
        most = self.signature.max_sizes.get(dim)
        return next((bucket for bucket in buckets if bucket >= size and (most is None or bucket <= most)), size)

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._reference.restore(outputs)

    def limit_threads(self, count: int) -> None:
        self._inner.limit_threads(count)

    def gradients(self) -> AbstractContextManager[None]:
        raise UnsupportedError("backend 'compiled' has no gradients: they would compile anew; use eager")


def _filled(array: Any, spec: TensorSpec, rows: int, sizes: Mapping[str, int]) -> Any:
    """Return an array with copies of its first row added, and its varying dimensions filled with the pad value."""
    widths = [(0, rows - len(array))]
    widths += [
        (0, sizes[size] - given if isinstance(size, str) else 0)
        for size, given in zip(spec.shape, array.shape[1:], strict=True)
    ]
    if not any(after for _, after in widths):
        return array
    wide = np.pad(array, [(0, 0), *widths[1:]], constant_values=spec.pad_value)
    return np.concatenate([wide, np.repeat(wide[:1], rows - len(wide), axis=0)]) if rows > len(wide) else wide


def _reason(error: ModelError) -> str:
    """Return what torch gives as the reason, without its page of advice."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    told = " ".join(line for line in lines[:4] if not line.startswith("Hint"))
    return f"{type(cause).__name__}: {told[:300]}"
