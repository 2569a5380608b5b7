"""OpenAI's embeddings API for models that take text and return a vector: `/v1/embeddings` and `/v1/models`, without HTTP.

Specification: OpenAI's API reference, "Create embeddings". Calls use the queue, cache, deadlines and counts of infer calls.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import orjson

from nograd.batching.collate import model_error
from nograd.core.tensors import TEXT, Array, TensorSpec
from nograd.errors import ModelNotFoundError, ProtocolError, TooLargeError
from nograd.runtime.interrupts import is_interrupt
from nograd.server.protocol.encoding import require_finite
from nograd.server.protocol.long_data import LONG_DATA, require_short_rest
from nograd.server.protocol.long_texts import NotTextsError, count_strings, decode_texts, hollow_texts
from nograd.server.protocol.request import InferRequest
from nograd.server.protocol.statuses import status_of

if TYPE_CHECKING:
    from nograd.server.call import Call
    from nograd.server.models.served import ServedModel
    from nograd.server.models.service import InferenceService
    from nograd.server.protocol.request_limits import RequestLimits

__all__ = ["Embeddings", "error_form", "vectors_of"]

FLOATS = ("float16", "bfloat16", "float32", "float64")

USUAL_NAMES = ("embedding", "sentence_embedding", "embeddings")
"""Names of the embedding among several vectors, in order of precedence."""

CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    503: "unavailable",
    504: "deadline_exceeded",
}
"""Status -> default `error.code`."""


class _EmbeddingsRequest(msgspec.Struct, frozen=True):
    """A request for embeddings. `user` and unknown fields are ignored."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    output: str | None = None


_DECODE = msgspec.json.Decoder(_EmbeddingsRequest)


class _FieldError(ProtocolError):
    """One field is invalid."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class _UnknownModelError(ModelNotFoundError):
    """The model is unknown, or returns no embeddings."""


class Embeddings:
    """The embeddings of one server's models.

    Args:
        service: the models.
        created: creation time of the models, in seconds since 1970; None: now.
    """

    def __init__(self, service: InferenceService, created: int | None = None) -> None:
        self._service = service
        self._created = int(time.time()) if created is None else created

    async def answer(self, call: Call, body: bytes, timeout_s: float | None = None) -> bytes:
        """Return the answer to a call of `/v1/embeddings`: JSON.

        Args:
            call: record of the request.
            body: body of the request.
            timeout_s: timeout of the client, in seconds, if it sent one.

        Raises:
            ProtocolError: the body is not a request for embeddings, or the model returns none.
            NogradError: as for `ServedModel.infer`.
        """
        if len(body) > LONG_DATA:
            request, texts = await asyncio.to_thread(_read_long, body, self._service.max_texts())
        else:
            request, texts = _read(body), None
        model = self._model(request.model)
        counts = callable(getattr(model.predictor.preprocess, "num_tokens", None))
        read, write = partial(_as_infer, request, texts, model, timeout_s), partial(_write, request, model)
        return await model.infer_as(call, read, write, nbytes=len(body), writes_with_code=counts)

    def models(self) -> dict[str, Any]:
        """Return OpenAI's list of models that return embeddings."""
        names = dict.fromkeys(model.name for model in self._service.models if vectors_of(model))
        return {"object": "list", "data": [self._describe(name) for name in names]}

    def model(self, name: str) -> dict[str, Any]:
        """Return OpenAI's description of a model.

        Raises:
            ModelNotFoundError: the model is unknown, or returns no embeddings.
        """
        model = self._model(name)
        if not vectors_of(model):
            raise _UnknownModelError(_gives_none(model))
        return self._describe(name)

    def _model(self, name: str) -> ServedModel:
        try:
            return self._service.model(name)
        except ModelNotFoundError as error:
            raise _UnknownModelError(str(error)) from None

    def _describe(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "nograd"}


def error_form(error: Exception, sentence: str) -> dict[str, Any]:
    """Return an error in the form of OpenAI's API.

    Args:
        error: the error.
        sentence: message for the client.
    """
    status = status_of(error)
    param, code = None, CODES.get(status)
    if isinstance(error, _FieldError):
        param = error.param
    elif isinstance(error, _UnknownModelError):
        param, code = "model", "model_not_found"
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}


def vectors_of(model: ServedModel) -> list[TensorSpec]:
    """Return the outputs that can be an embedding of a text: floating `[rows, d]`; none if the model takes other inputs."""
    takes = model.inputs.inputs
    if len(takes) != 1 or takes[0].dtype != TEXT or takes[0].shape:
        return []
    return [spec for spec in model.outputs if spec.dtype in FLOATS and len(spec.shape) == 1 and isinstance(spec.shape[0], int)]


def _read(body: bytes) -> _EmbeddingsRequest:
    try:
        return _DECODE.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the body is not a request for embeddings: {error}") from None


