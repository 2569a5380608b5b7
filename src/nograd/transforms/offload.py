"""Models larger than the available memory: blocks of parameters are loaded when they run, and released afterwards.

Reasons against accelerate's hooks (1.15, tested on 2026-11-24): They replace `forward` on the caller's modules and empty them.
They have no memory budget and reload each leaf for each call even if there is room. Each leaf must fit, even an embedding of
which ten rows are needed. A module that reads another module's weights without calling it fails ("Tensor on device meta is not
on the expected device": `nn.MultiheadAttention`, and therefore every `nn.TransformerEncoder`).
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from nograd.backends.modules import resolve_device
from nograd.core.module import module_device, own_signature, problem_type
from nograd.errors import ConfigError, UnsupportedError
from nograd.transforms.memory import check_copyable, find_layers, is_recording, mirror

__all__ = ["OffloadedModel", "offload"]

Source: TypeAlias = Callable[[], Tensor]
"""Returns a tensor in host memory. Tensors in files are memory-mapped, so that only the parts that are read use memory."""


def offload(
    model: nn.Module, *, max_memory_bytes: int, folder: Path | None = None, device: str | torch.device = "auto"
) -> OffloadedModel:
    """Return the model with a limit on parameters in the device's memory. It computes as in eval mode.

    Blocks are the repeated layers (`find_layers`) and, outside of them, each module with its own parameters. As many blocks as
    fit stay loaded. Each other block is loaded when it is called, one at a time, and released afterwards. For an embedding that
    is not loaded, only the requested rows are read from its storage.

    On a CPU the other blocks are stored in safetensors files, which are memory-mapped and copied. (They are copied because
    kernels may round differently with other memory alignments.) For a GPU they are stored in pinned host memory, or in the
    files of a model on `meta`.

    The caller's module is not changed; its memory is released with its last reference: `model = offload(model,
    max_memory_bytes=2**30)`. A model that is too large even for that has its parameters on the `meta` device
    (`accelerate.init_empty_weights()`), and safetensors files in `folder` that contain them by name.

    Args:
        model: the module; tied weights stay tied, buffers are copied completely.
        max_memory_bytes: limit of parameters; activations and buffers are not included.
        folder: folder with the parameters of a model on `meta`. For other models, parameters are written to a new folder in it,
            which is removed with the result. Default: the system's temporary folder, which may be in memory on some systems.
        device: `auto` (the module's device, or the first GPU for a module on the CPU or on `meta`), or a torch device.

    Raises:
        ConfigError: a block exceeds the limit, or a tensor on `meta` is not in the folder.
        UnsupportedError: a `forward` in the model was compiled, scripted or replaced.
    """
    check_copyable(model, [f"{name}.forward" if name else "forward" for name, _ in model.named_modules()])
    place = _resolve_device(device, model)
    plan = _plan(model, max_memory_bytes)
    index = _WeightIndex.of(folder)
    held = {parameter: _placed(index.source(model, parameter)(), parameter, place) for parameter in plan.resident}
    made: dict[nn.Module, nn.Module] = {}
    elsewhere, own_folder = _put_elsewhere(model, plan, index, place, folder)
    empty = {parameter: _frozen(torch.empty_like(parameter, device="meta")) for parameter in elsewhere}
    buffers = {buffer: index.buffer(name, buffer).to(place, copy=True) for name, buffer in model.named_buffers()}
    skeleton = mirror(model, lambda module: {"training": False, **_swapped(module, held | empty, buffers)}, made)
    shelf = _ParameterStore({empty[parameter]: source for parameter, source in elsewhere.items()}, place, _num_bytes(held))
    for block in plan.streamed:
        copy = made[block.module]
        copy.__dict__["forward"] = partial(shelf.look_up if block.is_table else shelf.run, copy)
    result = OffloadedModel(skeleton, shelf, max_memory_bytes, place)
    if own_folder is not None:
        weakref.finalize(result, shutil.rmtree, own_folder, ignore_errors=True)
    return result


class OffloadedModel(nn.Module):
    """A model whose parameters are mostly outside of the device's memory; created by `offload`.

    It is always in eval mode and without gradients. It stays on its device, and copying it returns the same object. Calls from
    several threads run one at a time, so that the memory limit holds.
    """

    def __init__(self, skeleton: nn.Module, shelf: _ParameterStore, max_memory_bytes: int, device: torch.device) -> None:
        super().__init__()
        self.training = False
        self.max_memory_bytes = max_memory_bytes
        """Limit of parameter bytes on the device."""

        self.register_buffer("_device", torch.empty(0, device=device), persistent=False)  # shows the device to callers
        self.__dict__["_skeleton"] = skeleton  # not a submodule, because its parameters are elsewhere
        self._shelf = shelf
        self._turn = threading.RLock()

    @property
    def resident_bytes(self) -> int:
        """Current parameter bytes on the device."""
        return self._shelf.resident_bytes

    @property
    def peak_resident_bytes(self) -> int:
        """Peak parameter bytes on the device."""
        return self._shelf.peak_resident_bytes

    @property
    def problem_type(self) -> str:
        """The model's `problem_type`."""
        return problem_type(self.__dict__["_skeleton"])

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Calls the model's `forward`, with its signature."""
        return own_signature(self._run, self.__dict__["_skeleton"])

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if is_recording(self, args, kwargs):
            raise UnsupportedError("an input requires gradients; an offloaded model has none: use MemoryEfficientModel")
        with self._turn, torch.no_grad():
            return self.__dict__["_skeleton"](*args, **kwargs)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002  torch's signature
        if mode:
            raise UnsupportedError("an offloaded model only runs in eval mode; train the model before it is offloaded")
        return self

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError(
            "an offloaded model cannot be moved or cast; pass the device, or a model of the dtype, to offload"
        )

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError("an offloaded model's parameters are elsewhere; save the model before it is offloaded")

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self


@dataclass(frozen=True, slots=True)
class _Block:
    name: str
    module: nn.Module
    parameters: frozenset[nn.Parameter]

    @property
    def is_table(self) -> bool:
        """Whether single rows can be read; a norm limit (`max_norm`) changes rows and prevents that."""
        module = self.module
        return isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward and module.max_norm is None


@dataclass(frozen=True, slots=True)
class _Plan:
    resident: set[nn.Parameter]
    streamed: list[_Block]


def _plan(model: nn.Module, max_bytes: int) -> _Plan:
    """Return which parameters stay loaded. Calls repeat in the same order, so a fixed choice is best.

    Raises:
        ConfigError: a block and the permanent parameters together exceed `max_bytes`.
    """
    blocks = {block.module: block for block in _blocks(model, "", {model.get_submodule(name) for name in find_layers(model)})}
    in_blocks = {parameter for block in blocks.values() for parameter in block.parameters}
    resident = set(model.parameters()) - in_blocks
    streamed = sorted(blocks.values(), key=lambda block: block.is_table)
    _check_room(streamed, resident, max_bytes)
    for block in list(streamed):
        others = [other for other in streamed if other is not block]
        kept = resident | block.parameters
        if _num_bytes(kept) + max((_streamed_bytes(other, kept) for other in others), default=0) <= max_bytes:
            resident, streamed = kept, others
    return _Plan(resident, streamed)


def _check_room(blocks: Sequence[_Block], resident: set[nn.Parameter], max_bytes: int) -> None:
    always = _num_bytes(resident)
    largest = max(blocks, key=lambda block: _streamed_bytes(block, resident), default=None)
    needed = always + (_streamed_bytes(largest, resident) if largest else 0)
    if needed <= max_bytes:
        return
    which = f"block {largest.name or type(largest.module).__name__!r}" if largest else "the model"
    raise ConfigError(
        f"{which} has {needed - always} bytes of parameters, and {always} bytes more are needed permanently; "
        f"max_memory_bytes is {max_bytes}; it must be at least {needed}"
    )


def _blocks(module: nn.Module, name: str, layers: set[nn.Module]) -> Iterator[_Block]:
    """Yield the blocks. Outside of layers, a module with its own parameters may read those of its children, so both form
    one block.
    """
    has_own = next(module.parameters(recurse=False), None) is not None
    if module in layers or (has_own and layers.isdisjoint(module.modules())):
        yield _Block(name, module, frozenset(module.parameters()))
        return
    for key, child in module.named_children():
        yield from _blocks(child, f"{name}.{key}" if name else key, layers)


def _num_bytes(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _streamed_bytes(block: _Block, resident: set[nn.Parameter]) -> int:
    return 0 if block.is_table else _num_bytes(block.parameters - resident)


class _ParameterStore:
    """The storage of parameters that are not permanently loaded, and the count of bytes on the device."""

    def __init__(self, sources: Mapping[nn.Parameter, Source], device: torch.device, resident_bytes: int) -> None:
        self._sources = sources
        self._device = device
        self.resident_bytes = self.peak_resident_bytes = resident_bytes

    def run(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run a block of the skeleton with its parameters."""
        missing = [parameter for parameter in block.parameters() if parameter in self._sources]
        num_bytes = _num_bytes(missing)
        self.resident_bytes += num_bytes
        self.peak_resident_bytes = max(self.peak_resident_bytes, self.resident_bytes)
        try:
            loaded = {parameter: _placed(self._sources[parameter](), parameter, self._device) for parameter in missing}
            whole = mirror(block, lambda module: _swapped(module, loaded, {}), {})
            return type(block).forward(whole, *args, **kwargs)
        finally:
            self.resident_bytes -= num_bytes

    def look_up(self, table: nn.Module, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Return rows of an embedding."""
        (weight,) = table.parameters()
        return functional.embedding(input.cpu(), self._sources[weight]()).to(self._device, weight.dtype)


def _swapped(
    module: nn.Module, parameters: Mapping[nn.Parameter, nn.Parameter], buffers: Mapping[Tensor, Tensor]
) -> dict[str, Any]:
    """Return the attributes of a module that contain tensors, with replaced tensors."""
    own = {name: parameters.get(parameter, parameter) for name, parameter in module.__dict__["_parameters"].items()}
    changes: dict[str, Any] = {
        "_parameters": own,
        "_buffers": {name: buffers.get(buffer, buffer) for name, buffer in module.__dict__["_buffers"].items()},
    }
    if isinstance(module, nn.RNNBase):  # stores its parameters in a second place
        changes["_flat_weights"] = [own.get(name) for name in module.__dict__["_flat_weights_names"]]
    return changes


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _placed(values: Tensor, parameter: Tensor, device: torch.device) -> nn.Parameter:
    """Copy values to new memory on the device, in the parameter's dtype and layout."""
    return _frozen(torch.empty_like(parameter, device=device).copy_(values, non_blocking=True))


def _resolve_device(device: str | torch.device, model: nn.Module) -> torch.device:
    if device == "auto" and module_device(model).type == "meta":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return resolve_device(device, model)


@dataclass(frozen=True, slots=True)
class _WeightIndex:
    """The safetensors files of a folder, by tensor name."""

    folder: Path | None
    files: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path | None) -> _WeightIndex:
        files = {}
        for path in sorted(folder.glob("*.safetensors")) if folder else ():
            with safe_open(path, "pt") as opened:
                files.update(dict.fromkeys(opened.keys(), path))
        return cls(folder, files)

    def source(self, model: nn.Module, parameter: nn.Parameter) -> Source:
        """Return the source of a parameter's values: the parameter itself, or a file entry with one of its names."""
        if not parameter.is_meta:
            return parameter.detach
        names = [name for name, found in model.named_parameters(remove_duplicate=False) if found is parameter]
        name = next((name for name in names if name in self.files), names[0])
        return self._in_file(name, parameter)

    def buffer(self, name: str, buffer: Tensor) -> Tensor:
        """Return a buffer's values, from the folder if it contains them."""
        return self._in_file(name, buffer)() if buffer.is_meta or name in self.files else buffer

    def _in_file(self, name: str, like: Tensor) -> Source:
        if name not in self.files:
            near = get_close_matches(name, self.files, n=3, cutoff=0.4)
            raise ConfigError(
                f"{name!r} is on the meta device, and the safetensors files in {self.folder} do not contain it"
                + (f"; similar names: {', '.join(map(repr, near))}" if near else "; create it with values before offload")
            )
        source = partial(_from_file, self.files[name], name)
        if (shape := tuple(source().shape)) != tuple(like.shape):
            raise ConfigError(f"{name!r} is {list(shape)} in {self.files[name]}; the model's is {list(like.shape)}")
        return source


def _from_file(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as opened:
        mapped: Tensor = opened.get_tensor(name)  # stays mapped for as long as the tensor lives
    return mapped


def _put_elsewhere(
    model: nn.Module, plan: _Plan, index: _WeightIndex, device: torch.device, folder: Path | None
) -> tuple[dict[nn.Parameter, Source], Path | None]:
    """Return the storage of each streamed parameter, and the folder created for them, if any."""
    streamed = dict.fromkeys(p for block in plan.streamed for p in block.module.parameters() if p not in plan.resident)
    elsewhere = {parameter: index.source(model, parameter) for parameter in streamed if parameter.is_meta}
    here = [parameter for parameter in streamed if not parameter.is_meta]
    if device.type == "cuda":
        return elsewhere | {parameter: parameter.detach().cpu().pin_memory().detach for parameter in here}, None
    if not here:
        return elsewhere, None
    own_folder = Path(tempfile.mkdtemp(prefix="nograd-offload-", dir=folder))
    try:
        for number, parameter in enumerate(here):
            elsewhere[parameter] = _written(parameter, own_folder / f"{number:05}.safetensors")
    except BaseException:  # a full disk, or a user's Ctrl-C
        shutil.rmtree(own_folder, ignore_errors=True)
        raise
    return elsewhere, own_folder


def _written(parameter: nn.Parameter, path: Path) -> Source:
    save_file({"values": parameter.detach().cpu().contiguous()}, path)
    return partial(_from_file, path, "values")
