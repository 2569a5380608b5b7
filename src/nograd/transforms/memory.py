"""Memory reduction: activation checkpoints for gradients, peak measurement, and automatic splitting of batches.

The caller's module is never changed. To change the behaviour of submodules, the module tree is copied without its tensors
(`shallow`, `mirror`, `graft`): copies have the same classes and share parameters, hooks and attributes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from math import inf
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.autograd.profiler import profile
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from nograd.backends import Backend
from nograd.backends.exporting import check_module
from nograd.core.module import own_signature, problem_type
from nograd.core.tensors import Batch, join_arrays, num_rows, split
from nograd.errors import ConfigError, ModelError, UnsupportedError
from nograd.runtime.device_errors import is_out_of_memory
from nograd.runtime.fingerprint import Fingerprint

__all__ = [
    "MemoryEfficientModel",
    "SplittingBackend",
    "check_copyable",
    "find_layers",
    "is_recording",
    "mirror",
    "peak_bytes",
]

Layer: TypeAlias = str | type[nn.Module] | nn.Module
Layers: TypeAlias = Layer | Iterable[Layer]

_UNCALLABLE = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class MemoryEfficientModel(nn.Module):
    """The model with activation checkpoints: gradients use less memory and more time. Without gradients nothing changes.

    A checkpointed layer stores only its inputs for the backward pass, and runs again when the backward pass reaches it (Chen et
    al., Training Deep Nets with Sublinear Memory Cost, 2016). The second run uses the random numbers and the training mode of
    the
    first run, whatever the model's current mode is, and batch norm counts a batch once. Gradients therefore equal those of the
    model itself.

    `model` is the caller's module. It is not changed, and not slower when called directly. The state dict has its names. In
    gradient mode, `model` and the parents of checkpointed layers run as copies without tensors: a plain attribute that their
    `forward` sets on `self` is lost after the call; buffers are kept.

    Args:
        model: the module.
        layers: names of modules as in `named_modules()`, classes, or modules of the model; one or several. A `ModuleList`
            stands for its modules; a layer inside another one is ignored. Default: the modules in each `ModuleList`, and in
            each `Sequential` the blocks of a class that occurs twice or more.

    Raises:
        ConfigError: `model` is not a module, a layer does not exist, or there are no default layers.
        UnsupportedError: a parent of a layer was compiled, scripted, or had its `forward` replaced.

    >>> stack = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
    >>> MemoryEfficientModel(stack).layers
    ('0', '1', '2')
    """

    def __init__(self, model: nn.Module, layers: Layers | None = None) -> None:
        super().__init__()
        check_module(model)
        self.layers: tuple[str, ...] = find_layers(model) if layers is None else tuple(_outermost(_layer_names(model, layers)))
        """Names of the checkpointed layers."""

        if not self.layers:
            raise ConfigError(
                f"{type(model).__name__} has no ModuleList, and no Sequential with repeated blocks; "
                f"name its layers: {_some(name for name, _ in model.named_modules() if name)}"
            )
        check_copyable(model, self.layers)
        self.training = model.training
        self.model = model
        self.register_load_state_dict_pre_hook(_prefix_keys)  # type: ignore[no-untyped-call]

    @property
    def problem_type(self) -> str:
        """The model's `problem_type`."""
        return problem_type(self.model)

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Calls the model's `forward`, with its signature."""
        return own_signature(self._run, self.model)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not is_recording(self.model, args, kwargs):
            return self.model(*args, **kwargs)
        chosen = map(self.model.get_submodule, self.layers)
        return _graft(self.model, {layer: _checkpointed(layer) for layer in chosen})(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"layers={self.layers}"


def is_recording(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a call would record gradients of an input or a parameter."""
    if not torch.is_grad_enabled():
        return False
    if any(parameter.requires_grad for parameter in model.parameters()):
        return True
    return any(leaf.requires_grad for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))


def _prefix_keys(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Add the name of the wrapped child to the keys of a state dict, because loading uses the wrapper's own children."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}model.{key.removeprefix(prefix)}"] = state.pop(key)


def _checkpointed(layer: nn.Module) -> nn.Module:
    """Return a copy of the layer that runs it under a checkpoint."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        # Passed as two arguments, because a keyword of the layer may have the name of a keyword of `checkpoint`.
        return checkpoint(_CheckpointedCall(layer), args, kwargs, use_reentrant=False, preserve_rng_state=True)

    return _shallow(layer, forward=forward)


class _CheckpointedCall:
    """Runs the layer, and on the second call reproduces the first run without updating running statistics."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._modes = {module: module.training for module in layer.modules()}
        self._has_run = False

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._has_run:
            self._has_run = True
            return self._layer.forward(*args, **kwargs)
        return mirror(self._layer, self._as_it_was, {}).forward(*args, **kwargs)

    def _as_it_was(self, module: nn.Module) -> dict[str, Any]:
        training = self._modes.get(module, module.training)
        if not training:
            return {"training": False}
        buffers: dict[str, torch.Tensor | None] = module.__dict__["_buffers"]
        return {"training": True, "_buffers": {name: each if each is None else each.clone() for name, each in buffers.items()}}


def _shallow(module: nn.Module, **changes: Any) -> nn.Module:
    """Return a module of the same class with the same attributes, except for `changes`."""
    copy: nn.Module = object.__new__(type(module))
    copy.__dict__.update(module.__dict__, **changes)
    return copy


def mirror(module: nn.Module, changes: Callable[[nn.Module], dict[str, Any]], made: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return a copy of the module's tree, without copying its tensors.

    Args:
        module: the root; not changed.
        changes: returns the changed attributes of a copied module.
        made: receives the copy of each module; a module that appears twice has one copy.
    """
    if module not in made:
        children = {name: child and mirror(child, changes, made) for name, child in _children(module)}
        made[module] = _shallow(module, _modules=children, **changes(module))
    return made[module]


def _graft(module: nn.Module, instead: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return the module with some submodules replaced; only their parents are copied."""
    if module in instead:
        return instead[module]
    children = {name: child and _graft(child, instead) for name, child in _children(module)}
    if all(child is children[name] for name, child in _children(module)):
        return module
    return _shallow(module, _modules=children)


def _children(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """Return all children, including None and duplicates, which `named_children` omits."""
    children: dict[str, nn.Module | None] = module.__dict__["_modules"]
    return children.items()


def check_copyable(model: nn.Module, names: Iterable[str]) -> None:
    """Raise UnsupportedError if a parent of a named module cannot run as a copy."""
    for path in sorted({name.rpartition(".")[0] for name in names if name}):
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            parent = ".".join(parts[:depth])
            module = model.get_submodule(parent)
            if "forward" in module.__dict__ or isinstance(module, torch.jit.ScriptModule):
                raise UnsupportedError(
                    f"module {parent or 'at the root'!r} is a {type(module).__name__} whose forward was compiled or replaced; "
                    "do this first, and compile or hook the result"
                )


def find_layers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of repeated blocks: all in each `ModuleList`, and those of repeated classes in each `Sequential`."""
    return tuple(_repeated(model, ""))


def _repeated(module: nn.Module, prefix: str) -> Iterator[str]:
    kinds = Counter(map(type, module.children()))
    for name, child in module.named_children():
        if _is_block(child, module, kinds):
            yield prefix + name
        else:
            yield from _repeated(child, f"{prefix}{name}.")


def _is_block(child: nn.Module, parent: nn.Module, kinds: Mapping[type, int]) -> bool:
    if isinstance(child, _UNCALLABLE) or next(child.parameters(), None) is None:
        return False
    if isinstance(parent, nn.ModuleList):
        return True
    return isinstance(parent, nn.Sequential) and kinds[type(child)] > 1 and next(child.children(), None) is not None


def _layer_names(model: nn.Module, layers: Layers) -> Iterator[str]:
    known = dict(model.named_modules(remove_duplicate=False))
    for layer in _each_layer(layers):
        for name in _names_of(known, layer):
            if name not in known:
                near = get_close_matches(name, known, n=3, cutoff=0.4) or [key for key in known if key]
                raise ConfigError(f"layers contains {name!r}, which is not a module of the model; similar names: {_some(near)}")
            yield from _callable(name, known[name])


def _each_layer(layers: Layers) -> Iterable[Layer]:
    """Return the layers as an iterable. A `Sequential` is itself iterable, but counts as one layer."""
    return [layers] if isinstance(layers, str | type | nn.Module) else layers


def _names_of(known: Mapping[str, nn.Module], layer: Layer) -> list[str]:
    if isinstance(layer, str):
        return [layer]
    if isinstance(layer, nn.Module):
        names = [name for name, module in known.items() if module is layer]
        if not names:
            raise ConfigError(f"layers contains a {type(layer).__name__} that is not a module of the model")
        return names
    if not _is_module_class(layer):
        raise ConfigError(f"layers contains {layer!r}; it must contain names, classes or modules of the model")
    return _of_class(known, layer)


def _is_module_class(layer: object) -> bool:
    return isinstance(layer, type) and issubclass(layer, nn.Module)


def _of_class(known: Mapping[str, nn.Module], kind: type[nn.Module]) -> list[str]:
    names = [name for name, module in known.items() if isinstance(module, kind)]
    if not names:
        classes = sorted({type(module).__name__ for module in known.values()})
        raise ConfigError(f"layers contains the class {kind.__name__}; the model has modules of: {_some(classes)}")
    return names


def _callable(name: str, module: nn.Module) -> Iterator[str]:
    """Yield the modules that are called: a list of modules is never called itself."""
    if not isinstance(module, _UNCALLABLE):
        yield name
        return
    for key, child in module.named_children():
        yield from _callable(f"{name}.{key}" if name else key, child)


def _outermost(names: Iterable[str]) -> list[str]:
    found = dict.fromkeys(names)
    if "" in found:
        return [""]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = [repr(name) for name in names]
    return ", ".join([*listed[:most], "..."] if len(listed) > most else listed)


def peak_bytes(work: Callable[[], object], *, device: str | torch.device = "cpu") -> int:
    """Return the peak bytes that torch allocated during `work`, beyond those allocated before.

    On a CPU, torch's profiler records each allocation of torch's allocator, which slows the work down. On a GPU, the allocator
    counts. Memory of other libraries and of tensors over numpy memory is not included. The result for a CPU covers the calling
    thread and is reproducible.

    Args:
        work: called once.
        device: device to measure.

    Raises:
        ConfigError: the device is neither a CPU nor a CUDA GPU.
    """
    place = torch.device(device)
    if place.type == "cpu":
        return _cpu_peak(work)
    if place.type != "cuda":
        raise ConfigError(f"device is {str(device)!r}; the peak can be measured on 'cpu' and 'cuda'")
    torch.cuda.synchronize(place)
    torch.cuda.reset_peak_memory_stats(place)
    before = torch.cuda.memory_allocated(place)
    work()
    torch.cuda.synchronize(place)
    return torch.cuda.max_memory_allocated(place) - before


def _cpu_peak(work: Callable[[], object]) -> int:
    with profile(profile_memory=True) as recorded:
        work()
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class SplittingBackend(Backend):
    """A backend that splits batches that exceed memory into halves, down to single rows.

    The largest size that fits is stored as rows times length, and later batches are split to it before they run. If rows are
    not independent (`signature.batching` is `alone`), batches are not split.

    Args:
        backend: the wrapped backend; closed with this one.

    Raises:
        ModelError: from `run`: the model raised an error that is not about memory, or a single row does not fit.
    """

    def __init__(self, backend: Backend) -> None:
        self.name, self.device = backend.name, backend.device
        self.signature, self.lanes = backend.signature, backend.lanes
        self._backend = backend
        self._max_elements = inf

    @property
    def problem_type(self) -> str:
        return self._backend.problem_type

    def fingerprint(self) -> Fingerprint:
        return self._backend.fingerprint()

    def run(self, batch: Batch) -> Batch:
        rows, length = num_rows(batch), sum(self.signature.sizes_of(batch)) or 1
        if self.signature.batching == "alone" or rows == 1:
            return self._backend.run(batch)
        if rows * length > self._max_elements and (fitting := max(1, int(self._max_elements // length))) < rows:
            return self._run_pieces(batch, fitting)
        try:
            return self._backend.run(batch)
        except ModelError as error:
            if not is_out_of_memory(error):
                raise
        half = -(-rows // 2)  # outside of `except`, because the traceback keeps the failed run's memory
        outputs = self._run_pieces(batch, half)
        self._max_elements = min(self._max_elements, half * length)
        return outputs

    def _run_pieces(self, batch: Batch, max_rows: int) -> Batch:
        rows = num_rows(batch)
        pieces = split(batch, [min(max_rows, rows - start) for start in range(0, rows, max_rows)])
        outputs = [self.run(piece) for piece in pieces]
        return {name: join_arrays([output[name] for output in outputs]) for name in outputs[0]}

    def restore(self, outputs: Mapping[str, Any]) -> Any:
        return self._backend.restore(outputs)

    def limit_threads(self, count: int) -> None:
        self._backend.limit_threads(count)

    def close(self) -> None:
        self._backend.close()
