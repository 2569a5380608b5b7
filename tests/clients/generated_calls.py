"""Calls of a server by the client that openapi-python-client made of its /openapi.json; prints JSON, for the test."""

from __future__ import annotations

import json
import sys

from nograd_client import Client
from nograd_client.api.open_ai import create_embeddings, retrieve_model
from nograd_client.api.open_inference_protocol import infer, model_metadata, server_ready
from nograd_client.models import EmbeddingsRequest, InferRequest


def main(url: str) -> None:
    client = Client(base_url=url)
    given = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["four", "a"]}
    asked = InferRequest.from_dict({"inputs": [given], "id": "mine"})
    embeddings = EmbeddingsRequest.from_dict({"model": "lengths", "input": given["data"]})
    answers = {
        "ready": server_ready.sync(client=client),
        "metadata": model_metadata.sync("lengths", client=client),
        "infer": infer.sync("lengths", client=client, body=asked),
        "no model": infer.sync("other", client=client, body=asked),
        "embeddings": create_embeddings.sync(client=client, body=embeddings),
        "no embedder": retrieve_model.sync("other", client=client),
    }
    print(json.dumps({name: answer.to_dict() for name, answer in answers.items()}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
