"""Half precision: floating-point tensors become float16 or bfloat16; outputs are converted back to float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nograd.core.inputs import is_tensor
from nograd.core.module import Wrapper
from nograd.core.structure import flatten
from nograd.errors import ConfigError

__all__ = ["HalfDtype", "HalfSupport", "half_support", "slower_sentence", "to_half", "with_autocast"]

HalfDtype = Literal["float16", "bfloat16"]
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def to_half(model: nn.Module, dtype: HalfDtype = "float16") -> nn.Module:
    """Return a copy of a model that computes in half precision, with float32 inputs and outputs.

    Floating parameters, buffers and inputs are converted. Integers (token ids), booleans (masks), complex numbers and integer
    buffers are unchanged. Buffers beyond float16's range, such as the -1e9 of a mask, become its largest number. The original
    model is not changed. The copy can be exported, compiled or traced like any module.

    Args:
        model: a module whose floating parameters are float32 or float64.
        dtype: `float16` (11 significant bits, up to 65504), or `bfloat16` (8 significant bits, the range of float32).

    Raises:
        ConfigError: the dtype is another, or a parameter is out of its range.
    """
    half = _half_dtype(dtype)
    largest = torch.finfo(half).max
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.numel() and float(parameter.detach().abs().max()) > largest:
            raise ConfigError(
                f"parameter {name!r} contains {float(parameter.detach().abs().max()):g}; the maximum of {dtype} is {largest:g}"
            )
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.clamp(-largest, largest))
    return _HalfPrecision(model.to(half), half)


class _HalfPrecision(Wrapper):
    takes_dtype = torch.float32

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model)
        self._dtype = self.computes_dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on floating inputs in half precision; return floating outputs as float32."""
        given = [_cast(value, self._dtype) for value in args]
        named = {name: _cast(value, self._dtype) for name, value in kwargs.items()}
        return _as_float32(self.wrapped(*given, **named))


def with_autocast(model: nn.Module, dtype: HalfDtype = "bfloat16") -> nn.Module:
    """Return the model under torch.autocast: weights stay float32, and torch converts suitable operations.

    Slower than `to_half`, but closer to float32: reductions, norms and softmax stay in float32.

    Raises:
        ConfigError: the dtype is another.
    """
    return _Autocast(model, _half_dtype(dtype))


class _Autocast(Wrapper):
    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(model)
        self._dtype = self.computes_dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model under autocast on the device of its inputs; return floating outputs as float32."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, self._dtype):
            return _as_float32(self.wrapped(*args, **kwargs))


def _half_dtype(dtype: str) -> torch.dtype:
    if dtype not in HALVES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(map(repr, HALVES))}")
    return HALVES[dtype]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Convert floating tensors, also inside of a dict input."""
    if isinstance(value, Mapping):
        return {name: _cast(child, dtype) for name, child in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _as_float32(output: Any) -> Any:
    leaves, restore = flatten(output, is_tensor)
    halves = (torch.float16, torch.bfloat16)
    return restore({name: leaf.float() if leaf.dtype in halves else leaf for name, leaf in leaves.items()})


@dataclass(frozen=True, slots=True)
class HalfSupport:
    """Whether a processor computes half precision in hardware or emulates it."""

    is_fast: bool
    reason: str


def half_support(dtype: HalfDtype, device: str = "cpu") -> HalfSupport:
    """Return what the processor reports. torch emulates half precision without hardware support, tens of times slower than
    float32 and without a warning (ResNet-18 took 1.6 s instead of 50 ms). Time the model as well.
    """
    half = _half_dtype(dtype)
    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        needed = (8, 0) if half == torch.bfloat16 else (7, 0)
        return HalfSupport(
            (major, minor) >= needed, f"compute capability {major}.{minor}; {dtype} needs {needed[0]}.{needed[1]}"
        )
    if device != "cpu":
        return HalfSupport(is_fast=True, reason=f"nothing is known of {device}")
    name = torch.backends.cpu.get_cpu_capability()
    operator = "_is_mkldnn_bf16_supported" if half == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    is_fast = bool(getattr(torch.ops.mkldnn, operator)())
    return HalfSupport(is_fast, f"this processor ({name}) {'has' if is_fast else 'has no'} {dtype} arithmetic for matrices")


def slower_sentence(dtype: HalfDtype, half_s: float, float32_s: float, support: HalfSupport) -> str:
    """Return a warning if half precision makes a model slower; otherwise an empty string."""
    if half_s <= float32_s:
        return ""
    return (
        f"{dtype} takes {half_s * 1000:.3g} ms a run here, float32 {float32_s * 1000:.3g} ms ({half_s / float32_s:.2g} times "
        f"as long): {support.reason}; float32 is the better choice here, or int8"
    )
