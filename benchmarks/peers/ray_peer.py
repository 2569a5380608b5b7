"""Ray Serve: `python ray_peer.py WORKLOAD PORT`."""

from __future__ import annotations

import sys
from typing import Any

import ray
from ray import serve
from work import MAX_BATCH, WAIT_MS, load

WORKLOAD = sys.argv[1]


@serve.deployment(max_ongoing_requests=1024)
class Model:
    def __init__(self, workload: str) -> None:
        self.run = load(workload)
        self.key = "input" if workload == "tiny" else "text"

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_MS / 1000)
    async def answers(self, items: list[Any]) -> list[Any]:
        return self.run(items)

    async def __call__(self, request: Any) -> Any:
        return {"output": await self.answers((await request.json())[self.key])}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Model.bind(WORKLOAD), blocking=True)