def _read_long(body: bytes, max_texts: int) -> tuple[_EmbeddingsRequest, bytes | None]:
    """Return a request and the JSON of its texts, if that is long; in a thread.

    Raises:
        ProtocolError: the body is not a request for embeddings.
        TooLargeError: it has too many strings or lists.
    """
    rest, values = hollow_texts(body, b'"input"', max_texts=max_texts)
    require_short_rest(rest)
    request = _read(rest)
    position = next((position for position in range(len(values)) if request.input == f"\0{position}"), None)
    return request, None if position is None else values[position]


def _as_infer(request: _EmbeddingsRequest, long: bytes | None, model: ServedModel, timeout_s: float | None) -> InferRequest:
    output = _output(request, model)
    if request.dimensions not in (None, output.shape[0]):
        raise _FieldError(
            f"dimensions is {request.dimensions}; the vectors of model {model.name!r} have {output.shape[0]}, and a part of "
            "them may not be an embedding: omit dimensions",
            "dimensions",
        )
    name = model.inputs.inputs[0].name
    if long is not None:
        texts = _long_texts(name, long, model.limits)
    else:
        if isinstance(request.input, list):
            model.limits.check_shape(name, [len(request.input)])
        texts = _texts(request.input)
    model.limits.check_texts(name, texts)
    return InferRequest({name: texts}, (output.name,), timeout_s=timeout_s)


def _output(request: _EmbeddingsRequest, model: ServedModel) -> TensorSpec:
    """Return the name of the embedding: the requested output, the only vector, or the one with a usual name."""
    vectors = vectors_of(model)
    if not vectors:
        raise _FieldError(_gives_none(model), "model")
    by_name = {spec.name: spec for spec in vectors}
    allowed = ", ".join(map(repr, by_name))
    if request.output is not None:
        if request.output not in by_name:
            raise _FieldError(f"output is {request.output!r}; the vectors of model {model.name!r} are {allowed}", "output")
        return by_name[request.output]
    for name in USUAL_NAMES if len(vectors) > 1 else by_name:
        if name in by_name:
            return by_name[name]
    raise _FieldError(f"model {model.name!r} returns several vectors; choose one with output: {allowed}", "output")


def _gives_none(model: ServedModel) -> str:
    takes = ", ".join(f"{spec.name!r} {spec}" for spec in model.inputs.inputs)
    gives = ", ".join(f"{spec.name!r} {spec}" for spec in model.outputs)
    return (
        f"model {model.name!r} returns no embeddings: they need one text input and a floating output [rows, d], but "
        f"it takes {takes} and returns {gives}; call it by /v2/models"
    )


def _texts(given: str | Sequence[Any]) -> Array:
    """Return the texts as a model's input, `[rows]`."""
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise _FieldError("input is an empty list; give a text, or a list of texts", "input")
    for index, text in enumerate(texts):
        if isinstance(text, int | list):
            raise _FieldError(
                "input contains token ids; the models of this server tokenize texts themselves: send strings", "input"
            )
        if not isinstance(text, str):
            raise _FieldError(f"input[{index}] is {type(text).__name__}; it must be a string", "input")
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _long_texts(name: str, long: bytes, limits: RequestLimits) -> Array:
    """Return the texts in long JSON, `[rows]`, decoded in slices."""
    listed = long if long.startswith(b"[") else b"[" + long + b"]"
    count = count_strings(listed)
    limits.check_shape(name, [count])
    try:
        found = decode_texts(listed, [count], count=count, max_chars=limits.text_chars)
    except TooLargeError as error:
        raise TooLargeError(f"input: {error}") from None
    except NotTextsError:
        raise _FieldError(
            "input has values that are not strings; the models of this server tokenize texts themselves: send strings", "input"
        ) from None
    array = np.empty(count, dtype=object)
    array[:] = found
    return array


def _write(
    request: _EmbeddingsRequest,
    model: ServedModel,
    infer: InferRequest,
    name: str,
    _version: str,
    _id: str,
    outputs: Mapping[str, Array],
) -> bytes:
    """Return the answer's body; numbers are float32 in both formats."""
    with np.errstate(over="ignore"):  # an overflow of float64 becomes infinity, which raises below
        vectors = np.ascontiguousarray(outputs[infer.outputs[0]], dtype="<f4")
    if request.encoding_format == "base64":
        listed: Sequence[Any] = [b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        require_finite({infer.outputs[0]: vectors})
        listed = list(vectors)
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(listed)]
    (texts,) = infer.inputs.values()
    tokens = _num_tokens(model, texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": name, "usage": usage}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _num_tokens(model: ServedModel, texts: Array) -> int:
    """Return the number of tokens; 0 if `preprocess` has no method `num_tokens(text)` like Tokenize's."""
    count = getattr(model.predictor.preprocess, "num_tokens", None)
    if not callable(count):
        return 0
    try:
        return sum(int(count(text)) for text in texts)
    except BaseException as error:  # the user's code may raise any error
        if is_interrupt(error):
            raise
        raise model_error("num_tokens", error) from error
