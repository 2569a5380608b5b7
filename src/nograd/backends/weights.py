"""weights.safetensors: a torch module's state. A tensor with several names is stored once."""

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
"""Key of the file's metadata: JSON, name -> name under which the same tensor is stored."""


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state.

    Raises:
        ConfigError: its state contains a value that is not a tensor.
    """
    kept: dict[str, Tensor] = {}
    names: dict[tuple[object, ...], str] = {}
    shared: dict[str, str] = {}
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"the model's state contains {name!r}, a {type(tensor).__name__}; a bundle contains only tensors")
        if (first := names.setdefault(_identity_of(tensor, name), name)) != name:
            shared[name] = first
        else:
            kept[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    save_file(kept, path, metadata={SHARED: json.dumps(shared)})


def _identity_of(tensor: Tensor, name: str) -> tuple[object, ...]:
    """Return the identity of a tensor: memory, shape, strides and dtype. Names with equal identities are one tensor."""
    if not tensor.numel():
        return (name,)
    return (tensor.data_ptr(), str(tensor.device), tensor.dtype, tuple(tensor.shape), tensor.stride())


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file of `save_weights` into a module of the same class. Names, shapes and dtypes must be equal.

    Raises:
        ModelLoadError: the file cannot be read, or does not fit this module.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a mapping
            shared = json.loads((file.metadata() or {}).get(SHARED, "{}"))
            state |= {name: state[first] for name, first in shared.items()}
        module.load_state_dict(state, strict=True)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelLoadError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"the weights are not those of the module that the factory makes: {reason}") from error
    own = module.state_dict()
    for name, tensor in state.items():
        if own[name].dtype != tensor.dtype or not _same(own[name], tensor):
            raise ModelLoadError(
                f"{name!r} of the module that the factory makes differs from the bundle's ({tensor.dtype}): another dtype, "
                "or memory that it shares with another tensor"
            )


def _same(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().to("cpu"), b.detach().to("cpu")
    return bool(torch.equal(a, b) or torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
