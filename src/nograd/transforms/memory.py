"""Models that do not fit: recomputed activations for gradients, parameters loaded layer by layer, batches cut in two."""

from __future__ import annotations

import difflib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from nograd.backends import Backend
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.module import Wrapper
from nograd.tensors import Batch, num_rows

__all__ = ["MemoryEfficientModel", "SplittingBackend", "offload", "peak_bytes"]


_SWAPPING = threading.RLock()
"""Held while a layer's forward is another: two threads would each put back what the other had set."""


class MemoryEfficientModel(Wrapper):
    """A model whose layers forget their activations and compute them again when gradients need them.

    For explanations and fine-tuning: memory grows with one layer and the borders between layers, instead of with all layers,
    for one more forward pass (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016). Gradients are the same,
    dropout included: its random numbers are drawn again from the same state. Without gradients nothing is done at all. The
    model itself, its names and its parameters are left as they are.

    Args:
        model: the model.
        layers: names (as in `named_modules`) or classes of the layers; default: the members of every ModuleList, which is
            what transformers keep their layers in, else of the largest Sequential. Of two nested ones the outer counts.

    Raises:
        ConfigError: there is no such layer, or none was found.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str | type[nn.Module]] | None = None) -> None:
        super().__init__(model)
        names = _layers_of(model) if layers is None else _named(model, layers)
        self.layers = tuple(name for name in names if not any(name.startswith(f"{other}.") for other in names))
        """Names of the layers that are recomputed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        if not torch.is_grad_enabled():
            return self.wrapped(*args, **kwargs)
        # A checkpointed layer is called through its class's forward, set on the instance for this call and its backward pass.
        modules = {id(module): module for module in map(self.wrapped.get_submodule, self.layers)}
        with _SWAPPING, ExitStack() as stack:
            for module in modules.values():
                stack.enter_context(_checkpointed(module))
            return self.wrapped(*args, **kwargs)


@contextmanager
def _checkpointed(module: nn.Module) -> Iterator[None]:
    """Within this context the module runs under torch.utils.checkpoint."""
    own = module.__dict__.get("forward")
    forward = module.forward

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    module.forward = recomputed  # type: ignore[method-assign]
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own  # type: ignore[method-assign]


def _layers_of(model: nn.Module) -> list[str]:
    lists = [
        f"{name}.{index}".lstrip(".")
        for name, module in model.named_modules() if isinstance(module, nn.ModuleList) for index in range(len(module))
    ]  # fmt: skip
    if lists:
        return lists
    chains = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Sequential) and len(module) > 1]
    if not chains:
        raise ConfigError("the model has neither a ModuleList nor a Sequential; name the layers to recompute in `layers`")
    name, chain = max(chains, key=lambda each: len(each[1]))
    return [f"{name}.{index}".lstrip(".") for index in range(len(chain))]


def _named(model: nn.Module, layers: Sequence[str | type[nn.Module]]) -> list[str]:
    known = dict(model.named_modules())
    found: list[str] = []
    for layer in layers:
        if isinstance(layer, str):
            if layer not in known or not layer:
                near = ", ".join(difflib.get_close_matches(layer, known, 3)) or ", ".join(list(known)[1:4])
                raise ConfigError(f"there is no layer {layer!r}; the model has, for example, {near}")
            found.append(layer)
        else:
            members = [name for name, module in known.items() if name and isinstance(module, layer)]
            if not members:
                raise ConfigError(f"the model has no layer of the class {layer.__name__}")
            found += members
    return found


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the largest number of bytes that tensors made during `work` held at one time.

    On a GPU torch's own count, above what was held before. On a CPU the storages that operations return are counted while
    they live; buffers inside an operation are not seen.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with _Storages() as storages:
        work()
    return storages.peak


