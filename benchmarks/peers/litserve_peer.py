"""LitServe: `python litserve_peer.py WORKLOAD PORT`. It reads the annotation of a request: there is none."""

import sys
from typing import Any

import litserve
from work import MAX_BATCH, WAIT_MS, load


class Model(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: Any) -> None:  # noqa: ARG002
        self.run = load(sys.argv[1])

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request["input" if sys.argv[1] == "tiny" else "text"]

    def batch(self, inputs: Any) -> list[Any]:
        return list(inputs)

    def predict(self, x: Any) -> Any:
        return self.run(x)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return {"output": output}


if __name__ == "__main__":
    api = Model(max_batch_size=MAX_BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
