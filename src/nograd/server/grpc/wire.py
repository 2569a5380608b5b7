"""The encoding of protobuf: counts the fields of a long message before it is parsed.

The parser is one call in C that holds the GIL, and makes an object for each field with a length. Numbers in one packed field
cost it little; millions of inputs, parameters or texts stop the event loop for seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from nograd.errors import TooLargeError

__all__ = ["MAX_FIELDS", "require_few_fields"]

MAX_FIELDS = 50_000
"""Fields of a message besides texts, at most: inputs, outputs, parameters, numbers that are not packed."""

Tree: TypeAlias = Mapping[int, Any]
"""Messages with fields that repeat, by field number."""

_CONTENTS: Tree = {8: {}}
_INPUT: Tree = {4: {}, 5: _CONTENTS}
_REQUEST: Tree = {4: {}, 5: _INPUT, 6: {2: {}}, 7: {}}
"""ModelInferRequest: parameters, inputs (parameters, contents with texts), outputs (parameters), raw contents."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def require_few_fields(body: bytes, *, max_texts: int) -> None:
    """Check how many fields a serialized ModelInferRequest has.

    Args:
        body: perhaps malformed; what follows a malformed field is not counted, because the parser stops there, too.
        max_texts: texts that it may have.

    Raises:
        TooLargeError: it has more fields.
    """
    limit = MAX_FIELDS + max_texts
    for count, _ in enumerate(_fields(body, 0, len(body), _REQUEST)):
        if count >= limit:
            raise TooLargeError(
                f"the message has more than {limit} fields; a request may have at most {max_texts} texts, and {MAX_FIELDS} "
                "inputs, outputs, parameters and other fields"
            )


def _fields(data: bytes, at: int, end: int, tree: Tree) -> Iterator[int]:
    """Yield the number of each field, and then of those within it."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        yield number
        if kind == VARINT:
            _, at = _varint(data, at, end)
        elif kind == LENGTH:
            size, at = _varint(data, at, end)
            if size > end - at:
                return
            if tree.get(number):
                yield from _fields(data, at, at + size, tree[number])
            at += size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            return


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number and where it ends; at the end of the data, whatever was read."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at
