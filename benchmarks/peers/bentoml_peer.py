"""BentoML: `bentoml serve bentoml_peer:Service`; PEER_WORKLOAD says what it loads. It reads annotations: no __future__."""

import bentoml
from work import MAX_BATCH, load


@bentoml.service(traffic={"timeout": 60, "max_concurrency": 1024}, workers=1)
class Service:
    def __init__(self) -> None:
        self.run = load()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def tiny(self, input: list[list[float]]) -> list[list[float]]:  # noqa: A002  the name in the request
        return self.run(input)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10_000)
    def minilm(self, text: list[str]) -> list[list[float]]:
        return self.run(text)
