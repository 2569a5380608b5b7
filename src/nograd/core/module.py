"""Calling a torch module: input names, calling style, eval mode, and restoring the module's state."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nograd.core.inputs import is_tensor
from nograd.core.tensors import Signature, TensorSpec, check_limits, check_range, too_large
from nograd.errors import SignatureError

__all__ = [
    "Accelerated",
    "EvalMode",
    "ModuleCall",
    "Wrapper",
    "check_tensors",
    "computing_dtype",
    "describe",
    "dtype_name",
    "floating_dtype",
    "module_device",
    "num_required",
    "original_of",
    "own_signature",
    "problem_type",
    "row_fault",
    "to_tensors",
]


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """How a module takes its inputs."""

    names: tuple[str, ...]
    style: Literal["keywords", "positional", "mapping"]
    optional: tuple[str, ...] = ()
    """Parameters of `forward` that the sample does not use, such as `attention_mask`."""

    copies: bool = True
    """Whether to copy inputs and outputs. Models may write to their inputs (`ReLU(inplace=True)`), or return memory that they
    reuse.
    """

    def __call__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
        if self.copies:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        if self.style == "keywords":
            return model(**tensors)
        if self.style == "mapping":
            return model(dict(tensors))
        return model(*map(tensors.__getitem__, self.names))

    def owned(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs that later calls do not change."""
        return {name: tensor.clone() for name, tensor in outputs.items()} if self.copies else outputs

    @classmethod
    def learn(cls, model: nn.Module, sample: Any) -> ModuleCall:
        """Learn the call from a sample: a tensor, a tuple of tensors in order, or tensors by name.

        Raises:
            SignatureError: `forward` does not take these names or this number of inputs, or parameters have no shape yet.
        """
        if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
            raise SignatureError("the model has lazy parameters without a shape; run it once before")
        takes = _parameters(model)
        if isinstance(sample, Mapping):
            return cls._by_name(takes, tuple(sample))
        count = len(sample) if isinstance(sample, tuple) else 1
        if not takes.any_position and count > len(takes.names):
            raise SignatureError(f"the sample has {count} inputs; forward takes {_join_names(takes.names)}")
        names = (*takes.names, *(f"input_{i}" for i in range(len(takes.names), count)))[:count]
        return cls(names, "positional", takes.names[count:])

    @classmethod
    def _by_name(cls, takes: _Parameters, names: tuple[str, ...]) -> ModuleCall:
        known, given = set(takes.names), set(names)
        if given <= known or (takes.any_name and known <= given):
            return cls(names, "keywords", tuple(name for name in takes.names if name not in given))
        if takes.any_position and not known:
            return cls(names, "positional")
        if len(known) == 1 and not takes.only_tensors:  # such as `forward(batch)` that reads `batch["x"]`
            return cls(names, "mapping")
        unknown = next(name for name in names if name not in known)
        raise SignatureError(f"unknown input {unknown!r}; forward takes {_join_names(takes.names)}")

    def with_input(self, name: str) -> ModuleCall:
        """Return the call with one more of the optional inputs."""
        return replace(self, names=(*self.names, name), style="keywords")

    def describe(self, tensors: Mapping[str, Tensor]) -> str:
        """Describe the inputs for error messages."""
        listed = ", ".join(f"{name} {describe(tensor)}" for name, tensor in tensors.items())
        return f"a dict of {listed}" if self.style == "mapping" else listed


@dataclass(frozen=True, slots=True)
class _Parameters:
    names: tuple[str, ...]
    any_position: bool
    any_name: bool
    only_tensors: bool
    """Whether all parameters are annotated as tensors."""


class Wrapper(nn.Module):
    """A module that takes the inputs of another module and adds behaviour to it."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.training = wrapped.training

    takes_dtype: torch.dtype | None = None
    """Dtype of floating inputs; None: the wrapped module's."""

    computes_dtype: torch.dtype | None = None
    """Floating dtype of the arithmetic; None: the wrapped module's."""


class Accelerated(nn.Module):
    """Runs another module by faster means with the same answers.

    Probing and exporting use `original`, because the first call of each size may compile for seconds.
    """

    @property
    def original(self) -> nn.Module:
        """The original module."""
        raise NotImplementedError


def original_of(model: nn.Module) -> nn.Module:
    """Return the module to probe and to export."""
    return model.original if isinstance(model, Accelerated) else model


