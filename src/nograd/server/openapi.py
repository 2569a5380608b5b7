"""The server's own description, OpenAPI 3.1: `/openapi.json`, made of the routes that are there and the models' signatures.

`http.App.routes` says what is answered, `OPERATIONS` what that is; a test holds them together. Pure: values in, a document out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from nograd import __version__
from nograd.server.embeddings import vectors_of
from nograd.server.openapi_schemas import HEADERS, SCHEMAS, by_inputs, by_outputs, ref

if TYPE_CHECKING:
    from nograd.server.keys import Door
    from nograd.server.served import ServedModel
    from nograd.server.service import InferenceService

__all__ = ["OPERATIONS", "Operation", "document"]

JSON = "application/json"
OCTETS = "application/octet-stream"

ABOUT = """\
The Open Inference Protocol, version 2, and what nograd has beside it. Every refusal is JSON: `{"error": "a sentence"}`; below
/v1, OpenAI's form. What GET answers, HEAD answers without its body. Tensors may also come in binary: the body is then JSON,
whose length the header Inference-Header-Content-Length gives, and behind it the bytes of each input that has
`binary_data_size` among its parameters, in order; little-endian, row-major.\
"""

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

REFUSALS = {
    400: "what was sent is not what the path or the model takes; the sentence names both",
    401: "the request has no API key, or one that is not known here",
    404: "there is no such model or version",
    413: "the body, or the number of rows, is beyond the server's limit",
    500: "the model raised",
    501: "a content encoding that is not served",
    503: "the model is not ready, or its queue is full; Retry-After says when to try again",
    504: "the answer would have come too late",
}

CALL = (400, 404, 413, 500, 501, 503, 504)
"""What a call of a model may be refused with."""


class Operation(NamedTuple):
    """What one route does."""

    name: str
    summary: str
    answer: str
    """The name of a schema; or the content type, where it is not JSON."""

    refusals: tuple[int, ...] = ()
    body: str = ""
    """The name of the body's schema; empty: it has none."""


_MODEL = {
    "": ("GET", Operation("model_metadata", "Name, versions and tensors of a model", "ModelMetadata", (404,))),
    "/ready": ("GET", Operation("model_ready", "Whether a model answers", "ModelReady", (404,))),
    "/stats": ("GET", Operation("model_statistics", "Counts and times of a model, in Triton's form", "Statistics", (404,))),
    "/config": (
        "GET",
        Operation("model_configuration", "How it is served, as Triton's ModelConfig", "ModelConfig", (404,)),
    ),
    "/infer": ("POST", Operation("infer", "Run a model", "InferAnswer", CALL, "InferRequest")),
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("GET", "/"): Operation("live_page", "The live page", "text/html"),
    ("GET", "/page/{file}"): Operation("page_file", "A file of it", "*/*", (404,)),
    ("GET", "/live.json"): Operation("live", "What the live page shows", "Live"),
    ("GET", "/openapi.json"): Operation("openapi", "This document", "Document"),
    ("GET", "/metrics"): Operation("metrics", "Metrics in Prometheus' text format", "text/plain"),
    ("POST", "/cache/clear"): Operation("clear_cache", "Forget the answers that are kept in memory", "Cleared"),
    ("GET", "/v2"): Operation("server_metadata", "Name, version and extensions", "ServerMetadata"),
    ("GET", "/v2/"): Operation("server_metadata_too", "The same", "ServerMetadata"),
    ("GET", "/v2/health/live"): Operation("server_live", "Whether the server runs", "ServerLive"),
    ("GET", "/v2/health/ready"): Operation("server_ready", "Whether all models answer; 503 where not", "ServerReady"),
    ("GET", "/v2/models/stats"): Operation("statistics", "Counts and times of all models, in Triton's form", "Statistics"),
    ("POST", "/v2/repository/index"): Operation(
        "repository_index", "Every model that is served or could be loaded", "RepositoryIndex", (400,), "RepositoryIndexRequest"
    ),
    ("POST", "/v2/repository/models/{model}/load"): Operation(
        "repository_load", "Load a model, or load it anew; answered when it is warm", "Changed", (400, 404, 503), "Change"
    ),
    ("POST", "/v2/repository/models/{model}/unload"): Operation(
        "repository_unload", "Unload a model; answered when its memory is free", "Changed", (400, 404), "Change"
    ),
    ("GET", "/v1/models"): Operation("list_models", "The models that give embeddings", "OpenAIModels"),
    ("GET", "/v1/models/{model}"): Operation("retrieve_model", "One of them", "OpenAIModel", (404,)),
    ("POST", "/v1/embeddings"): Operation("create_embeddings", "Texts to vectors", "Embeddings", CALL, "EmbeddingsRequest"),
    **{
        (method, f"/v2/models/{{model}}{version}{action}"): operation._replace(name=operation.name + suffix)
        for version, suffix in (("", ""), ("/versions/{version}", "_version"))
        for action, (method, operation) in _MODEL.items()
    },
}
"""By method and path."""

READY = ("server_live", "server_ready", "model_ready", "model_ready_version")
"""Operations that answer 503 with the same body when the answer is no."""

