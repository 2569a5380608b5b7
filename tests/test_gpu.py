"""What only a GPU can show. Run with `pytest -m gpu`; skipped with a reason where there is none."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from nograd import BatchPredictor, DynamicBatcher, Predictor
from nograd.backends.eager import eager_backend
from nograd.core.tensors import Array

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is False"),
]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()


def test_auto_runs_on_the_gpu_and_leaves_the_callers_module_where_it_was() -> None:
    module = model()
    predictor = Predictor(module, sample=torch.zeros(2, 16))

    assert predictor.backend.device == "cuda:0"
    assert next(module.parameters()).device.type == "cpu"


def test_tensors_come_back_on_the_device_that_they_came_from() -> None:
    predictor = Predictor(model(), sample=torch.zeros(2, 16))

    assert predictor.predict(torch.zeros(3, 16)).device.type == "cpu"
    assert predictor.predict(torch.zeros(3, 16, device="cuda")).device.type == "cuda"


def test_the_staged_batch_gives_the_cpus_answers() -> None:
    module = model()
    x = torch.randn(33, 16)
    backend = eager_backend(module, [x[:2]], device="cuda")

    answer = backend.run({"input": x.numpy()})["output"]

    with torch.no_grad():
        np.testing.assert_allclose(answer, module(x).numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_to_the_host_as_float32(dtype: torch.dtype) -> None:
    backend = eager_backend(model().to(dtype), [torch.zeros(2, 16, dtype=dtype)], device="cuda")
    batch = backend.signature.check({"input": np.zeros((2, 16), dtype=np.float32)})

    assert backend.run(batch)["output"].dtype == np.float32


def test_gradients_reach_a_tensor_on_the_gpu() -> None:
    predictor = Predictor(model(), sample=torch.zeros(2, 16))
    x = torch.randn(2, 16, device="cuda", requires_grad=True)

    with predictor.gradients():
        predictor.predict(x).sum().backward()

    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_the_batcher_and_the_bulk_predictor_agree_with_the_predictor() -> None:
    predictor = Predictor(model(), sample=torch.zeros(2, 16))
    x = np.random.default_rng(0).standard_normal((100, 16), dtype=np.float32)
    expected = predictor.predict(x)

    async def served() -> list[Array]:
        async with DynamicBatcher(predictor) as batcher:
            return list(await asyncio.gather(*(batcher.predict(row[None]) for row in x)))

    np.testing.assert_allclose(np.concatenate(asyncio.run(served())), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.stack(list(BatchPredictor(predictor).predict(list(x)))), expected, rtol=1e-4, atol=1e-5)
