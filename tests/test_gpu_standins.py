"""Decisions of the GPU path that a stand-in shows on a CPU. What only a GPU can show is in test_gpu.py."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nograd
from nograd.backends.compiled import records_graphs
from nograd.backends.onnx import providers_for, run_bound
from nograd.errors import ConfigError, DeviceLostError
from nograd.presets import throughput_layouts


class Binding:
    """Records what is bound, and returns an array per output in the order of binding, as ONNX Runtime does."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.outputs: list[tuple[str, str, int]] = []

    def bind_cpu_input(self, name: str, _: object) -> None:
        self.inputs.append(name)

    def bind_output(self, name: str, device: str, index: int) -> None:
        self.outputs.append((name, device, index))

    def copy_outputs_to_cpu(self) -> list[Any]:
        return [np.array([ord(name)]) for name, _, _ in self.outputs]


class Session:
    def __init__(self) -> None:
        self.binding = Binding()

    def io_binding(self) -> Binding:
        return self.binding

    def run_with_iobinding(self, binding: Binding) -> None:
        assert binding.inputs


def test_outputs_are_bound_on_the_gpu_of_the_session_in_the_order_of_the_signature() -> None:
    session = Session()

    arrays = run_bound(session, {"x": np.zeros(1)}, ["b", "a"], 2)

    assert session.binding.outputs == [("b", "cuda", 2), ("a", "cuda", 2)]
    assert [array.item() for array in arrays] == [ord("b"), ord("a")]


def test_onnx_runtime_computes_float32_in_float32_on_a_gpu() -> None:
    providers, options = providers_for("cuda:1", ["CUDAExecutionProvider", "CPUExecutionProvider"])

    assert providers[0] == "CUDAExecutionProvider"
    assert options[0]["use_tf32"] == "0"
    assert options[0]["device_id"] == "1"


def test_a_gpu_gets_few_lanes_however_many_processors_there_are() -> None:
    assert throughput_layouts("cuda:0", 64) == ((1, None), (2, None), (3, None))
    assert throughput_layouts("cpu", 64) == ((1, None), (64, 1))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_graphs_that_are_recorded_for_each_shape_are_not_dynamic(mode: Any) -> None:
    assert records_graphs(mode, "cuda:0", dynamic=None)
    assert not records_graphs(mode, "cpu", dynamic=True)
    with pytest.raises(ConfigError, match=f"dynamic is True and mode '{mode}'"):
        records_graphs(mode, "cuda:0", dynamic=True)
    assert not records_graphs("default", "cuda:0", dynamic=True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLostError),
        (RuntimeError("CUDA error: invalid configuration argument"), None),
    ],
    ids=str,
)
def test_a_probe_that_loses_the_device_ends_and_one_refused_launch_does_not(
    error: Exception, expected: type[Exception] | None
) -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] != 4:  # a size that only the probe tries
                raise error
            return x * 2

    def probe() -> nograd.Signature:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nograd.Predictor(Fails(), sample=torch.rand(2, 4)).signature

    if expected is None:
        assert probe().inputs[0].shape == (4,)
    else:
        with pytest.raises(expected, match="the device is lost"):
            probe()


class Overflows(nn.Module):
    """Squares of numbers above 256 exceed float16."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 300).square() / 90000


@pytest.mark.parametrize(("dtype", "overflows"), [("float16", True), ("bfloat16", False)])
def test_answers_that_overflow_in_half_precision_are_reported(dtype: Any, overflows: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nograd.FP16Predictor(Overflows(), sample=torch.rand(2, 4) + 1, dtype=dtype)

    reported = [str(each.message) for each in caught if "changes the answers" in str(each.message)]
    assert bool(reported) == overflows
    assert all("bfloat16 has the range of float32" in each for each in reported)


def test_an_actor_of_ray_sees_its_own_gpu_only() -> None:
    actors = pytest.importorskip("nograd.ray.actors")
    devices = ("auto", "cpu", "cuda", "cuda:3")

    assert list(map(actors.device_in_actor, devices)) == ["cpu", "cpu", "cuda:0", "cuda:0"]
    assert list(map(actors.reserved_gpus, devices)) == [0, 0, 1, 1]
