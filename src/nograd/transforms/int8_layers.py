"""Layers with 8-bit weights, with one scale per row of the weights and per row of the activations.

Each row of activations is quantized with its own range, so that other rows and padding do not influence it. The state dict
contains plain tensors: `weight_int8`, `weight_scale`, `bias`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

__all__ = ["Int8Layer", "Int8Linear", "Kernel", "StoredInt8", "largest_level", "quantized_layer", "replaceable"]

Kernel = Literal["products", "weights"]

Multiply: TypeAlias = Callable[[Tensor], Tensor]
"""Multiplies rows from 0 to 1 with quantized weights; all float32."""

SMALLEST_SCALE = 1e-30


def replaceable(model: nn.Module, kinds: Collection[type[nn.Module]]) -> dict[str, nn.Module]:
    """Return the layers of these classes by name, if they have the class's own `forward` and no hooks.

    The projection inside `nn.MultiheadAttention` is excluded: its weights are read, and it is never called.
    """
    found = {}
    for name, module in model.named_modules():
        known = next((kind for kind in kinds if isinstance(module, kind)), None)
        if known is None or isinstance(module, NonDynamicallyQuantizableLinear) or type(module).forward is not known.forward:
            continue
        if not module._forward_pre_hooks and not module._forward_hooks and "forward" not in module.__dict__:  # noqa: SLF001
            found[name] = module
    return found


def quantized_layer(layer: nn.Module) -> Int8Layer:
    """Return the layer with 8-bit weights."""
    return Int8Linear(layer) if isinstance(layer, nn.Linear) else StoredInt8(layer)


class Int8Layer(nn.Module):
    """A layer with 8-bit weights that can be converted back to float."""

    def to_float(self) -> nn.Module:
        """Return the layer with float32 weights, dequantized."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop cached values computed from the weights."""
        for name in ("_packed", "_float"):
            self.__dict__[name] = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:  # noqa: FBT001, FBT002
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None, "_float": None}


class Int8Linear(Int8Layer):
    """`nn.Linear` with int8 weights and one scale per output.

    Args:
        layer: the float layer.
    """

    weight_int8: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kernel: Kernel = "products"
        """`products`: quantize activations and multiply 8-bit integers; `weights`: compute in float32."""

        values, scale = _quantized(layer.weight)
        self.register_buffer("weight_int8", values)
        self.register_buffer("weight_scale", scale)
        bias: Tensor | None = layer.bias
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self.training = layer.training
        self._packed: tuple[Multiply, Tensor] | None = None
        self._float: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The dequantized weights, float32 `[out, in]`."""
        if self._float is None:
            self.__dict__["_float"] = self.weight_int8.float() * self.weight_scale[:, None]
        return cast("Tensor", self._float)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[..., out]` in the dtype of the input, `[..., in]`."""
        return self.run(x, self.kernel)

    def run(self, x: Tensor, kernel: Kernel) -> Tensor:
        """Return what `forward` returns, with one of the kernels."""
        if kernel == "weights" or x.device.type != "cpu" or x.shape[-1] != self.in_features or not largest_level():
            return linear(x.float(), self.weight, self.bias).to(x.dtype)
        rows = x.detach().float().reshape(-1, self.in_features)
        return self._multiplied(rows).reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def _multiplied(self, rows: Tensor) -> Tensor:
        """Quantize each row by its own range, multiply integers, and scale back: x = low + span / level * q."""
        multiply, sums = self._ready()
        if not len(rows):
            return rows.new_zeros(0, self.out_features)
        low = rows.amin(1, keepdim=True)  # `aminmax` takes 25 us for 32 rows of 256, these two 7 us
        span = rows.amax(1, keepdim=True).sub_(low).clamp_min_(SMALLEST_SCALE)
        found = multiply((rows - low).div_(span)).mul_(span).addcmul_(low, sums)
        return found if self.bias is None else found.add_(self.bias)

    def _ready(self) -> tuple[Multiply, Tensor]:
        if self._packed is None:
            multiply = _multiplier(self.weight_int8, self.weight_scale)
            self.__dict__["_packed"] = multiply, self.weight_int8.float().sum(1) * self.weight_scale
        return cast("tuple[Multiply, Tensor]", self._packed)

    def to_float(self) -> nn.Linear:
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.weight_int8.device)
        with torch.no_grad():
            made.weight.copy_(self.weight)
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.train(self.training)

    def fingerprint(self) -> str:
        """Return a digest of weights and kernel."""
        from nograd.runtime.fingerprint import of_value

        return of_value(self.kernel, largest_level(), self.weight_int8, self.weight_scale, self.bias).text

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class StoredInt8(Int8Layer):
    """Any other layer (LSTM, Embedding, convolution) with int8 weights in the state dict, computed in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.training = layer.training
        self._template = [copy.deepcopy(layer).to("meta")]  # in a list: not a child, so that its weights are not in the state
        for name, tensor in layer.named_parameters(recurse=False):
            if tensor.ndim < 2:
                self.register_buffer(f"{name}_float", tensor.detach().clone())
                continue
            values, scale = _quantized(tensor)
            self.register_buffer(f"{name}_int8", values)
            self.register_buffer(f"{name}_scale", scale)
        self._packed: None = None
        self._float: nn.Module | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output."""
        return self._layer()(*args, **kwargs)

    def _layer(self) -> nn.Module:
        if self._float is None:
            self.__dict__["_float"] = self.to_float()
        return cast("nn.Module", self._float).train(self.training)

    def to_float(self) -> nn.Module:
        made = copy.deepcopy(self._template[0]).to_empty(device=next(self.buffers()).device)
        with torch.no_grad():
            for name, parameter in made.named_parameters(recurse=False):
                parameter.copy_(self._value(name))
        return made.requires_grad_(requires_grad=False).train(self.training)

    def _value(self, name: str) -> Tensor:
        buffers = dict(self.named_buffers(recurse=False))
        if f"{name}_float" in buffers:
            return buffers[f"{name}_float"]
        scale = buffers[f"{name}_scale"]
        return buffers[f"{name}_int8"].float() * scale.reshape(-1, *[1] * (buffers[f"{name}_int8"].ndim - 1))

    def __getattr__(self, name: str) -> Any:
        """Return settings such as `hidden_size`, and float32 weights, from the layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(self._layer(), name)

    def fingerprint(self) -> str:
        """Return a digest of weights and settings."""
        from nograd.runtime.fingerprint import of_value

        return of_value(repr(self._template[0]), dict(self.named_buffers(recurse=False))).text


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return symmetric int8 values, and the float32 scale of each row (dimension 0)."""
    rows = weight.detach().float().flatten(1)
    scale = (rows.abs().amax(1) / 127).clamp_min(SMALLEST_SCALE)
    return (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).reshape(weight.shape), scale