MAY_BE_EMPTY = ("RepositoryIndexRequest", "Change")
"""Bodies that may be left out."""

_PLAIN = {"schema": {"type": "string"}}
_BYTES = {"schema": {"type": "string", "format": "binary"}}

_UNKNOWN = Operation("", "Not described", "Document")


def document(service: InferenceService, routes: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the description of a server.

    Args:
        service: its models.
        routes: method and path of what is answered.
    """
    names = list(dict.fromkeys(model.name for model in service.models))
    versions = list(dict.fromkeys(model.version for model in service.models))
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes:
        operation = OPERATIONS.get((method, path), _UNKNOWN._replace(name=_word(f"{method}{path}")))
        paths.setdefault(path, {})[method.lower()] = _operation(operation, path, names, versions)
    for index, model in enumerate(service.model(name) for name in names):
        paths[f"/v2/models/{quote(model.name, safe='')}/infer"] = {"post": _infer(model, index)}
    paths["/v1/embeddings"]["post"]["requestBody"]["content"][JSON]["schema"] = _embeddings_request(service.models)
    made = {
        "openapi": "3.1.0",
        "info": {"title": "nograd", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "headers": HEADERS},
    }
    return made if service.door.is_open else _locked(made, service.door)


def _locked(made: dict[str, Any], door: Door) -> dict[str, Any]:
    """Return the description of a server that wants an API key, with the paths that need none."""
    for path, operations in made["paths"].items():
        error = "OpenAIError" if path.startswith("/v1/") else "Error"
        for operation in operations.values():
            if door.needs_key(path):
                operation["responses"]["401"] = _refusal(401, error)
            else:
                operation["security"] = []
    return {
        **made,
        "components": {**made["components"], "securitySchemes": SECURITY},
        "security": [{way: []} for way in SECURITY],
    }


def _operation(operation: Operation, path: str, names: Sequence[str], versions: Sequence[str]) -> dict[str, Any]:
    is_openai = path.startswith("/v1/")
    made: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": ["OpenAI" if is_openai else "Open Inference Protocol" if path.startswith("/v2") else "nograd"],
        "responses": _responses(operation, "OpenAIError" if is_openai else "Error"),
    }
    parameters = [_path_parameter(name, names, versions) for name in re.findall(r"{(\w+)}", path)]
    if operation.body:
        made["requestBody"] = {
            "required": operation.body not in MAY_BE_EMPTY,
            "content": {JSON: {"schema": ref(operation.body)}},
        }
    if operation.body == "InferRequest":
        made["requestBody"]["content"][OCTETS] = _BYTES
        parameters.append(_HEADER_LENGTH)
    if parameters:
        made["parameters"] = parameters
    return made


def _path_parameter(name: str, models: Sequence[str], versions: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    known = {"model": models, "version": versions, "file": ["main.js"]}[name]
    return {**made, "examples": {_word(value): {"value": value} for value in known}} if known else made


_HEADER_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON at the body's beginning, where tensors follow in binary; 0: the body is the one input.",
    "schema": {"type": "integer", "minimum": 0},
}


def _responses(operation: Operation, error: str) -> dict[str, Any]:
    is_json = "/" not in operation.answer
    content = {JSON: {"schema": ref(operation.answer)}} if is_json else {operation.answer: _PLAIN}
    answered: dict[str, Any] = {"description": operation.summary, "content": content}
    made: dict[str, Any] = {"200": answered}
    if operation.answer == "InferAnswer":
        content[OCTETS] = _BYTES
        answered["headers"] = {"Inference-Header-Content-Length": {"$ref": "#/components/headers/HeaderLength"}}
    if operation.name in READY:
        made["503"] = {"description": "not ready", "content": content}
    for status in operation.refusals:
        made[str(status)] = _refusal(status, error)
        if status == 503:
            made["503"]["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    return made


def _refusal(status: int, error: str) -> dict[str, Any]:
    return {"description": REFUSALS[status], "content": {JSON: {"schema": ref(error)}}}


def _infer(model: ServedModel, index: int) -> dict[str, Any]:
    """Return the infer call of one model, whose tensors are known."""
    operation = OPERATIONS["POST", "/v2/models/{model}/infer"]
    name = f"infer_{_word(model.name)}_{index}"
    made = _operation(operation._replace(name=name, summary=f"Run {model.name}"), "/v2", [], [])
    content = made["requestBody"]["content"][JSON]
    content["schema"] = by_inputs(model.inputs)
    example = model.example_request()
    if example is not None:
        content["example"] = example
    made["responses"]["200"]["content"][JSON]["schema"] = by_outputs(model.outputs)
    return made


def _embeddings_request(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Return the schema of a request for embeddings, with the models that give them."""
    names = [model.name for model in models if vectors_of(model)]
    if not names:
        return ref("EmbeddingsRequest")
    texts: list[Any] = next(iter(models[[model.name for model in models].index(names[0])].example.values())).tolist()
    example = {"model": names[0], "input": texts}
    return {**ref("EmbeddingsRequest"), "properties": {"model": {"examples": names}}, "examples": [example]}


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"
