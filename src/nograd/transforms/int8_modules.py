"""Quantized modules from a model or a graph file: measured and compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nograd.core.parity import Tolerance
from nograd.errors import UnsupportedError
from nograd.transforms.measuring import ENGINES, FirstCall, Inputs, evaluating, fastest_s, row_effect
from nograd.transforms.onnx_module import OnnxModule
from nograd.transforms.quantized import QuantizationReport, QuantizedEngine, QuantizedModel
from nograd.transforms.replacing import int8_layers, num_bytes, with_int8_layers

if TYPE_CHECKING:
    from nograd.backends.modules import ModuleBackend
    from nograd.core.tensors import Batch
    from nograd.transforms.quantize import QuantizedFile

__all__ = ["faster_of", "measure_on", "module_over", "row_scaled"]


def row_scaled(
    model: nn.Module, layers: Collection[type[nn.Module]], tolerance: Tolerance, clock: Callable[[], float], *, is_strict: bool
) -> QuantizedModel:
    """Return the model with 8-bit layers in torch, to be measured at the first call.

    Raises:
        UnsupportedError: the model has no such layer, or cannot be copied.
    """
    made = with_int8_layers(model, layers)
    if not int8_layers(made):
        names = ", ".join(layer.__name__ for layer in layers)
        raise UnsupportedError(f"the model has no layer of {names} that can be quantized; name others with layers=")
    report = QuantizationReport(ENGINES["products"], num_bytes(model), num_bytes(made))
    return QuantizedModel(made, report, FirstCall(model, tolerance=tolerance, is_strict=is_strict, clock=clock))


def measure_on(made: QuantizedModel, reference: ModuleBackend, sample: Mapping[str, Any], what: str) -> None:
    """Measure with a sample now instead of at the first call."""
    inputs = _inputs(reference, sample)
    made.measure(*inputs.args, measured_on=what, **inputs.kwargs)


def _inputs(reference: ModuleBackend, sample: Mapping[str, Any]) -> Inputs:
    call = reference.call
    tensors: dict[str, Tensor] = {name: torch.as_tensor(sample[name]) for name in call.names if name in sample}
    if call.style == "keywords":
        return Inputs((), tensors)
    return Inputs((tensors,) if call.style == "mapping" else tuple(tensors.values()), {})


def module_over(made: QuantizedFile, reference: ModuleBackend, batch: Batch) -> QuantizedModel:
    """Return a module that runs a graph file, with its report and the measured row independence."""
    module = OnnxModule(made.path.read_bytes(), reference.call)
    inputs = _inputs(reference, batch)
    with evaluating(reference.model):
        own = row_effect(reference.model, inputs)
    report = QuantizationReport(
        f"ONNX Runtime: {made.chosen.recipe}", made.float_bytes, made.chosen.num_bytes, "the evaluation inputs", made.parity,
        made.float_s, made.chosen.seconds, row_effect(module, inputs), own, made.chosen.kept_float,
        tuple(QuantizedEngine(f"ONNX Runtime: {each.recipe}", each.seconds, each.reason) for each in made.tried), file=made,
    )  # fmt: skip
    return QuantizedModel(module, report)


def faster_of(
    graph: QuantizedModel, by_row: QuantizedModel, reference: ModuleBackend, batch: Batch, clock: Callable[[], float]
) -> QuantizedModel:
    """Return the faster of two modules on a batch; its report mentions the other one."""
    inputs = _inputs(reference, batch)
    models: dict[str, nn.Module] = {"graph": graph, "rows": by_row, "float": reference.model}
    with evaluating(*models.values()):
        seconds = fastest_s({name: partial(inputs.run, model) for name, model in models.items()}, clock)
    best, other = ("graph", "rows") if seconds["graph"] <= seconds["rows"] else ("rows", "graph")
    chosen, left = (graph, by_row) if best == "graph" else (by_row, graph)
    engines = (
        QuantizedEngine(chosen.report.engine, seconds[best]),
        *(each for each in (*chosen.report.engines, *left.report.engines) if each.reason),
        QuantizedEngine(left.report.engine, seconds[other], "another was faster"),
    )
    chosen.describe(replace(chosen.report, seconds=seconds[best], float_s=seconds["float"], engines=engines))
    return chosen