def _multiplier(values: Tensor, scale: Tensor) -> Multiply:
    """Return the product with int8 weights `[out, in]` of one scale for each output: float32 from 0 to 1, `[rows, in]`, in."""
    kernel, level = _kernel()
    return kernel(values, scale, level)


def _fbgemm(values: Tensor, scale: Tensor, level: int) -> Multiply:
    """FBGEMM's kernel quantizes, multiplies and scales in one call; on processors with VNNI torch takes oneDNN's for it.

    torch will remove it (pytorch issue 184982). Without it, `_onednn` is used: the same answers in twice the time.
    """
    zeros = torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*quantized tensor creation functions", UserWarning)
        weights = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)  # noqa: SLF001
        packed = torch.ops.quantized.linear_prepack(weights, None)
    run = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda rows: run(rows, 1 / level, 0, packed)


def _onednn(values: Tensor, scale: Tensor, level: int) -> Multiply:
    """oneDNN's kernel, which inductor uses, too."""
    zeros, packed = torch.zeros(len(scale), dtype=torch.long), torch.ops.onednn.qlinear_prepack(values, None)
    run = torch.ops.onednn.qlinear_pointwise

    def multiply(rows: Tensor) -> Tensor:
        whole = (rows * level).round_().to(torch.uint8)
        found = run(whole, 1 / level, 0, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return cast("Tensor", found)

    return multiply


def largest_level() -> int:
    """Return the largest activation level that this processor multiplies without saturation: 255 or 127; 0 without a kernel.

    Without VNNI, two products of an unsigned and a signed byte are added in 16 bits, which may saturate (see
    `nograd.transforms.int8.saturates`). With 7 bits of activations they cannot: 2 * 127 * 127 is below 32768.
    """
    return _kernel()[1]


@cache
def _kernel() -> tuple[Callable[[Tensor, Tensor, int], Multiply], int]:
    """Return the kernel to use, and its largest level."""
    weights, scale, ones = torch.full((16, 256), 127, dtype=torch.int8), torch.ones(16), torch.ones(1, 256)
    for kernel in (_fbgemm, _onednn):
        for level in (255, 127):
            try:
                found = kernel(weights, scale, level)(ones)
            except (AttributeError, NotImplementedError, RuntimeError):  # torch was built without it, or for another processor
                break
            if bool(((found - 127 * 256).abs() < 1).all()):
                return kernel, level
    return _onednn, 0
