"""HTTP responses as values, and the response to each kind of error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple, TypeAlias

import orjson

from nograd.errors import MethodError, ModelError, NogradError, OverloadedError, UnauthorizedError
from nograd.server.http.encodings import COMPRESSED_FROM, coding_of, compressed
from nograd.server.protocol.binary import BinaryAnswer
from nograd.server.protocol.statuses import status_of
from nograd.server.telemetry.logs import failure

__all__ = [
    "JSON", "OCTETS", "ErrorForm", "Headers", "Reply", "compress_body", "describe_error", "error_reply", "infer_reply",
    "json_reply", "length_header", "plain_form",
]  # fmt: skip

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

ErrorForm: TypeAlias = Callable[[Exception, str], Mapping[str, Any]]
"""Error and sentence in, JSON body out."""

JSON = b"application/json"
OCTETS = b"application/octet-stream"

CHALLENGE: Headers = ((b"www-authenticate", b'Bearer realm="nograd"'),)


class Reply(NamedTuple):
    """One response."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers = ()
    """Headers besides content type and length."""


def json_reply(status: int, value: Any) -> Reply:
    """Return a JSON response."""
    return Reply(status, JSON, orjson.dumps(value))


def infer_reply(answer: bytes | BinaryAnswer) -> Reply:
    """Return the response to an infer call."""
    if isinstance(answer, bytes):
        return Reply(200, JSON, answer)
    return Reply(200, OCTETS, answer.body, length_header(answer))


def length_header(answer: BinaryAnswer) -> Headers:
    """Return the header with the offset of the binary tensors of a response."""
    return ((b"inference-header-content-length", b"%d" % len(answer.json)),)


def plain_form(_error: Exception, sentence: str) -> Mapping[str, Any]:
    """Return an error's body in the protocol's form."""
    return {"error": sentence}


def error_reply(error: Exception, request: str, form: ErrorForm = plain_form) -> Reply:
    """Return the response to a request that failed.

    Args:
        error: the error.
        request: method and path, for the log.
        form: form of the body.
    """
    reply = json_reply(status_of(error), form(error, describe_error(error, request)))
    return reply._replace(headers=_error_headers(error))


def describe_error(error: Exception, request: str) -> str:
    """Return the error message for the client, and log errors of the model and of the server with their traceback.

    nograd's errors are complete sentences. Any other error is named only by its type, because its text may contain other
    clients' data.

    Args:
        error: the error.
        request: method and path, for the log.
    """
    if isinstance(error, NogradError):
        if isinstance(error, ModelError):
            failure(request, error)
        return str(error)
    context = {"message": f"{request} failed", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
    return f"the server failed on this request: {type(error).__name__}"


def _error_headers(error: Exception) -> Headers:
    if isinstance(error, MethodError):
        return ((b"allow", ", ".join(error.allowed).encode()),)
    if isinstance(error, UnauthorizedError):
        return CHALLENGE
    if status_of(error) == 503:
        wait_s = error.retry_after_s if isinstance(error, OverloadedError) else 1.0
        return ((b"retry-after", b"%d" % ceil(max(1.0, wait_s))),)
    return ()


async def compress_body(body: bytes, content_type: bytes, accept_encoding: bytes | None) -> tuple[bytes, Headers]:
    """Return the encoded body of a response, and the headers of its encoding. A thread compresses long bodies."""
    coding = coding_of(accept_encoding, content_type, len(body))
    if coding.name and len(body) < COMPRESSED_FROM:
        body = compressed(body, coding.name)
    elif coding.name:
        body = await asyncio.to_thread(compressed, body, coding.name)
    return body, coding.headers
