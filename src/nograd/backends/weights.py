"""weights.safetensors: a torch module's state, each tensor once however many names it has."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nograd.errors import ConfigError, ModelLoadError

__all__ = ["load_weights", "save_weights"]

SHARED = "shared"
"""Key of the file's metadata: JSON, name -> the name under which the same tensor lies in the file."""


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state.

    Raises:
        ConfigError: its state holds something that is no tensor.
    """
    kept: dict[str, Tensor] = {}
    names: dict[tuple[object, ...], str] = {}
    shared: dict[str, str] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"the model's state holds {name!r}, {type(tensor).__name__}; a bundle holds tensors only")
        if (first := names.setdefault(_place(tensor, name), name)) != name:
            shared[name] = first
        else:
            kept[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    save_file(kept, path, metadata={SHARED: json.dumps(shared)})


def _place(tensor: Tensor, name: str) -> tuple[object, ...]:
    """Two names of one memory, seen in one way, are one tensor."""
    if not tensor.numel():
        return (name,)
    return (tensor.data_ptr(), str(tensor.device), tensor.dtype, tuple(tensor.shape), tensor.stride())


def load_weights(module: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote into a module of the same class; nothing may be missing, left over, or of another kind.

    Raises:
        ModelLoadError: the file cannot be read, or is not this module's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            shared = json.loads((file.metadata() or {}).get(SHARED, "{}"))
            state |= {name: state[first] for name, first in shared.items()}
        module.load_state_dict(state, strict=True)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise ModelLoadError(f"the weights are not those of the module that the factory makes: {told}") from error
    own = module.state_dict()
    for name, tensor in state.items():
        if own[name].dtype != tensor.dtype or not _same(own[name], tensor):
            raise ModelLoadError(
                f"the module that the factory makes does not hold {name!r} as the bundle does ({tensor.dtype}): another dtype, "
                "or it shares what was separate"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().to("cpu"), b.detach().to("cpu")
    return bool(torch.equal(a, b) or torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
