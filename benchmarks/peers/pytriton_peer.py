"""pytriton, which is Triton with a model in Python: `python pytriton_peer.py payload PORT`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from work import MAX_BATCH, shifted


@batch  # type: ignore[untyped-decorator]
def infer(input: Any) -> Any:  # noqa: A002  the name in the request
    return {"output": shifted(input)}


if __name__ == "__main__":
    port = int(sys.argv[2])
    addresses = {"http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "127.0.0.1"}
    settings = TritonConfig(**addresses, http_port=port, grpc_port=port + 1, metrics_port=port + 2)
    with Triton(config=settings) as triton:
        triton.bind(
            model_name="m",
            infer_func=infer,
            inputs=[Tensor(name="input", dtype=np.float32, shape=(-1,))],
            outputs=[Tensor(name="output", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH),
        )
        triton.serve()
