"""Small bundles, made without torch: a linear model over rows, and one over texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nograd.backends.onnx.graph import finish
from nograd.bundle import BundleSettings, Curve, ExportedFile, Pipeline, write_bundle
from nograd.core.independence import Independence
from nograd.core.manifest import Manifest
from nograd.core.tensors import Array, Batch, Signature, TensorSpec
from nograd.text.tokenizing import Tokenize

MEASURED = Independence(0.0, num_batches=10, max_rows=5, backend="onnx")

ROWS = Signature(
    (TensorSpec("x", "float32", (32,)),), (TensorSpec("output", "float32", (64,)),), reason="rows are independent",
    independence=MEASURED,
)  # fmt: skip
WEIGHT = np.random.default_rng(0).standard_normal((32, 64), dtype=np.float32)
"""8 KiB: it lies in `model.onnx.data`."""

CURVE = Curve((1, 2, 4), (0.001, 0.0015, 0.002), (0.0009, 0.0014, 0.0019), (0.0011, 0.0016, 0.0021))

TEXTS = Signature(
    (TensorSpec("input_ids", "int64", ("tokens",)), TensorSpec("attention_mask", "int64", ("tokens",))),
    (TensorSpec("embedding", "float32", (300,)),),
    reason="padding leaves every answer unchanged",
)
WORDS = {"[UNK]": 0, "hello": 1, "world": 2}


def linear_onnx(path: Path) -> Path:
    """Write `output = x @ WEIGHT` as nograd's exporter would: one file."""
    nodes = [helper.make_node("MatMul", ["in_0", "w"], ["out_0"])]
    _write(path, nodes, {"w": WEIGHT}, ROWS, "output")
    return path


def words_onnx(path: Path) -> Path:
    """Write the sum of the embeddings of real tokens."""
    nodes = [
        helper.make_node("Gather", ["w", "in_0"], ["rows"]),
        helper.make_node("Cast", ["in_1"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["out_0"], keepdims=0),
    ]
    constants = {
        "w": np.arange(900, dtype=np.float32).reshape(3, 300), "last": np.array([2]), "middle": np.array([1])
    }  # fmt: skip
    _write(path, nodes, constants, TEXTS, {"dict": [["embedding", "embedding"]]})
    return path


def _write(path: Path, nodes: list[Any], constants: dict[str, Array], signature: Signature, outline: Any) -> None:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs = [
        helper.make_tensor_value_info(f"in_{i}", kinds[spec.dtype], ["rows", *spec.shape])
        for i, spec in enumerate(signature.inputs)
    ]
    outputs = [helper.make_tensor_value_info("out_0", TensorProto.FLOAT, ["rows", *signature.outputs[0].shape])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    names = {f"in_{i}": spec.name for i, spec in enumerate(signature.inputs)}
    finish(model, names, {"out_0": signature.outputs[0].name}, Manifest(signature, outline))
    onnx.save(model, str(path))


def listed(folder: Path) -> list[str]:
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def rows(count: int = 1) -> Batch:
    return {"x": np.random.default_rng(1).standard_normal((count, 32), dtype=np.float32)}


def settings(**changes: Any) -> BundleSettings:
    return BundleSettings(**{"name": "tiny", "backend": "onnx", "curve": CURVE, **changes})


def write_rows(path: Path, **changes: Any) -> Path:
    """Write a bundle of the linear model, with an example row and both reports."""
    file = linear_onnx(path.parent / "linear.onnx")
    front = Pipeline(example=rows())
    reports = {"report.json": b"{}", "report.html": b"<html></html>"}
    write_bundle(path, model=ExportedFile(file), signature=ROWS, settings=settings(**changes), front=front, reports=reports)
    file.unlink()
    return path


def tokenizer() -> Tokenize:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    found = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    found.pre_tokenizer = Whitespace()
    return Tokenize(found, max_tokens=8)


def write_texts(path: Path, **changes: Any) -> Path:
    """Write a bundle of the model over texts, with its tokenizer."""
    file = words_onnx(path.parent / "words.onnx")
    curve = Curve(CURVE.sizes, CURVE.seconds, CURVE.low, CURVE.high, "tokens")
    front = Pipeline(preprocess=tokenizer(), item=Tokenize.item, example="hello world")
    write_bundle(path, model=ExportedFile(file), signature=TEXTS, settings=settings(curve=curve, **changes), front=front)
    file.unlink()
    return path


def prepare(item: Any) -> Any:
    """A preprocess that a bundle can name."""
    return np.asarray(item, np.float32) * 2


class Doubles:
    """A preprocess that its class makes anew."""

    def __call__(self, item: Any) -> Any:
        return prepare(item)


class Times:
    """A preprocess that holds something."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, item: Any) -> Any:
        return np.asarray(item, np.float32) * self.factor


def first(answer: Any) -> float:
    """A postprocess."""
    return float(answer[0])
