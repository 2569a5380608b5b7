"""A file through Ray Data: `python ray_data_peer.py plain|nograd MODEL INPUT OUTPUT [BATCH]`, with one actor of two cores.

`plain` is what Ray's documentation has users write: a class that holds the model, and answers a batch. Its batches have 32
rows, because that is what the model computes with in all loops here: `encode` would cut a larger one into 32s, after sorting
it, and Ray would call it less often (BATCH: how many rows instead; 0: a block of the data set, Ray's default).
`nograd` is `nograd.ray.map_batches` in its place. Ray has one core more than the actor, or nothing could read for it; and its
processes are as nice as any other, not 15 nicer, or whatever else the machine does would count against Ray alone.
"""

from __future__ import annotations

import os
import sys
import tempfile

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else it listens on all of the machine's addresses

import ray
import ray.data

CORES = 2


class Embedder:
    def __init__(self, model):
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model, device="cpu")

    def __call__(self, batch):
        batch["embedding"] = self.model.encode(batch["text"].tolist(), batch_size=32, show_progress_bar=False)
        return batch


def plain(texts, model, rows):
    return texts.map_batches(
        Embedder, fn_constructor_args=(model,), batch_size=rows or None, num_cpus=CORES,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip


def ours(texts, model):
    import nograd.ray

    return nograd.ray.map_batches(texts, model, cores=CORES, actors=1)


if __name__ == "__main__":
    kind, model, source, output, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            "local", num_cpus=CORES + 1, include_dashboard=False, object_store_memory=512 << 20, log_to_driver=False,
            logging_level="error", _node_ip_address="127.0.0.1", _temp_dir=folder,
        )  # fmt: skip
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            texts = ray.data.read_json(source)
            made = plain(texts, model, int(rest[0]) if rest else 32) if kind == "plain" else ours(texts, model)
            made.write_parquet(output)
        finally:
            ray.shutdown()
