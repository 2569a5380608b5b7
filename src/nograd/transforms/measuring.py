"""Measurement of a quantized model on real inputs: agreement, speed, kernel, and row independence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from nograd.backends.timing import fastest
from nograd.core.inputs import is_tensor
from nograd.core.module import EvalMode
from nograd.core.parity import ParityReport, Tolerance, compare
from nograd.core.structure import flatten
from nograd.core.tensors import Array, Batch
from nograd.errors import ExportError, SignatureError
from nograd.transforms.int8_layers import Int8Linear, Kernel, largest_level, quantized_layer
from nograd.transforms.quantized import QuantizationReport, QuantizedEngine
from nograd.transforms.replacing import copy_of, int8_layers, linear_layers, num_bytes, put, use_kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ENGINES", "FirstCall", "Inputs", "evaluating", "fastest_s", "row_effect"]

ENGINES = {
    "products": "torch: 8-bit products, activations scaled per row",
    "weights": "torch: 8-bit weights, computed in float32",
    "mixed": "torch: 8-bit products in the layers where they are faster, float32 in the others",
}

_Name = TypeVar("_Name", bound=str)

ROUNDS = 5
"""Timed runs per candidate; few, because users wait for them."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, model: Callable[..., Any]) -> Any:
        """Call the model with copies of the inputs, because it may write to them."""
        args, kwargs = tree_map(_cloned, (self.args, dict(self.kwargs)))
        return model(*args, **kwargs)

    def answers(self, model: Callable[..., Any]) -> Batch:
        """Return the outputs by name as arrays; a single number counts as one row.

        Raises:
            SignatureError: the model returns something that is not a tensor.
        """
        leaves, _ = flatten(self.run(model), is_tensor)
        return {name: _array(leaf) for name, leaf in leaves.items()}


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _array(leaf: Tensor) -> Array:
    plain = leaf.detach().cpu()
    return np.atleast_1d((plain.float() if plain.is_floating_point() else plain).numpy())


