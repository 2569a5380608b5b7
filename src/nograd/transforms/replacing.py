"""Replacement of layers by 8-bit ones, and back."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from nograd.errors import UnsupportedError
from nograd.transforms.int8_layers import Int8Layer, Int8Linear, Kernel, quantized_layer, replaceable

__all__ = ["copy_of", "follow_state", "int8_layers", "linear_layers", "num_bytes", "put", "use_kernels", "with_int8_layers"]


def with_int8_layers(model: nn.Module, kinds: Collection[type[nn.Module]]) -> nn.Module:
    """Return a copy of the model with 8-bit weights in the layers of these classes.

    Raises:
        UnsupportedError: the model cannot be copied.
    """
    names = list(replaceable(model, kinds))
    made = copy_of(model)
    for name in names:
        made = put(made, name, quantized_layer(made.get_submodule(name)))
    return made


def copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy of the model.

    Raises:
        UnsupportedError: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # attributes of the model may raise any error
        raise UnsupportedError(f"the model cannot be copied: {type(error).__name__}: {error}") from error


def put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Set the layer of this name and return the model; for an empty name, return the layer."""
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    return model


def int8_layers(model: nn.Module) -> dict[str, Int8Layer]:
    """Return the 8-bit layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Int8Layer)}


def use_kernels(model: nn.Module, kernels: Mapping[str, Kernel]) -> None:
    """Set the kernel of linear layers by name: 8-bit products, or float32 with the weights that the 8-bit ones say."""
    for name, layer in linear_layers(model).items():
        if layer.kernel != kernels[name]:
            layer.kernel = kernels[name]
            layer.forget()


def linear_layers(model: nn.Module) -> dict[str, Int8Linear]:
    """Return the 8-bit layers that have a choice of kernels, by name."""
    return {name: layer for name, layer in int8_layers(model).items() if isinstance(layer, Int8Linear)}


def follow_state(model: nn.Module, keys: Iterable[str]) -> None:
    """Convert each layer to float or 8-bit according to the names in a state dict."""
    known = set(keys)
    for name, layer in int8_layers(model).items():
        if name and f"{name}.weight" in known and f"{name}.weight_int8" not in known:
            put(model, name, layer.to_float())
    for name, module in list(model.named_modules()):
        if name and type(module) is nn.Linear and f"{name}.weight_int8" in known:
            put(model, name, quantized_layer(module))


def num_bytes(model: nn.Module) -> int:
    """Return the bytes of the state dict; shared tensors count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in model.state_dict().values() if hasattr(tensor, "data_ptr")}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