class _Storages(TorchDispatchMode):
    """Counts the bytes of storages that come and go."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):  # noqa: SLF001
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001  the storage itself: Python's objects for it come and go
        if key not in self._seen:
            self._seen.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


def offload(model: nn.Module, folder: Path, *, max_memory_bytes: int) -> nn.Module:
    """Return the model with its parameters on disk, of which at most `max_memory_bytes` are in memory at a time.

    The modules are cut into blocks, each loaded before it runs and dropped after it, so that a model larger than the memory
    runs, at the speed of the disk; the operating system keeps what it has room for. The answers are the same bits. The
    parameters are read from a safetensors file; accelerate's `disk_offload` does the same with one file for each weight and
    one module at a time, without a bound.

    Args:
        model: the model; its parameters are moved to the file, and its own memory is given back.
        folder: an existing folder, in which `parameters.safetensors` is written.
        max_memory_bytes: bytes of parameters in memory at one time, at most.

    Raises:
        ConfigError: one module's own parameters are larger than that.
    """
    blocks = _blocks(model, max_memory_bytes)
    path = folder / "parameters.safetensors"
    unique = {id(p): (name, p) for name, p in reversed(list(model.named_parameters(remove_duplicate=False)))}
    save_file({name: parameter.detach().contiguous() for name, parameter in unique.values()}, str(path))
    names = {key: name for key, (name, _) in unique.items()}
    for block in blocks:
        own = {names[id(p)]: p for p in block.parameters()}
        block.register_forward_pre_hook(_Load(path, own))
        block.register_forward_hook(_drop(own), always_call=True)
        _drop(own)(block, (), None)
    return model


def _blocks(model: nn.Module, max_bytes: int) -> list[nn.Module]:
    """Return the outermost modules that fit; a module whose own parameters, not its children's, do not fit cannot be cut."""
    size = _bytes_of(model.parameters())
    if size <= max_bytes:
        return [model]
    own = _bytes_of(model.parameters(recurse=False))
    if own:
        raise ConfigError(
            f"max_memory_bytes is {max_bytes}; {type(model).__name__} has {size} bytes that cannot be cut further"
        )
    return [block for child in model.children() if _bytes_of(child.parameters()) for block in _blocks(child, max_bytes)]


def _bytes_of(parameters: Iterator[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


class _Load:
    """Reads a block's parameters before it runs."""

    def __init__(self, path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
        self._path, self._parameters = path, parameters

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._parameters.values()):
            raise UnsupportedError("an offloaded model has no gradients: its parameters are gone when they would be needed")
        with safe_open(str(self._path), framework="pt") as file:
            for name, parameter in self._parameters.items():
                parameter.data = file.get_tensor(name).to(parameter.device)


def _drop(parameters: Mapping[str, nn.Parameter]) -> Callable[..., None]:
    def drop(module: nn.Module, args: Any, output: Any) -> None:
        for parameter in parameters.values():
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)

    return drop


class SplittingBackend(Backend):
    """Runs a batch in two halves where it does not fit into memory, and remembers what fitted.

    Args:
        inner: the backend; rows must not depend on each other, else a batch is run whole or not at all.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.device, self.signature, self.lanes = inner.name, inner.device, inner.signature, inner.lanes
        self.max_rows: int | None = None
        """Rows that are run together at most; None while everything fitted."""

    def run(self, batch: Batch) -> Batch:
        rows = num_rows(batch)
        can_split = self.signature.batching != "alone"
        if can_split and self.max_rows is not None and rows > self.max_rows:
            return self._in_parts(batch, list(range(0, rows, self.max_rows)))
        try:
            return self._inner.run(batch)
        except ModelError as error:
            if not can_split or rows == 1 or not _is_out_of_memory(error):
                raise
        self.max_rows = rows // 2
        return self._in_parts(batch, [0, rows - rows // 2])

    def _in_parts(self, batch: Batch, starts: list[int]) -> Batch:
        ends = [*starts, num_rows(batch)]
        parts = [self.run({name: array[a:b] for name, array in batch.items()}) for a, b in pairwise(ends)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._inner.restore(outputs)

    def limit_threads(self, count: int) -> None:
        self._inner.limit_threads(count)

    def close(self) -> None:
        self._inner.close()


def _is_out_of_memory(error: ModelError) -> bool:
    cause = error.__cause__
    told = str(cause).lower()
    return isinstance(cause, MemoryError | torch.OutOfMemoryError) or any(
        words in told for words in ("not enough memory", "can't allocate memory", "failed to allocate memory")
    )
