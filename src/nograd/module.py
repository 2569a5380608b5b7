"""How a torch module is called: with which names, in which style, in eval mode, and left as it was found."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nograd.errors import SignatureError
from nograd.tensors import Signature

__all__ = ["Call", "EvalMode", "check_tensors", "floating_dtype", "is_tensor", "module_device", "to_tensors"]


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


@dataclass(frozen=True, slots=True)
class Call:
    """The way in which a module takes its inputs."""

    names: tuple[str, ...]
    style: Literal["keywords", "positional", "mapping"]
    optional: tuple[str, ...] = ()
    """Parameters of `forward` that the sample did not use, such as `attention_mask`."""

    def __call__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
        if self.style == "keywords":
            return model(**tensors)
        if self.style == "mapping":
            return model(dict(tensors))
        return model(*(tensors[name] for name in self.names if name in tensors))

    @classmethod
    def learn(cls, model: nn.Module, sample: Any) -> Call:
        """Return the call that fits `sample`: a tensor, a tuple of tensors in order, or tensors by name.

        Raises:
            SignatureError: `forward` does not take these names, or not so many inputs.
        """
        takes = _parameters(model)
        if isinstance(sample, Mapping):
            return cls._by_name(takes, tuple(sample))
        count = len(sample) if isinstance(sample, tuple) else 1
        if not takes.any_position and count > len(takes.names):
            raise SignatureError(f"the sample holds {count} inputs; forward takes {_listed(takes.names)}")
        names = (*takes.names, *(f"input_{i}" for i in range(len(takes.names), count)))[:count]
        return cls(names, "positional")

    @classmethod
    def _by_name(cls, takes: _Parameters, names: tuple[str, ...]) -> Call:
        if takes.any_name or set(names) <= set(takes.names):
            return cls(names, "keywords", tuple(name for name in takes.names if name not in names))
        if len(takes.names) == 1 and len(names) == 1 and not takes.is_mapping:
            return cls(names, "positional")
        if len(takes.names) == 1:
            return cls(names, "mapping")
        unknown = next(name for name in names if name not in takes.names)
        raise SignatureError(f"there is no input {unknown!r}; forward takes {_listed(takes.names)}")


@dataclass(frozen=True, slots=True)
class _Parameters:
    names: tuple[str, ...]
    any_position: bool
    any_name: bool
    is_mapping: bool


def _parameters(model: nn.Module) -> _Parameters:
    try:
        found = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled forward without a Python signature
        return _Parameters((), True, True, False)
    kinds = [parameter.kind for parameter in found]
    named = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    annotation = str(named[0].annotation).lower() if len(named) == 1 else ""
    return _Parameters(
        tuple(p.name for p in named),
        inspect.Parameter.VAR_POSITIONAL in kinds,
        inspect.Parameter.VAR_KEYWORD in kinds and not named,
        "dict" in annotation or "mapping" in annotation,
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names)) or "no inputs"


def module_device(model: nn.Module) -> torch.device:
    """Return where the first parameter or buffer lives; `cpu` for a module without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def floating_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the one floating dtype of all parameters, or None where there is none or more than one."""
    found = {parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point}
    return found.pop() if len(found) == 1 else None


def to_tensors(inputs: Any, call: Call, model: nn.Module) -> dict[str, Tensor]:
    """Return the inputs by name, on the module's device, floating ones in the module's dtype."""
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        named = dict(zip(call.names, inputs if isinstance(inputs, tuple) else (inputs,), strict=True))
    device, dtype = module_device(model), floating_dtype(model)
    return {name: _to_tensor(name, value, device, dtype) for name, value in named.items()}


def _to_tensor(name: str, value: Any, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SignatureError(
            f"input {name!r} is {type(value).__name__}, not a tensor or an array of numbers: {error}"
        ) from error
    return tensor.to(device, dtype if dtype and tensor.is_floating_point() else None)


class EvalMode:
    """Puts a module into eval mode while anybody runs it, and back into its modes when the last one is done.

    Two lanes may run the same module side by side; only the first to enter looks at the modes, only the last to leave
    restores them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._users = 0
        self._training: list[nn.Module] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._enter()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0 and self._training:
                    self._leave()

    def _enter(self) -> None:
        self._training = [module for module in self._model.modules() if module.training]
        if self._training:
            self._model.eval()

    def _leave(self) -> None:
        """`train()` first, for modules that do more than set a flag (LoRA unmerges), then each module's own flag."""
        training, self._training = set(self._training), []
        if self._model in training:
            self._model.train()
        for module in self._model.modules():
            module.training = module in training


def check_tensors(inputs: Mapping[str, Any], signature: Signature) -> dict[str, Tensor]:
    """Return tensors as the model takes them, like `Signature.check` for arrays, wherever they live.

    Raises:
        SignatureError: a name, dtype, shape or the number of rows is not the model's.
    """
    tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
    sizes = signature.check_layouts(
        {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()}
    )
    device = next(iter(tensors.values())).device
    result = {}
    for spec in signature.inputs:
        if spec.name in tensors:
            result[spec.name] = tensors[spec.name].to(getattr(torch, spec.dtype))
        elif spec.default is not None:
            shape = [size if isinstance(size, int) else sizes[size] for size in ("rows", *spec.shape)]
            result[spec.name] = torch.full(shape, spec.default, dtype=getattr(torch, spec.dtype), device=device)
    return result
