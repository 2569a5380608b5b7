"""The schemas of requests and responses in `/openapi.json`: JSON Schema 2020-12, as in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nograd.core.tensors import Signature, TensorSpec
from nograd.server.protocol.datatypes import DATATYPES, datatype
from nograd.server.protocol.request import DEFAULT_PRIORITY, PRIORITY_LEVELS

__all__ = ["HEADERS", "SCHEMAS", "Schema", "by_inputs", "by_outputs", "ref"]

Schema = dict[str, Any]

HEADERS: Schema = {
    "HeaderLength": {
        "description": "Bytes of the JSON at the start of a binary response.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RetryAfter": {"description": "Seconds to wait before a retry.", "schema": {"type": "integer", "minimum": 1}},
}

STATES = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
"""States of a model in the repository's index."""

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SIZES: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": -1},
    "description": "-1: varies; the first dimension is rows",
}


def ref(name: str) -> Schema:
    """Return a reference to one of the schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Schema, at_least: int = 0) -> Schema:
    return {"type": "array", "items": items, **({"minItems": at_least} if at_least else {})}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _parameters(**known: Schema) -> Schema:
    others = {"type": ["string", "number", "boolean", "null"]}
    nullable = {name: _or_null(schema) for name, schema in known.items()}
    return {"type": ["object", "null"], "properties": nullable, "additionalProperties": others}


_DATATYPE: Schema = {"type": "string", "enum": list(DATATYPES)}
_METADATA: Schema = _object(("name", "datatype", "shape"), name=_TEXT, datatype=_DATATYPE, shape=_SIZES)

_TIME: Schema = _object(("count", "ns"), count=_COUNT, ns=_COUNT)
_COMPUTE = ("compute_input", "compute_infer", "compute_output")
_TIMES = ("success", "fail", "queue", *_COMPUTE, "cache_hit", "cache_miss")

_STATISTICS: Schema = _object(
    ("name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "batch_stats"),
    name=_TEXT,
    version=_TEXT,
    last_inference={**_COUNT, "description": "milliseconds since 1970; 0: never"},
    inference_count=_COUNT,
    execution_count=_COUNT,
    inference_stats=_object(_TIMES, **dict.fromkeys(_TIMES, _TIME)),
    batch_stats=_list(_object(("batch_size", *_COMPUTE), batch_size=_COUNT, **dict.fromkeys(_COMPUTE, _TIME))),
)

_REQUEST: Schema = {
    "id": _or_null(_TEXT),
    "outputs": {**_or_null(_list(ref("WantedOutput"))), "description": "requested outputs, in order; none: all"},
    "parameters": _parameters(
        timeout={**_COUNT, "maximum": 2**63 - 1, "description": "microseconds; 0: the server's default"},
        priority={**_COUNT, "maximum": PRIORITY_LEVELS, "description": f"1 is the highest; 0: {DEFAULT_PRIORITY}"},
        binary_data_output={**_FLAG, "description": "outputs are binary"},
    ),
}

_INPUT: Schema = {
    "name": _TEXT,
    "datatype": _DATATYPE,
    "shape": _list(_COUNT),
    "data": {"type": "array", "items": {}, "description": "row-major: flat, or nested like the shape"},
    "parameters": _parameters(binary_data_size={**_COUNT, "description": "bytes after the JSON; there is then no data"}),
}

SCHEMAS: Schema = {
    "Error": _object(("error",), error=_TEXT),
    "ServerLive": _object(("live",), live=_FLAG, error={**_TEXT, "description": "why it is not live"}),
    "ServerReady": _object(
        ("ready", "live"), ready=_FLAG, live=_FLAG, error={**_TEXT, "description": "why a restart is needed"}
    ),
    "ServerMetadata": _object(("name", "version", "extensions"), name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "ModelReady": _object(("name", "ready"), name=_TEXT, ready=_FLAG),
    "TensorMetadata": _METADATA,
    "ModelMetadata": _object(
        ("name", "versions", "platform", "inputs", "outputs"),
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(ref("TensorMetadata")),
        outputs=_list(ref("TensorMetadata")),
    ),
    "Statistics": _object(("model_stats",), model_stats=_list(_STATISTICS)),
    "ModelConfig": _object(
        ("name", "platform", "backend", "max_batch_size", "input", "output"),
        name=_TEXT,
        platform=_TEXT,
        backend=_TEXT,
        max_batch_size=_COUNT,
        input=_list({"type": "object"}),
        output=_list({"type": "object"}),
    ),
    "InferRequest": _object(("inputs",), inputs=_list(ref("Input"), 1), **_REQUEST),
    "Input": _object(("name", "shape", "datatype"), **_INPUT),
    "WantedOutput": _object(
        ("name",), name=_TEXT, parameters=_parameters(binary_data={**_FLAG, "description": "this output is binary"})
    ),
    "InferAnswer": _object(
        ("model_name", "id", "outputs"), model_name=_TEXT, model_version=_TEXT, id=_TEXT, outputs=_list(ref("Output"))
    ),
    "Output": _object(
        ("name", "shape", "datatype"),
        name=_TEXT,
        shape=_list(_COUNT),
        datatype=_DATATYPE,
        data={"type": "array", "items": {}, "description": "row-major, flat"},
        parameters=_parameters(binary_data_size={**_COUNT, "description": "bytes after the JSON; there is then no data"}),
    ),
    "RepositoryIndexRequest": {"type": "object", "properties": {"ready": {**_FLAG, "description": "only ready models"}}},
    "RepositoryIndex": _list(ref("IndexEntry")),
    "IndexEntry": _object(
        ("name", "version", "state", "reason"),
        name=_TEXT,
        version=_TEXT,
        state={"type": "string", "enum": list(STATES)},
        reason=_TEXT,
    ),
    "Change": {"type": "object", "properties": {"parameters": {"type": "object"}}},
    "Changed": {"type": "object"},
    "Cleared": _object(("cleared", "kept_in"), cleared=_COUNT, kept_in=_TEXT),
    "Live": _object(("server", "models"), server={"type": "object"}, models=_list({"type": "object"})),
    "Document": {"type": "object"},
    "EmbeddingsRequest": _object(
        ("model", "input"),
        model=_TEXT,
        input={"anyOf": [_TEXT, _list(_TEXT, 1)], "description": "a text, or several: one vector each"},
        encoding_format={"type": ["string", "null"], "enum": ["float", "base64", None], "default": "float"},
        dimensions={**_or_null({"type": "integer"}), "description": "must be the size of the model's vector; it is not cut"},
        output={**_or_null(_TEXT), "description": "name of the output, if the model returns several vectors"},
        user={"description": "ignored"},
    ),
    "Embeddings": _object(
        ("object", "data", "model", "usage"),
        object={"const": "list"},
        data=_list(ref("Embedding"), 1),
        model=_TEXT,
        usage=_object(("prompt_tokens", "total_tokens"), prompt_tokens=_COUNT, total_tokens=_COUNT),
    ),
    "Embedding": _object(
        ("object", "index", "embedding"),
        object={"const": "embedding"},
        index=_COUNT,
        embedding={"anyOf": [_list({"type": "number"}), _TEXT], "description": "base64: of little-endian float32"},
    ),
    "OpenAIModels": _object(("object", "data"), object={"const": "list"}, data=_list(ref("OpenAIModel"))),
    "OpenAIModel": _object(
        ("id", "object", "created", "owned_by"), id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by=_TEXT
    ),
    "OpenAIError": _object(
        ("error",),
        error=_object(
            ("message", "type", "param", "code"), message=_TEXT, type=_TEXT, param=_or_null(_TEXT), code=_or_null(_TEXT)
        ),
    ),
}


def by_inputs(signature: Signature) -> Schema:
    """Return the schema of an infer request to a model with this signature."""
    sizes = signature.describe_limits()
    specs = signature.inputs
    one = [
        _object(("name", "shape", "datatype"), **{**_INPUT, **_tensor(spec, sizes if spec.varying else "")}) for spec in specs
    ]
    return _object(("inputs",), inputs=_list({"anyOf": one}, 1), **_REQUEST)


def by_outputs(specs: Sequence[TensorSpec]) -> Schema:
    """Return the schema of the response of a model with these outputs."""
    one = [{**ref("Output"), "properties": _tensor(spec)} for spec in specs]
    return {**ref("InferAnswer"), "properties": {"outputs": _list({"anyOf": one} if one else ref("Output"))}}


def _tensor(spec: TensorSpec, sizes: str = "") -> Schema:
    """Return name, datatype and number of dimensions of one tensor; the description contains the sizes."""
    rank = 1 + len(spec.shape)
    shape = {**_list(_COUNT, rank), "maxItems": rank, "description": f"{spec}; {sizes}" if sizes else str(spec)}
    return {"name": {"const": spec.name}, "datatype": {"const": datatype(spec)}, "shape": shape}
