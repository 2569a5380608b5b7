"""torch's keyword names of an export: what was given is in the file, in nograd's loaders, and is verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import nograd
from nograd.backends.onnx import OnnxBackend
from nograd.errors import ConfigError, SignatureError
from tests.kinds_of_model import MODELS, assert_equal, call, make_inputs, make_model


def dims_of(values: Any) -> dict[str, list[Any]]:
    return {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def test_names_and_axes_are_in_the_file_and_in_the_loader(tmp_path: Path) -> None:
    model, inputs = make_model("named"), make_inputs("named", 3)
    made = nograd.export_to_onnx(
        model, inputs, tmp_path / "m.onnx", opset_version=17, input_names=["ids", "mask"], output_names=["scores"],
        dynamic_axes={"ids": {0: "batch", 1: "words"}, "mask": {0: "batch", 1: "words"}, "scores": {0: "answers"}},
    )  # fmt: skip
    graph = onnx.load(tmp_path / "m.onnx")
    other = make_inputs("named", 6)

    assert [each.version for each in graph.opset_import if not each.domain] == [17]
    assert dims_of(graph.graph.input) == {"ids": ["batch", "words"], "mask": ["batch", "words"]}
    assert dims_of(graph.graph.output) == {"scores": ["answers", 3]}
    assert made.parity.passed
    predictor = nograd.load(str(tmp_path / "m.onnx"))
    found = predictor.predict({"ids": other["input_ids"], "mask": other["attention_mask"]})
    assert_equal(found, call(model, other), 1e-4)
    assert predictor.signature.inputs[0].shape == ("words",)


def test_an_axis_that_is_not_listed_has_the_size_of_the_sample(tmp_path: Path) -> None:
    model, x = make_model("lstm"), make_inputs("lstm", 2)
    nograd.export_to_onnx(model, x, tmp_path / "m.onnx", dynamic_axes={"x": [0]}, exporter="legacy")
    predictor = nograd.load(str(tmp_path / "m.onnx"))

    assert dims_of(onnx.load(tmp_path / "m.onnx").graph.input) == {"x": ["rows", 7, 4]}
    assert_equal(predictor.predict(make_inputs("lstm", 5)), call(model, make_inputs("lstm", 5)), 1e-4)
    with pytest.raises(SignatureError):
        predictor.predict(x[:, :3])


@pytest.mark.parametrize("kind", MODELS)
def test_renamed_outputs_keep_the_structure_of_the_model(kind: str, tmp_path: Path) -> None:
    model, inputs = make_model(kind), make_inputs(kind, 2)
    count = 2 if kind in ("several", "outputs") else 1
    names = ["first", "second"][:count]
    nograd.export_to_onnx(model, inputs, tmp_path / "m.onnx", output_names=names, exporter="legacy")

    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.output] == names
    assert_equal(nograd.load(str(tmp_path / "m.onnx")).predict(inputs), call(model, inputs), 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset_version": 5}, r"opset_version is 5; it must be from 7 to \d+"),
        ({"opset_version": 17, "opset": 18}, "opset_version is 17 and opset 18; give one of them"),
        ({"input_names": ["a", "b"]}, r"input_names is \['a', 'b'\]; the model has 1: input"),
        ({"output_names": ["input"]}, "contain a name twice"),
        ({"dynamic_axes": {"y": {0: "batch"}}}, "dynamic_axes contains 'y'; the file's inputs and outputs are input, output"),
        ({"dynamic_axes": {"input": {0: "batch", 1: "wide"}}}, "axis 1 of 'input'; the model supports only size 6 there"),
        ({"dynamic_axes": {}}, "contains axis 0 of no input"),
    ],
)
def test_what_the_model_does_not_have_is_one_sentence(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        nograd.export_to_onnx(make_model("tensor"), make_inputs("tensor"), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [11, 18])
def test_the_file_has_the_version_that_was_given(version: int, tmp_path: Path) -> None:
    model, x = make_model("tensor"), torch.rand(2, 6)
    nograd.export_to_onnx(model, x, tmp_path / "m.onnx", opset_version=version)

    assert [each.version for each in onnx.load(tmp_path / "m.onnx").opset_import if not each.domain] == [version]
    with OnnxBackend(tmp_path / "m.onnx") as backend:
        assert backend.run({"input": x.numpy()})["output"].shape == (2, 3)
