"""Calls of a server by kserve's clients, run by a Python that has them, with URL and gRPC address; prints JSON for the test."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROWS = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16)
MODEL = "scaled"


def request(*, binary: bool, rows: Any = ROWS, model: str = MODEL) -> InferRequest:
    given = InferInput("x", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="mine")


def told(answer: Any) -> dict[str, Any]:
    (output,) = answer.outputs
    found = output.as_numpy()
    return {"id": answer.id, "name": output.name, "shape": list(found.shape), "bytes": found.astype("<f4").tobytes().hex()}


async def refused(call: Awaitable[Any]) -> str:
    try:
        return f"answered: {await call}"
    except Exception as error:  # noqa: BLE001  what kind it is, and says, is what is asked
        return f"{type(error).__name__}: {error}"


async def over_rest(url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model ready": await client.is_model_ready(url, MODEL),
            "other ready": await client.is_model_ready(url, "other"),
            "json": told(await client.infer(url, request(binary=False), model_name=MODEL)),
            "binary": told(await client.infer(url, request(binary=True), model_name=MODEL)),
            "no model": await refused(client.infer(url, request(binary=False), model_name="other")),
            "wrong shape": await refused(client.infer(url, request(binary=False, rows=ROWS[:, :15]), model_name=MODEL)),
        }


async def over_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address, retries=0, channel_args=[("grpc.enable_retries", 0)]) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(MODEL),
            "raw": told(await client.infer(request(binary=True))),
            "no model": await refused(client.infer(request(binary=True, model="other"))),
            "wrong shape": await refused(client.infer(request(binary=True, rows=ROWS[:, :15]))),
        }


async def main(url: str, address: str) -> None:
    print(json.dumps({"rest": await over_rest(url), "grpc": await over_grpc(address)}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
