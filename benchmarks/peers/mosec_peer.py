"""mosec: `python mosec_peer.py --port PORT`; PEER_WORKLOAD says what it serves."""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker
from work import MAX_BATCH, WAIT_MS, WORKLOAD, load


class Model(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.run = load()

    def forward(self, data: list[Any]) -> list[Any]:
        key = "input" if WORKLOAD == "tiny" else "text"
        return [{"output": answer} for answer in self.run([each[key] for each in data])]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS)
    server.run()
