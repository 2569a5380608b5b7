"""Exports of models that take their state and return the next one under the same name, and of models with one frame size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.core.manifest import graph_outputs
from nograd.core.tensors import Signature, TensorSpec
from nograd.errors import ExportError
from tests.kinds_of_model import assert_equal


class Cell(nn.Module):
    """A recurrent cell over frames: `frame [rows, 6 or 7]`, `h, c [rows, 4]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cell = nn.Conv1d(1, 3, 6, stride=4), nn.LSTMCell(3, 4)

    def forward(self, frame: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        h, c = self.cell(self.conv(frame.unsqueeze(1)).squeeze(-1), (h, c))
        return {"h": h, "c": c, "score": h.sum(-1, keepdim=True)}


class Counter(nn.Module):
    """A state of one number, without frames."""

    def forward(self, h: Tensor, h_out: Tensor) -> dict[str, Tensor]:
        return {"h": h + h_out, "h_out": h * 2}


def cell_inputs(rows: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {name: torch.rand(rows, size, generator=generator) for name, size in (("frame", 6), ("h", 4), ("c", 4))}


def counter_inputs(rows: int) -> dict[str, Tensor]:
    return {"h": torch.rand(rows, 2), "h_out": torch.rand(rows, 2)}


@pytest.mark.parametrize("path", ["m.onnx", "m.xml"])
def test_a_state_has_one_name_as_input_and_output(path: str, tmp_path: Path) -> None:
    export = nograd.export_to_onnx if path.endswith("onnx") else nograd.export_to_openvino
    model = Counter().eval()

    export(model, counter_inputs(2), tmp_path / path)

    inputs = counter_inputs(5)
    assert_equal(nograd.load(str(tmp_path / path)).predict(inputs), model(**inputs), 1e-5)


def test_a_state_of_a_fixed_frame_is_exported_where_the_axes_are_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Cell().eval(), cell_inputs(3)

    nograd.export_to_onnx(model, inputs, tmp_path / "m.onnx", dynamic_axes={"frame": [0], "h": [0], "c": [0]})

    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.output] == ["h_out", "c_out", "score"]
    assert_equal(nograd.load(str(tmp_path / "m.onnx")).predict(cell_inputs(4)), call_cell(model, cell_inputs(4)), 1e-5)


def call_cell(model: Cell, inputs: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**inputs)


def test_a_refused_export_names_the_option_that_fixes_the_size_of_the_sample(tmp_path: Path) -> None:
    torch.manual_seed(0)
    advice = r"if your inputs always have 6 \w+, as the sample has, export that size: dynamic_axes=\{'frame': \[0\], 'h': \[0\]"
    with pytest.raises(ExportError, match=advice):
        nograd.export_to_onnx(Cell().eval(), cell_inputs(3), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("inputs", "outputs", "in_graph"),
    [
        (["x"], ["y"], ["y"]),
        (["h"], ["h"], ["h_out"]),
        (["h", "h_out"], ["h", "h_out"], ["h_out_out", "h_out_out_out"]),
        (["h"], ["h", "h_out"], ["h_out_out", "h_out"]),
    ],
)
def test_names_in_a_graph_are_unique(inputs: list[str], outputs: list[str], in_graph: list[str]) -> None:
    def specs(names: list[str]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, "float32", (1,)) for name in names)

    found = graph_outputs(Signature(specs(inputs), specs(outputs)))

    assert list(found) == outputs
    assert len({*inputs, *found.values()}) == len(inputs) + len(outputs)
    assert list(found.values()) == in_graph
