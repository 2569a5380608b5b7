"""Models that the benchmarks serve, and the bare ASGI application that HTTP is measured against."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.open_loop import execute
from nograd import Backend, Predictor, Signature, TensorSpec
from nograd.core.tensors import Batch, num_rows


def tiny() -> Predictor:
    """Linear(16, 4)."""
    import torch

    torch.manual_seed(0)
    return Predictor(torch.nn.Linear(16, 4), sample=torch.rand(2, 16))


def wide() -> Predictor:
    """Three layers, 16 -> 1024 -> 1024 -> 4: enough for batches to pay."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = nn.Linear(16, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4)
    return Predictor(nn.Sequential(*layers), sample=torch.rand(2, 16))


class Shift(Backend):
    """Adds 1 to every number of rows of any length."""

    name, device, lanes = "numpy", "cpu", 1
    signature = Signature((TensorSpec("input", "float32", ("n",)),), (TensorSpec("output", "float32", ("n",)),))

    def run(self, batch: Batch) -> Batch:
        return {"output": batch["input"] + np.float32(1)}


def payload() -> Predictor:
    """What a large tensor costs on its way: hardly anything is done to it."""
    return Predictor(Shift(), sample={"input": np.zeros((1, 4), np.float32)})


class Executor(Backend):
    """Takes 5 ms and 1 ms a row, without holding the interpreter, and answers with what it was given."""

    name, device, lanes = "simulated", "none", 1
    signature = Signature((TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),))

    def run(self, batch: Batch) -> Batch:
        execute(num_rows(batch))
        return {"y": batch["x"]}


def simulated() -> Predictor:
    """A device that is short, and a processor that is not."""
    return Predictor(Executor(), sample={"x": np.zeros((1, 1), np.float32)})


ANSWER = b'{"model_name":"m","outputs":[{"name":"output","datatype":"FP32","shape":[1,4],"data":[0.1,0.2,0.3,0.4]}]}'


async def hello(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    """Read the body, answer constant JSON: what HTTP costs by itself."""
    while (await receive()).get("more_body"):
        pass
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": ANSWER})