def _parameters(model: nn.Module) -> _Parameters:
    while isinstance(model, Wrapper):
        model = model.wrapped
    try:
        found = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled forward without a Python signature
        return _Parameters((), any_position=True, any_name=True, only_tensors=False)
    kinds = [parameter.kind for parameter in found]
    named = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return _Parameters(
        tuple(p.name for p in named),
        inspect.Parameter.VAR_POSITIONAL in kinds,
        inspect.Parameter.VAR_KEYWORD in kinds,
        all(p.annotation is Tensor or p.annotation in ("Tensor", "torch.Tensor") for p in named),
    )


def num_required(model: nn.Module) -> int:
    """Return the number of required inputs of `forward`, at least 1."""
    try:
        found = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a compiled forward without a Python signature
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(parameter.default is parameter.empty and parameter.kind in kinds for parameter in found))


def _join_names(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "no inputs"


class _Forward(partial[Any]):
    """Calls a function; has the attributes and the signature of a module's `forward`, read only when they are needed."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"].forward, name)

    @property
    def __wrapped__(self) -> Any:
        return self.__dict__["model"].forward


def own_signature(run: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    """Return `run` with the signature of the model's `forward`, from which others read the names of its inputs.

    A property `forward` makes one in each call of its module: `functools.update_wrapper` would take 5 us.
    """
    made = _Forward(run)
    made.__dict__["model"] = model
    return made


def module_device(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; `cpu` for a module without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def problem_type(model: nn.Module) -> str:
    """Return the `problem_type` of a transformers configuration, or of a module with this attribute; empty for other
    modules.
    """
    while isinstance(model, Wrapper):
        model = model.wrapped
    own = _attribute(model, "problem_type")
    found = getattr(_attribute(model, "config"), "problem_type", None) if own is None else own
    return found if isinstance(found, str) else ""


def _attribute(model: nn.Module, name: str) -> Any:
    """Return an attribute, or None; torch takes 3 us to raise for a name that a module does not have."""
    kind = type(model)
    if kind.__getattr__ is nn.Module.__getattr__ and name not in vars(model) and not hasattr(kind, name):
        return model._modules.get(name)  # noqa: SLF001
    return getattr(model, name, None)


def floating_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of floating inputs, that of all parameters; None if there is none, or more than one."""
    if isinstance(model, Wrapper) and model.takes_dtype is not None:
        return model.takes_dtype
    return _parameter_dtype(model)


def computing_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of floating arithmetic, which determines rounding; None if there is none, or more than one."""
    while isinstance(model, Wrapper) and model.computes_dtype is None:
        model = model.wrapped
    return model.computes_dtype if isinstance(model, Wrapper) else _parameter_dtype(model)


def _parameter_dtype(model: nn.Module) -> torch.dtype | None:
    found = {parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point}
    return found.pop() if len(found) == 1 else None


def to_tensors(inputs: Any, call: ModuleCall, model: nn.Module) -> dict[str, Tensor]:
    """Return the inputs by name on the module's device; floating ones get the module's dtype."""
    if not isinstance(inputs, Mapping):
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(values) != len(call.names):
            raise SignatureError(f"the samples differ: one has {len(call.names)} inputs, another {len(values)}")
        inputs = dict(zip(call.names, values, strict=True))
    if set(inputs) != set(call.names):
        raise SignatureError(f"the samples differ: one has {_join_names(call.names)}, another {_join_names(tuple(inputs))}")
    device, dtype = module_device(model), floating_dtype(model)
    tensors = {name: _as_tensor(name, inputs[name]) for name in call.names}
    return {name: tensor.to(device, dtype if tensor.is_floating_point() else None) for name, tensor in tensors.items()}


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        is_rows = isinstance(value, list) and len(value) > 0 and is_tensor(value[0])
        return torch.stack(value) if is_rows else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SignatureError(
            f"input {name!r} is {type(value).__name__}; give a tensor, an array or nested lists of numbers ({reason})"
        ) from error


def dtype_name(tensor: Tensor) -> str:
    """Return the numpy name of a tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def describe(tensor: Tensor) -> str:
    """Describe dtype and shape for error messages."""
    return f"{dtype_name(tensor)} {list(tensor.shape)}"


def row_fault(outputs: Mapping[str, Tensor], rows: int) -> str:
    """Return why dimension 0 of the outputs is not the row; empty if it is."""
    for name, leaf in outputs.items():
        if leaf.ndim == 0 or leaf.shape[0] != rows:
            return (
                f"output {name!r} is {describe(leaf)} for {rows} rows; every output must be [rows, ...]: "
                "wrap the model in a module that returns only what belongs to a row"
            )
    return ""


@dataclass(slots=True)
class _EvalState:
    """The number of current users of a module, and its submodules that were in training mode before."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    training: set[nn.Module] = field(default_factory=set)


_MODES: WeakKeyDictionary[nn.Module, _EvalState] = WeakKeyDictionary()
"""One entry per module, shared by all predictors that run it: none may restore training mode while another runs."""

_MODES_LOCK = threading.Lock()


_State: TypeAlias = tuple[Mapping[str, Any], Mapping[str, nn.Module | None], tuple[nn.Module | None, ...]]
"""A module's attributes (with the flag `training`), its children, and the children at the time of the check."""


class EvalMode:
    """Puts a module into eval mode while it runs, and restores its modes after the last user.

    Several lanes may run the same module concurrently. Only the first to enter saves the modes, and only the last to leave
    restores them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._states: tuple[_State, ...] = ()
        with _MODES_LOCK:
            self._modes = _MODES.setdefault(model, _EvalState())

    def is_at_rest(self) -> bool:
        """Return whether the module is in eval mode and no run will restore training mode."""
        if self._modes.training:
            return False
        for state, children, seen in self._states:
            if state["training"] or (children and tuple(children.values()) != seen):
                return self._is_in_eval_mode()
        return bool(self._states) or self._is_in_eval_mode()

    def _is_in_eval_mode(self) -> bool:
        """Check all modules. If all are in eval mode, save the location of their flags, which makes later checks faster."""
        modules = list(self._model.modules())
        self._states = ()
        if any(module.training for module in modules):
            return False
        if all("training" in vars(module) for module in modules):  # TorchScript stores the flag elsewhere
            self._states = tuple((vars(m), m._modules, tuple(m._modules.values())) for m in modules)  # noqa: SLF001
        return True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        modes = self._modes
        with modes.lock:
            if modes.users == 0:
                self._enter()
            modes.users += 1
        try:
            yield
        finally:
            with modes.lock:
                modes.users -= 1
                if modes.users == 0 and modes.training:
                    self._leave()

    def _enter(self) -> None:
        if self.is_at_rest():
            return
        self._modes.training = {module for module in self._model.modules() if module.training}
        if self._modes.training:
            self._train(mode=False)
        for module in self._modes.training:
            module.training = False

    def _leave(self) -> None:
        training, self._modes.training = self._modes.training, set()
        if self._model in training:
            self._train(mode=True)
        for module in self._model.modules():
            module.training = module in training

    def _train(self, *, mode: bool) -> None:
        """Set the mode by `train`, for modules that do more than set a flag (LoRA unmerges). Exported programs keep their
        mode.
        """
        with suppress(NotImplementedError):
            self._model.train(mode)


def check_tensors(inputs: Mapping[str, Any], signature: Signature) -> dict[str, Tensor]:
    """Convert tensors to the model's inputs on any device, like `Signature.check` for arrays.

    Raises:
        SignatureError: a name, dtype, shape or the number of rows does not match the model.
    """
    tensors = {name: _as_tensor(name, value) for name, value in inputs.items()}
    sizes = signature.check_layouts({name: (dtype_name(tensor), tuple(tensor.shape)) for name, tensor in tensors.items()})
    device = next(iter(tensors.values())).device
    result = {}
    for spec in signature.inputs:
        if spec.name in tensors:
            result[spec.name] = tensor = _cast(tensors[spec.name], spec)
            if spec.limits is not None and tensor.numel():
                check_limits(int(tensor.min()), int(tensor.max()), spec)
        elif spec.default is not None:
            shape = [size if isinstance(size, int) else sizes[size] for size in ("rows", *spec.shape)]
            result[spec.name] = torch.full(shape, spec.default, dtype=getattr(torch, spec.dtype), device=device)
    return result


def _cast(tensor: Tensor, spec: TensorSpec) -> Tensor:
    """Change the width of numbers, but not their value."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if not dtype.is_floating_point:
        wide = tensor.long()
        check_range(int(wide.min()), int(wide.max()), spec)
    elif cast.isinf().any() and not torch.equal(cast.isinf(), tensor.isinf()):
        raise too_large(float(tensor.abs().max()), spec)
    return cast