class FirstCall:
    """Compares a quantized model with the float model on the first inputs, chooses the kernel, and releases the float model.

    Args:
        model: the float model; it must not change before that call.
        tolerance: limits for differences; layers with too large an error become float again.
        is_strict: raise if no quantized layer agrees; otherwise warn, and leave all layers in float.
        clock: returns the time in seconds.
    """

    def __init__(self, model: nn.Module, *, tolerance: Tolerance, is_strict: bool, clock: Callable[[], float]) -> None:
        self.measured_on = "the first call's inputs"
        self._float, self._versions = model, _versions(model)
        self._tolerance, self._is_strict, self._clock = tolerance, is_strict, clock

    def measure(
        self, made: nn.Module, report: QuantizationReport, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[nn.Module, QuantizationReport]:
        """Return the model with the best kernel, and the report.

        Raises:
            ExportError: `is_strict` is set, and the answers do not agree.
        """
        if _versions(self._float) != self._versions:
            note = "the float model changed before the first call, so nothing was compared"
            return made, replace(report, notes=(*report.notes, note))
        inputs = Inputs(args, kwargs)
        with evaluating(self._float, made):
            try:
                expected = inputs.answers(self._float)
            except SignatureError as error:
                return made, replace(report, notes=(*report.notes, f"agreement and speed are not measured: {error}"))
            return self._measured(made, report, inputs, expected)

    def _measured(
        self, made: nn.Module, report: QuantizationReport, inputs: Inputs, expected: Batch
    ) -> tuple[nn.Module, QuantizationReport]:
        choices = self._choices(made, inputs)
        reports = {name: self._compared(made, choice, inputs, expected) for name, choice in choices.items()}
        kept: tuple[str, ...] = ()
        if not any(found.passed for found in reports.values()):
            made, kept = self._with_float_layers(made, inputs, expected)
            choices = self._choices(made, inputs)
            reports = {name: self._compared(made, choice, inputs, expected) for name, choice in choices.items()}
        seconds = self._timed(made, choices, inputs)
        passing = [name for name, found in reports.items() if found.passed] or list(reports)
        preferred = "weights" if "weights" in passing else passing[0]
        best = fastest({name: seconds[name].share for name in passing}, preferred)
        use_kernels(made, choices[best])
        engines = tuple(
            QuantizedEngine(ENGINES[name], seconds[name].own_s, _reason(reports[name], name, best)) for name in reports
        )
        return made, replace(
            report, engine=ENGINES[best], measured_on=self.measured_on, parity=reports[best], float_s=seconds[best].float_s,
            seconds=seconds[best].own_s, kept_float=kept, engines=engines, num_bytes=num_bytes(made),
            row_effect=row_effect(made, inputs), float_row_effect=row_effect(self._float, inputs),
        )  # fmt: skip

    def _choices(self, made: nn.Module, inputs: Inputs) -> dict[str, Mapping[str, Kernel]]:
        """Return the choices of a kernel for each linear layer, by their names in `ENGINES`."""
        layers = linear_layers(made)
        if not layers or not largest_level():
            return {"weights": dict.fromkeys(layers, "weights")}
        found: dict[str, Mapping[str, Kernel]] = {
            "products": dict.fromkeys(layers, "products"), "weights": dict.fromkeys(layers, "weights"),
        }  # fmt: skip
        mixed = {name: self._faster_kernel(layer, x) for name, (layer, x) in _first_inputs(made, layers, inputs).items()}
        if len(set(mixed.values())) > 1:
            found["mixed"] = {**found["weights"], **mixed}
        return found

    def _faster_kernel(self, layer: Int8Linear, x: Tensor) -> Kernel:
        """Return the kernel that is faster for a layer's input."""
        runs = {kernel: partial(layer.run, x, kernel) for kernel in ("products", "weights")}
        return "products" if fastest(fastest_s(runs, self._clock), "weights") == "products" else "weights"

    def _compared(self, made: nn.Module, choice: Mapping[str, Kernel], inputs: Inputs, expected: Batch) -> ParityReport:
        use_kernels(made, choice)
        return compare([expected], [inputs.answers(made)], tolerance=self._tolerance)

    def _timed(self, made: nn.Module, choices: Mapping[str, Mapping[str, Kernel]], inputs: Inputs) -> dict[str, _TimedPair]:
        """Measure runs. The kernels are set before the clock starts, so that one-time work is not measured."""
        found: dict[str, _TimedPair] = {}
        for name, choice in choices.items():
            use_kernels(made, choice)
            runs = {"float": partial(inputs.run, self._float), name: partial(inputs.run, made)}
            seconds = fastest_s(runs, self._clock)
            found[name] = _TimedPair(seconds[name], seconds["float"])
        return found

    def _with_float_layers(self, made: nn.Module, inputs: Inputs, expected: Batch) -> tuple[nn.Module, tuple[str, ...]]:
        """Leave the layers with the largest errors in float, twice as many each time, until the answers agree."""
        names = list(int8_layers(made))
        for name in names:
            made = self._in_float(made, name)
        cosines = {}
        for name in names:
            made = self._in_int8(made, name)
            cosines[name] = compare([expected], [inputs.answers(made)], tolerance=self._tolerance).min_cosine
            made = self._in_float(made, name)
        worst_first = sorted(names, key=lambda name: cosines[name])
        count = 1
        while count < len(names):
            for name in worst_first[count:]:
                made = self._in_int8(made, name)
            if compare([expected], [inputs.answers(made)], tolerance=self._tolerance).passed:
                return made, tuple(worst_first[:count])
            for name in worst_first[count:]:
                made = self._in_float(made, name)
            count *= 2
        if self._is_strict:
            raise ExportError("no layer in 8-bit integers answers as the model does; allow more with tolerance=")
        warnings.warn("the model stays in float32: no layer in 8-bit integers answers as the model does", stacklevel=6)
        return made, tuple(names)

    def _in_float(self, made: nn.Module, name: str) -> nn.Module:
        return put(made, name, copy_of(self._float.get_submodule(name)).train(mode=made.training))

    def _in_int8(self, made: nn.Module, name: str) -> nn.Module:
        layer = quantized_layer(self._float.get_submodule(name))
        if isinstance(layer, Int8Linear):
            layer.kernel = "weights"
        return put(made, name, layer)


def fastest_s(runs: Mapping[_Name, Callable[[], object]], clock: Callable[[], float]) -> dict[_Name, float]:
    """Return the seconds of the fastest of a few runs, which take turns: what else computes here slows the others down."""
    for run in runs.values():
        run()
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = clock()
            run()
            found[name] = min(found[name], clock() - begun)
    return found


def _first_inputs(made: nn.Module, layers: Mapping[str, Int8Linear], inputs: Inputs) -> dict[str, tuple[Int8Linear, Tensor]]:
    """Return the linear layers that a run calls, with the input of the first call of each, by name."""
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            seen.setdefault(module, args[0])

    hooks = [layer.register_forward_pre_hook(note) for layer in layers.values()]
    try:
        inputs.run(made)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (layer, seen[layer]) for name, layer in layers.items() if layer in seen}


