"""Serving needs no torch: everything on the way of a request runs in a process that cannot import it."""

from __future__ import annotations

import subprocess
import sys

from tests.waiting import HANG_S

PROGRAM = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())

import asyncio, json
import numpy as np
from nograd import Backend, Predictor, Signature, TensorSpec
from nograd.server.call import Call
from nograd.server.settings.definition import ServeConfig
from nograd.server.http.app import App
from nograd.server.models.service import InferenceService

class Doubler(Backend):
    name, device = "doubler", "cpu"
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))

    def run(self, batch):
        return {"y": batch["x"] * 2}

async def main():
    service = InferenceService(ServeConfig())
    model = service.add("doubler", Predictor(Doubler()))
    await service.start()
    App(service)
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    print(json.loads(await model.infer(Call(service, "http", "POST", "/"), json.dumps(body).encode()))["outputs"][0]["data"])
    await service.stop()

asyncio.run(main())
"""


def test_a_model_without_torch_is_served_where_torch_cannot_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert done.stderr == ""
    assert done.stdout == "[2.0, 4.0]\n"
