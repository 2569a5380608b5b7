"""The OpenAPI 3.1 document of a server, `/openapi.json`, from its routes and its models' signatures. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nograd import __version__
from nograd.server.http.openapi_schemas import HEADERS, SCHEMAS, by_inputs, by_outputs, ref
from nograd.server.protocol.embeddings import vectors_of

if TYPE_CHECKING:
    from nograd.server.http.routes import Route
    from nograd.server.models.served import ServedModel
    from nograd.server.models.service import InferenceService
    from nograd.server.security.api_keys import ApiKeyGate

__all__ = ["document"]

JSON = "application/json"
OCTETS = "application/octet-stream"

ABOUT = """\
The Open Inference Protocol, version 2, and extensions of nograd. Every error is JSON: `{"error": "a sentence"}`; below /v1, it
has OpenAI's form. HEAD returns the response to GET without its body. Tensors may also be binary: the body then contains JSON,
whose length is in the header Inference-Header-Content-Length, followed by the bytes of each input with the parameter
`binary_data_size`, in order; little-endian, row-major.\
"""

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

REFUSALS = {
    400: "the request does not fit the path or the model; the sentence says how",
    401: "the request has no API key, or an unknown one",
    403: "the request is from a web page of another site, or for another host",
    404: "there is no such model or version",
    413: "the body or the number of rows exceeds the server's limit",
    500: "the model raised",
    501: "the content encoding is not supported",
    503: "the model is not ready, or its queue is full; retry after the seconds in Retry-After",
    504: "the request's timeout passed, or the answer would be too late",
}

READY = ("health", "healthz", "server_live", "server_ready", "model_ready", "model_ready_version")
"""Operations whose negative response is 503 with the same body."""

MAY_BE_EMPTY = ("RepositoryIndexRequest", "Change")
"""Optional bodies."""

_PLAIN = {"schema": {"type": "string"}}
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def document(service: InferenceService, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the description of a server.

    Args:
        service: the service with the models.
        routes: routes of the server.
    """
    names = list(dict.fromkeys(model.name for model in service.models))
    versions = list(dict.fromkeys(model.version for model in service.models))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names, versions)
    (infer,) = [route for route in routes if route.name == "infer"]
    for index, model in enumerate(service.model(name) for name in names):
        paths[f"/v2/models/{quote(model.name, safe='')}/infer"] = {"post": _infer(infer, model, index)}
    paths["/v1/embeddings"]["post"]["requestBody"]["content"][JSON]["schema"] = _embeddings_request(service.models)
    made = {
        "openapi": "3.1.0",
        "info": {"title": "nograd", "version": __version__, "description": ABOUT},
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "headers": HEADERS},
    }
    return made if service.door.is_open else _locked(made, service.door)


def _locked(made: dict[str, Any], door: ApiKeyGate) -> dict[str, Any]:
    """Return the description of a server with API keys, including the paths that need none."""
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


def _operation(route: Route, names: Sequence[str], versions: Sequence[str]) -> dict[str, Any]:
    path, is_openai = route.path, route.path.startswith("/v1/")
    made: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": ["OpenAI" if is_openai else "Open Inference Protocol" if path.startswith("/v2") else "nograd"],
        "responses": _responses(route, "OpenAIError" if is_openai else "Error"),
    }
    parameters = [_path_parameter(name, names, versions) for name in re.findall(r"{(\w+)}", path)]
    if route.body:
        made["requestBody"] = {
            "required": route.body not in MAY_BE_EMPTY,
            "content": {JSON: {"schema": ref(route.body)}},
        }
    if route.body == "InferRequest":
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
    "description": "Bytes of the JSON at the start of the body, if binary tensors follow; 0: the body is the single input.",
    "schema": {"type": "integer", "minimum": 0},
}


def _responses(route: Route, error: str) -> dict[str, Any]:
    is_json = "/" not in route.answer
    content = {JSON: {"schema": ref(route.answer)}} if is_json else {route.answer: _PLAIN}
    answered: dict[str, Any] = {"description": route.summary, "content": content}
    made: dict[str, Any] = {"200": answered}
    if route.answer == "InferAnswer":
        content[OCTETS] = _BYTES
        answered["headers"] = {"Inference-Header-Content-Length": {"$ref": "#/components/headers/HeaderLength"}}
    if route.name in READY:
        made["503"] = {"description": "not ready", "content": content}
    for status in route.errors:
        made[str(status)] = _refusal(status, error)
        if status == 503:
            made["503"]["headers"] = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
    return made


def _refusal(status: int, error: str) -> dict[str, Any]:
    return {"description": REFUSALS[status], "content": {JSON: {"schema": ref(error)}}}


def _infer(route: Route, model: ServedModel, index: int) -> dict[str, Any]:
    """Return the infer call of one model, with its tensors."""
    name = f"infer_{_word(model.name)}_{index}"
    made = _operation(route._replace(name=name, summary=f"Run {model.name}", path="/v2"), [], [])
    content = made["requestBody"]["content"][JSON]
    content["schema"] = by_inputs(model.inputs)
    example = model.example_request()
    if example is not None:
        content["example"] = example
    made["responses"]["200"]["content"][JSON]["schema"] = by_outputs(model.outputs)
    return made


def _embeddings_request(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Return the schema of a request for embeddings, with the names of the models."""
    names = [model.name for model in models if vectors_of(model)]
    if not names:
        return ref("EmbeddingsRequest")
    texts: list[Any] = next(iter(models[[model.name for model in models].index(names[0])].example.values())).tolist()
    example = {"model": names[0], "input": texts}
    return {**ref("EmbeddingsRequest"), "properties": {"model": {"examples": names}}, "examples": [example]}


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "model"
