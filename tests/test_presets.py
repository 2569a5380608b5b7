"""Presets and exports: predictors for a purpose, and files by the end of their name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import nograd
from nograd import FP16Predictor, HighThroughputPredictor, LowLatencyPredictor, ONNXPredictor, Predictor, export_to_onnx, load
from nograd.backends.onnx import CUDA_OPTIONS, providers_for
from nograd.bundle import BundleSettings, Curve, ExportedFile, Pipeline, write_bundle
from nograd.errors import ConfigError, ExportError, ModelError, SignatureError
from nograd.exports import export_model


def foreign(path: Path, rows: Any = "batch") -> Path:
    """An ONNX file that never was a torch model: int32 ids, looked up and summed."""
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, [rows, "n"])]
    table = helper.make_tensor("table", TensorProto.FLOAT, [9, 2], np.arange(18, dtype=np.float32))
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["sum"], keepdims=0),
    ]
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [rows, 2])
    graph = helper.make_graph(nodes, "foreign", inputs, [output], [table, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return path


def test_a_file_that_never_was_a_torch_model_is_run(tmp_path: Path) -> None:
    predictor = ONNXPredictor(foreign(tmp_path / "f.onnx"), sample=np.array([[1, 2], [3, 4]], np.int32))

    assert predictor.predict([[1, 2, 3]]).tolist() == [[12, 15]]
    assert predictor.signature.batching == "equal_lengths"
    assert predictor.signature.reason == "rows do not influence each other; whether n may be padded is not known"


def test_without_a_sample_nothing_is_batched(tmp_path: Path) -> None:
    assert ONNXPredictor(foreign(tmp_path / "f.onnx")).signature.batching == "alone"


def test_a_graph_of_one_row_runs_row_by_row(tmp_path: Path) -> None:
    predictor = ONNXPredictor(foreign(tmp_path / "f.onnx", 1))

    assert predictor.predict([[1, 2], [3, 4]]).tolist() == [[6, 8], [14, 16]]


def stateful(path: Path) -> Path:
    """A step of a recurrence: the state is [2, rows, width], the rate a number; what comes out is a state and a number."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 3]),
        helper.make_tensor_value_info("rate", TensorProto.FLOAT, []),
    ]
    outputs = [
        helper.make_tensor_value_info("next", TensorProto.FLOAT, [2, "batch", 3]),
        helper.make_tensor_value_info("total", TensorProto.FLOAT, []),
    ]
    nodes = [
        helper.make_node("Mul", ["x", "rate"], ["scaled"]),
        helper.make_node("Add", ["state", "scaled"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["total"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "stateful", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(path))
    return path


def test_of_a_graph_whose_inputs_are_not_all_rows_each_row_is_a_call(tmp_path: Path) -> None:
    predictor = ONNXPredictor(stateful(tmp_path / "s.onnx"))
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    state = np.ones((2, 2, 2, 3), np.float32)
    rate = np.array([1, 10], np.float32)

    answers = predictor.predict({"x": x, "state": state, "rate": rate})

    np.testing.assert_array_equal(answers["next"], state + (x * rate[:, None, None])[:, None])
    np.testing.assert_array_equal(answers["total"], answers["next"].sum((1, 2, 3)))
    assert [str(spec) for spec in predictor.signature.inputs] == [
        "float32 [rows, batch, 3]", "float32 [rows, 2, batch, 3]", "float32 [rows]",
    ]  # fmt: skip
    assert predictor.signature.batching == "alone"
    assert predictor.signature.reason == "an input or output of the graph is not [rows, ...]: each row is a separate call"


def test_sizes_that_must_agree_within_such_a_call_are_checked(tmp_path: Path) -> None:
    sample = {"x": np.ones((1, 2, 3), np.float32), "state": np.ones((1, 2, 5, 3), np.float32), "rate": np.ones(1, np.float32)}

    with pytest.raises(SignatureError, match="input 'state' has 5 batch, input 'x' has 2; they must agree"):
        ONNXPredictor(stateful(tmp_path / "s.onnx"), sample=sample)


def test_answers_of_different_shapes_are_not_stacked(tmp_path: Path) -> None:
    backend = ONNXPredictor(stateful(tmp_path / "s.onnx")).backend
    call = backend._call  # type: ignore[attr-defined]
    backend._call = lambda batch: {"next": call(batch)["next"][: int(batch["rate"])]}  # type: ignore[attr-defined]
    x, state = np.ones((2, 2, 3), np.float32), np.ones((2, 2, 2, 3), np.float32)
    batch = {"x": x, "state": state, "rate": np.array([1, 2], np.float32)}

    with pytest.raises(ModelError, match=r"output 'next' is \[1, 2, 3\] and \[2, 2, 3\] for different rows of one batch"):
        backend.run(batch)


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("auto", [CPU], ([CPU], [{}])),
        ("cpu", [CUDA, CPU], ([CPU], [{}])),
        ("auto", [CUDA, CPU], ([CUDA, CPU], [{"device_id": "0", **CUDA_OPTIONS}, {}])),
        ("cuda:1", [CUDA, CPU], ([CUDA, CPU], [{"device_id": "1", **CUDA_OPTIONS}, {}])),
    ],
)
def test_providers_follow_the_device(device: str, available: list[str], expected: Any) -> None:
    assert providers_for(device, available) == expected


@pytest.mark.parametrize("device", ["cuda", "tpu", "cpu:1", "cuda:x"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}'"):
        providers_for(device, [CPU])


PROGRAM = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "openvino_telemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
from nograd import load

for file in sys.argv[1:]:
    print(load(file).predict([[1.0, 2.0, 3.0, 4.0]]).shape)
"""


def test_onnx_and_openvino_files_run_where_there_is_no_torch(tmp_path: Path) -> None:
    backend = Predictor(nn.Linear(4, 3), sample=torch.ones(2, 4)).backend
    for kind, file in (("onnx", "m.onnx"), ("openvino", "m.xml")):
        export_model(backend, tmp_path / file, to=kind)

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "m.onnx"), str(tmp_path / "m.xml")],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.stdout.split("\n")[:2] == ["(1, 3)", "(1, 3)"], done.stderr


@pytest.mark.parametrize("kind", [LowLatencyPredictor, HighThroughputPredictor])
def test_presets_answer_as_the_model_does(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(5, 4)

    predictor = kind(model, torch.randn(2, 4))

    with torch.no_grad():
        torch.testing.assert_close(predictor.predict(x), model(x))
    assert predictor.backend.name in ("eager", "onnx")


def test_float16_is_compared_with_the_float32_model(tmp_path: Path) -> None:
    backend = Predictor(nn.Linear(4, 3), sample=torch.rand(2, 4)).backend

    made = export_model(backend, tmp_path / "h.onnx", to="onnx", precision="float16")

    assert 0 < made.parity.max_rel < 0.05
    assert [file.name for file in tmp_path.iterdir()] == ["h.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tflite"}, "the kind is 'tflite'; it must be one of onnx, openvino, torchscript, pt2"),
        ({"to": "pt2"}, r"for pt2 it must end in .pt2"),
        ({"to": "onnx", "precision": "int3"}, "precision is 'int3'"),
    ],
)
def test_what_cannot_be_written_is_told(options: Any, message: str, tmp_path: Path) -> None:
    backend = Predictor(nn.Linear(4, 3), sample=torch.rand(2, 4)).backend

    with pytest.raises(ConfigError, match=message):
        export_model(backend, tmp_path / "m.onnx", **options)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nograd", *arguments], check=False, capture_output=True, text=True)


def test_the_command_writes_the_file_and_prints_how_closely_it_agrees(tmp_path: Path) -> None:
    done = command("export", "tests.served_models:tiny", "--to", "onnx", "-o", str(tmp_path / "t.onnx"))

    assert done.returncode == 0, done.stderr
    assert "passed over" in done.stdout
    assert load(str(tmp_path / "t.onnx")).predict(np.zeros((2, 16), np.float32)).shape == (2, 4)


def test_the_command_exits_with_1_and_the_table_where_the_export_differs(tmp_path: Path) -> None:
    done = command("export", "tests.served_models:branching", "--to", "torchscript", "-o", str(tmp_path / "t.pt"))

    assert done.returncode == 1
    assert "FAILED over" in done.stdout
    assert "branches on its data" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nograd.backends.onnx.graph.MAX_INLINE_BYTES", 1000)
    model = nn.Linear(64, 64)

    export_to_onnx(model, torch.rand(2, 64), tmp_path / "m.onnx")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    x = np.ones((3, 64), np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(ONNXPredictor(tmp_path / "m.onnx").predict(x), model(torch.from_numpy(x)).numpy(), atol=1e-5)


def test_a_refused_export_says_what_each_way_said() -> None:
    class Refused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * len(str(x.sum().item()))

    with pytest.raises(ExportError, match=r"dynamo=True\): .*dynamo=False\): "):
        export_to_onnx(Refused(), torch.rand(2, 3), "refused.onnx")


@pytest.mark.parametrize("kind", [LowLatencyPredictor, HighThroughputPredictor])
def test_presets_take_items_where_there_is_a_preprocess(kind: Any) -> None:
    model = nn.Linear(4, 3).eval()
    predictor = kind(
        model,
        [[1, 2], [3, 4]],
        preprocess=lambda item: np.array([*item, 0, 1], np.float32),
        postprocess=lambda row: row.argmax(),
    )

    expected = model(torch.tensor([[5.0, 6.0, 0.0, 1.0], [7.0, 8.0, 0.0, 1.0]])).argmax(1).tolist()
    assert predictor.predict([[5, 6], [7, 8]]) == expected


@pytest.mark.filterwarnings("ignore:8-bit integers take")  # so small a model gains nothing
def test_an_export_in_8_bit_integers_is_onnx_and_proven(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backend = Predictor(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), sample=torch.randn(8, 64)).backend

    made = export_model(backend, tmp_path / "m.onnx", to="onnx", precision="int8")

    assert made.parity.passed
    assert made.parity.min_cosine >= 0.98
    assert "x the speed of float32 in ONNX Runtime" in made.notes[0]
    assert ONNXPredictor(made).predict(np.zeros((3, 64), np.float32)).shape == (3, 8)
    with pytest.raises(ConfigError, match="8-bit integers are written as onnx only"):
        export_model(backend, tmp_path / "m.xml", to="openvino", precision="int8")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small ONNX model for latency, with a curve."""
    folder = tmp_path_factory.mktemp("bundled")
    model = torch.nn.Linear(4, 3)
    made = nograd.export_to_onnx(model, torch.zeros(2, 4), folder / "m.onnx")
    predictor = nograd.ONNXPredictor(made)
    curve = Curve((1, 8), (0.001, 0.002), (0.001, 0.002), (0.001, 0.002))
    settings = BundleSettings(name="m", backend="onnx", goal="latency", curve=curve)
    return write_bundle(
        folder / "b",
        model=ExportedFile(made.path),
        signature=predictor.signature,
        settings=settings,
        front=Pipeline.of(predictor),
    )


def test_a_preset_of_a_bundle_brings_its_measured_curve(bundle: Path) -> None:
    predictor = nograd.LowLatencyPredictor(bundle)

    assert predictor.cost == nograd.CostCurve((1, 8), (0.001, 0.002))
    assert predictor.predict(np.zeros((2, 4), np.float32)).shape == (2, 3)
    assert nograd.BatchPredictor(predictor).predict([np.zeros(4, np.float32)]) is not None


def test_a_preset_of_a_bundle_for_another_goal_warns(bundle: Path) -> None:
    with pytest.warns(UserWarning, match="was tuned for latency; this predictor is for throughput"):
        nograd.HighThroughputPredictor(str(bundle))


def test_a_preset_takes_a_bundle_without_a_sample(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="which contains sample"):
        nograd.LowLatencyPredictor(bundle, torch.zeros(2, 4))


@pytest.mark.parametrize("kind", [LowLatencyPredictor, HighThroughputPredictor, FP16Predictor])
@pytest.mark.filterwarnings("ignore:.*slower:UserWarning", "ignore:float16:UserWarning")
def test_a_preset_without_a_sample_chooses_with_its_first_input(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(5, 4)
    with torch.inference_mode():
        right = model(x)

    for predictor in (kind(model, "cpu"), kind(model, device=torch.device("cpu"))):
        assert not predictor.is_probed
        torch.testing.assert_close(predictor.predict(x), right, atol=1e-2, rtol=1e-2)
        assert predictor.is_probed
        assert predictor.predict(x).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*slower:UserWarning", "ignore:float16:UserWarning")
def test_half_precision_leaves_integer_inputs_alone() -> None:
    class Ids(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5000, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.table(ids).sum(1)
            return found

    model, ids = Ids().eval(), torch.tensor([[4097, 4099], [2049, 3]])

    found = FP16Predictor(model, "cpu").predict(ids)

    torch.testing.assert_close(found, model(ids).detach(), atol=1e-2, rtol=1e-2)


def test_high_throughput_answers_each_item_in_order() -> None:
    model = nn.Linear(4, 3).eval()
    x = torch.randn(9, 4)
    predictor = HighThroughputPredictor(model, "cpu", batch_size=4)

    found = predictor.predict_batch(list(x))

    assert isinstance(found, list)
    torch.testing.assert_close(torch.stack(found), model(x).detach(), atol=1e-5, rtol=1e-5)
    assert predictor.predict_batch([]) == []


def test_without_cuda_an_onnx_file_runs_on_the_cpu_with_a_warning(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx")

    with pytest.warns(UserWarning, match="CUDAExecutionProvider is not available, and the model runs on CPUExecutionProvider"):
        predictor = ONNXPredictor(path, device="cuda")

    assert predictor.device == "cpu"
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        ONNXPredictor(path, "tpu")


@pytest.mark.parametrize("kind", [LowLatencyPredictor, HighThroughputPredictor, FP16Predictor])
def test_a_predictor_is_not_a_module(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"model is a Predictor; it must be a torch\.nn\.Module"):
        kind(Predictor(nn.Linear(2, 2)), "cpu")
