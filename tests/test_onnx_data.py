"""External data of ONNX graphs: which files a graph names, and that a fingerprint covers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

from nograd.backends.onnx import OnnxBackend
from nograd.backends.onnx_data import data_files


def external(location: str, name: str = "w", dims: tuple[int, ...] = (1, 4)) -> TensorProto:
    """A float32 tensor whose bytes are in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * int(np.prod(dims))))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes: list[Any], tensors: list[TensorProto], **more: Any) -> GraphProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xy"]
    return helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors, **more)


def saved(path: Path, graph: GraphProto, **more: Any) -> ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10, **more)
    path.write_bytes(model.SerializeToString())
    return model


def names(path: Path) -> list[str]:
    return [file.name for file in data_files(path)]


ADD = helper.make_node("Add", ["x", "w"], ["y"])


def test_every_place_that_can_hold_a_tensor_is_searched(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=external("constant.bin"))],
        "inner", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 4])], [external("branch.bin")],
    )  # fmt: skip
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Two", [], ["z"], domain="own", several=[external("list.bin"), external("list2.bin")]),
        helper.make_node("Call", ["x"], ["v"], domain="own"),
    ]
    function = helper.make_function(
        "own", "Call", ["a"], ["b"], [helper.make_node("Constant", [], ["b"], value=external("function.bin"))],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    sparse = helper.make_sparse_tensor(external("values.bin"), external("indices.bin"), [4])
    saved(
        tmp_path / "m.onnx",
        graph_of(nodes, [external("weights.bin"), external("weights.bin", "again")], sparse_initializer=[sparse]),
        functions=[function],
    )

    assert names(tmp_path / "m.onnx") == [
        "constant.bin", "branch.bin", "list.bin", "list2.bin", "weights.bin", "values.bin", "indices.bin", "function.bin",
    ]  # fmt: skip


def test_words_that_only_look_like_a_location_name_no_file(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 4], np.ones(4, "f4").tobytes(), raw=True)
    model = saved(tmp_path / "m.onnx", graph_of([ADD], [weights], doc_string="location: weights.bin"))
    assert names(tmp_path / "m.onnx") == []

    model.metadata_props.add(key="location", value="weights.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert names(tmp_path / "m.onnx") == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data + b"\x0b"], ids=["cut", "a kind that is not used"]
)
def test_a_damaged_graph_raises(tmp_path: Path, damage: Any) -> None:
    saved(tmp_path / "m.onnx", graph_of([ADD], [external("weights.bin")]))
    (tmp_path / "m.onnx").write_bytes(damage((tmp_path / "m.onnx").read_bytes()))

    with pytest.raises(ValueError, match="is not an ONNX graph"):
        data_files(tmp_path / "m.onnx")


@pytest.mark.parametrize("location", ["part-00001", "données.bin", "m.onnx.data"])
def test_a_fingerprint_changes_with_the_data_in_any_file(tmp_path: Path, location: str) -> None:
    data = tmp_path / location
    saved(tmp_path / "m.onnx", graph_of([ADD], [external(location)]))
    seen = []
    for value in (1, 1, 2):
        data.write_bytes(np.full(4, value, "f4").tobytes())
        with OnnxBackend(tmp_path / "m.onnx") as backend:
            seen.append(backend.fingerprint())

    assert seen[0] == seen[1] != seen[2]
    assert not any(each.private_because for each in seen)
