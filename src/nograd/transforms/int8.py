"""Recipes for 8-bit quantization with ONNX Runtime: graph in, graph out. `quantize` chooses among them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from nograd.core.tensors import Batch

__all__ = ["Recipe", "dynamic_recipes", "prepared", "saturates", "static_recipes", "weighted_nodes", "write"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to quantize a graph's weights and activations to 8 bits."""

    name: str
    is_static: bool
    operators: tuple[str, ...]
    weights: str = "int8"
    """Type of the weights: `int8` or `uint8`."""

    per_channel: bool = True
    seven_bits: bool = False
    """Weights use 7 of their 8 bits, so that the sum of two products fits in 16 bits (see `saturates`)."""

    as_operators: bool = False
    """Integer operators in the graph, instead of float operators between quantize and dequantize pairs."""


def dynamic_recipes(operators: Sequence[str], *, seven_bits: bool) -> list[Recipe]:
    """Return recipes with activations scaled at run time, for matrix products; the most promising first."""
    made = [
        Recipe("dynamic, int8 weights per channel", is_static=False, operators=tuple(operators), seven_bits=seven_bits),
        Recipe("dynamic, uint8 weights per channel", is_static=False, operators=tuple(operators), weights="uint8"),
        Recipe("dynamic, uint8 weights", is_static=False, operators=tuple(operators), weights="uint8", per_channel=False),
    ]
    return [_with_bits_in_name(recipe) for recipe in made]


def static_recipes(operators: Sequence[str], *, seven_bits: bool) -> list[Recipe]:
    """Return recipes with activation ranges from calibration, for convolutions; the most promising first."""
    pairs = Recipe("static, per channel", is_static=True, operators=tuple(operators), seven_bits=seven_bits)
    made = [
        pairs,
        replace(pairs, name="static, per channel, integer operators", as_operators=True),
        replace(pairs, name="static, per tensor", per_channel=False),
    ]
    return [_with_bits_in_name(recipe) for recipe in made]


def _with_bits_in_name(recipe: Recipe) -> Recipe:
    return replace(recipe, name=f"{recipe.name}, 7 bits") if recipe.seven_bits else recipe


def saturates() -> bool:
    """Return whether sums of 8-bit products saturate on this processor, by computing one.

    Without VNNI, two products of an unsigned and a signed byte are added in 16 bits: 255 * 127 * 2 becomes 32767. ONNX Runtime
    does not report it. This sums 256 such products; the exact sum is 8290560.
    """
    nodes = [helper.make_node("MatMulInteger", ["a", "b"], ["y"])]
    a = helper.make_tensor_value_info("a", TensorProto.UINT8, [1, 256])
    b = helper.make_tensor_value_info("b", TensorProto.INT8, [256, 16])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])
    graph = helper.make_graph(nodes, "saturation", [a, b], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": np.full((1, 256), 255, np.uint8), "b": np.full((256, 16), 127, np.int8)})
    return bool((found != 255 * 127 * 256).any())


def prepared(source: Path, target: Path) -> None:
    """Write the graph with inferred shapes and folded batch norms, as required for quantization."""
    with _quietly():
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def weighted_nodes(path: Path, operators: Sequence[str]) -> list[str]:
    """Return the names of the nodes of these operators that have weights."""
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    constants = {output for node in graph.node if node.op_type in ("Constant", "Transpose") for output in node.output}
    return [node.name for node in graph.node if node.op_type in operators and set(node.input) & (weights | constants)]


def write(
    recipe: Recipe, source: Path, target: Path, *, calibration: Sequence[Batch] = (), only: Sequence[str] | None = None,
    skip: Sequence[str] = (),
) -> None:  # fmt: skip
    """Quantize a prepared graph.

    Args:
        recipe: how to quantize.
        source: the prepared graph.
        target: the file to write.
        calibration: inputs that determine the activation ranges; for static recipes.
        only: names of the nodes to quantize; None: all nodes of the recipe's operators.
        skip: names of nodes to leave in float.
    """
    kinds = {"int8": quantization.QuantType.QInt8, "uint8": quantization.QuantType.QUInt8}
    options: dict[str, Any] = {
        "op_types_to_quantize": list(recipe.operators), "per_channel": recipe.per_channel, "reduce_range": recipe.seven_bits,
        "weight_type": kinds[recipe.weights], "nodes_to_quantize": None if only is None else _and_as_products(only),
        "nodes_to_exclude": _and_as_products(skip), "extra_options": {"DefaultTensorType": TensorProto.FLOAT},
    }  # fmt: skip
    with _quietly():
        if not recipe.is_static:
            quantization.quantize_dynamic(str(source), str(target), **options)
            return
        form = quantization.QuantFormat.QOperator if recipe.as_operators else quantization.QuantFormat.QDQ
        quantization.quantize_static(
            str(source),
            str(target),
            _CalibrationBatches(calibration),
            quant_format=form,
            activation_type=kinds["uint8"],
            **options,
        )


def _and_as_products(names: Sequence[str]) -> list[str]:
    """Return the names with those of derived nodes: ONNX Runtime splits each Gemm into a matrix product and an addition
    first.
    """
    return [*names, *(f"{name}_MatMul" for name in names)]


class _CalibrationBatches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches: Iterator[Mapping[str, Any]] = iter(batches)

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next batch, None at the end."""
        return next(self._batches, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress advice that ONNX Runtime's quantizer logs to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