@dataclass(frozen=True, slots=True)
class _TimedPair:
    """Seconds of one run, and of a run of the float model in turn with it."""

    own_s: float
    float_s: float

    @property
    def share(self) -> float:
        """The share of the float model's time, by which choices are compared that were not measured in turn."""
        return self.own_s / self.float_s if self.float_s else 1.0


def _reason(report: ParityReport, name: str, best: str) -> str:
    """Return why a choice was not taken: float32 computation stays unless another choice is clearly faster."""
    if report.failures or name == best:
        return "; ".join(report.failures)
    return "it is not clearly faster than float32" if best == "weights" else "another was faster"


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in model.state_dict().values()]  # noqa: SLF001


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Run the models in eval and inference mode within this context, and restore their modes."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for model in models:
            stack.enter_context(EvalMode(model)())
        yield


def row_effect(model: Callable[..., Any], inputs: Inputs) -> float | None:
    """Return the largest difference of the first row's answer between two batches that differ only in the other rows.

    The other rows are those of the inputs, and the same rows 100 times as large; integers become other values of the inputs.
    The difference is relative to the output's largest value for the first row. None: the inputs or outputs are not all `[rows,
    ...]`.
    """
    tensors = [leaf for leaf in tree_leaves((inputs.args, dict(inputs.kwargs))) if isinstance(leaf, Tensor)]
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or 0 in sizes:
        return None
    quiet, loud = (_changed(inputs, partial(_company, is_loud=is_loud)) for is_loud in (False, True))
    try:
        first, second = quiet.answers(model), loud.answers(model)
    except Exception:  # noqa: BLE001  the model may reject unusual values; then nothing is measured
        return None
    rows = max(sizes.pop(), 2)
    if any(len(array) != rows for array in (*first.values(), *second.values())):
        return None
    return max(_relative(array[0], second[name][0]) for name, array in first.items())


def _changed(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    args, kwargs = tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (inputs.args, dict(inputs.kwargs)))
    return Inputs(args, kwargs)


def _company(tensor: Tensor, *, is_loud: bool) -> Tensor:
    """Return the first row, followed by other rows."""
    rows = tensor if len(tensor) > 1 else torch.cat([tensor, tensor])
    if not is_loud:
        return rows
    others = rows[1:] * 100 if rows.is_floating_point() else rows[1:].flip(tuple(range(1, rows.ndim)))
    return torch.cat([rows[:1], others])


def _relative(one: Array, other: Array) -> float:
    if one.shape != other.shape:
        return float("inf")
    if one.dtype.kind != "f":
        return float((one != other).any())
    scale = float(np.abs(one).max(initial=0))
    difference = float(np.nan_to_num(np.abs(one - other), nan=0.0, posinf=np.inf).max(initial=0))
    return difference / scale if scale else difference
