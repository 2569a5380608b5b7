"""Long JSON bodies, decoded in slices.

A C decoder holds the GIL for its whole call: 64 MB of numbers would stop the event loop for half a second, even in another
thread. Arrays of numbers are therefore cut at commas and decoded in pieces, so that other threads can run in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nograd.core.tensors import Array
from nograd.errors import ProtocolError, TooLargeError

__all__ = [
    "LONG_DATA",
    "MAX_LISTS",
    "MAX_REST",
    "MAX_STRINGS",
    "SLICE",
    "count_byte",
    "count_lists",
    "decode_numbers",
    "hollow",
    "mark",
    "nests",
    "require_short_rest",
]

LONG_DATA = 65536
"""Minimum bytes of an array that is decoded in slices."""

SLICE = 2**18
"""Bytes of one slice: about 2 ms to decode."""

MAX_LISTS = 2**20
"""Maximum lists in a body without texts: skipping one takes 20 ns."""

MAX_STRINGS = 10_000
"""Maximum strings (keys and names) in a body without texts."""

MAX_REST = 4 * 2**20
"""Bytes of a body without its long arrays, at most: names, shapes and parameters, decoded in one call of about 20 ms."""

_SPACES = bytes.maketrans(b"[]", b"  ")
_BLANK = b" \t\r\n"
_SCALARS = b"0123456789+-.eE" + _BLANK
_WORDS = b"truefals" + _BLANK


def hollow(body: bytes) -> tuple[bytes, list[bytes]]:
    """Return a body without its long arrays of numbers, and these arrays.

    Each `"data":[...]` of more than LONG_DATA bytes without a string becomes the text that `mark` returns for its position.

    Args:
        body: JSON of a request without texts, perhaps malformed; the arrays are for `decode_numbers`.

    Raises:
        TooLargeError: the body has too many lists.
        ProtocolError: the body has too many strings for a request of numbers.
    """
    if count_byte(body, b"[") > MAX_LISTS:
        raise TooLargeError(f"the body has more than {MAX_LISTS} lists; send flat data, or binary tensors")
    kept: list[bytes] = []
    arrays: list[bytes] = []
    taken = 0
    for number, (key_end, end) in enumerate(_gaps(body)):
        if number > MAX_STRINGS:
            raise ProtocolError(
                f"the body is not an inference request: it has more than {MAX_STRINGS} strings, for a model of numbers"
            )
        if end - key_end <= LONG_DATA or body[key_end - 6 : key_end] != b'"data"':
            continue
        start = body.find(b"[", key_end, key_end + LONG_DATA)
        brace = body.find(b"}", key_end, end)
        stop = body.rfind(b"]", key_end, brace if brace >= 0 else end) + 1
        if start < 0 or stop <= start or body[key_end:start].strip() != b":":
            continue
        kept += [body[taken:start], mark(len(arrays))]
        arrays.append(body[start:stop])
        taken = stop
    return (b"".join([*kept, body[taken:]]), arrays) if arrays else (body, arrays)


def require_short_rest(rest: bytes) -> None:
    """Check what remains of a hollow body, before it is decoded.

    Raises:
        ProtocolError: it is too long to be the rest of a request.
    """
    if len(rest) > MAX_REST:
        raise ProtocolError(
            f"the body has {len(rest)} bytes besides the long lists of its data; a request has at most {MAX_REST} bytes of "
            "names, shapes, parameters and short lists"
        )


def mark(position: int) -> bytes:
    """Return the placeholder of an array in a hollow body, as JSON."""
    return b'"\\u0000%d"' % position


def _gaps(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each gap between two strings; begin is after the closing quote."""
    at = 0
    while True:
        opening = body.find(b'"', at)
        yield at, opening if opening >= 0 else len(body)
        if opening < 0:
            return
        at = opening + 1
        while (closing := body.find(b'"', at)) >= 0 and _is_escaped(body, closing):
            at = closing + 1
        if closing < 0:
            return
        at = closing + 1


def _is_escaped(body: bytes, quote: int) -> bool:
    before = quote
    while before and body[before - 1] == 0x5C:
        before -= 1
    return (quote - before) % 2 == 1


def count_byte(data: bytes, byte: bytes) -> int:
    """Return the number of occurrences of a byte, counted in slices."""
    return sum(data.count(byte, at, at + SLICE) for at in range(0, len(data), SLICE))


def decode_numbers(
    data: bytes,
    shape: Sequence[int],
    convert: Callable[[bytes], Array],
    dtype: np.dtype[Any],
    ragged: Callable[[], ProtocolError],
) -> Array:
    """Return the elements of a flat or nested JSON list, `[elements]`.

    Args:
        data: begins with `[` and ends with `]`.
        shape: the client's shape; lists must be flat or nested like it.
        convert: returns the array of one flat JSON list.
        dtype: dtype of the elements.
        ragged: returns the error for lists that are not nested like the shape.

    Raises:
        ProtocolError: the lists are not nested like the shape; or an error of `convert`.
    """
    is_nested = data.find(b"[", 1) >= 0
    if is_nested and not nests(data, shape, _WORDS if dtype.kind == "b" else _SCALARS):
        raise ragged()
    pieces = []
    for piece in _slices(data):
        flat = piece.translate(_SPACES) if is_nested else piece
        pieces.append(convert(b"[" + flat + b"]"))
        if not len(pieces[-1]):  # no element before or after a comma
            raise ragged()
    return np.concatenate(pieces)


def _slices(data: bytes) -> Iterator[bytes]:
    """Yield the content of the outer brackets in slices that are cut at commas."""
    at, end = 1, len(data) - 1
    while end - at > SLICE:
        comma = data.find(b",", at + SLICE, end)
        if comma < 0:
            break
        yield data[at:comma]
        at = comma + 1
    yield data[at:end]


def nests(data: bytes, shape: Sequence[int], scalars: bytes = b"", leaf: bytes = b"") -> bool:
    """Return whether lists nest in a shape without zeros: what is left without the scalars is known, and each is in a list.

    Args:
        data: JSON of the lists, without spaces if `scalars` has none.
        shape: its elements were counted.
        scalars: bytes that elements consist of.
        leaf: what an element leaves.
    """
    if not shape or min(shape) < 1 or count_byte(data, b"[") != count_lists(shape):
        return False
    found = b"".join([data[at : at + SLICE].translate(None, scalars) for at in range(0, len(data), SLICE)])
    expected = leaf
    for size in reversed(shape):
        expected = b"[" + b",".join([expected] * size) + b"]"
    return found == expected and (not scalars or _are_inside(data, scalars))


def _are_inside(data: bytes, scalars: bytes) -> bool:
    """Return whether no scalar is before an opening or behind a closing bracket, as in `[[1], 2[]]`."""
    visible = scalars.translate(None, _BLANK)
    table, last = bytes.maketrans(visible, b"0" * len(visible)), b""
    for at in range(0, len(data), SLICE):
        plain = last + data[at : at + SLICE].translate(table, _BLANK)
        if b"0[" in plain or b"]0" in plain:
            return False
        last = plain[-1:]
    return True


def count_lists(shape: Sequence[int]) -> int:
    """Return the number of lists in nested data of this shape."""
    found = lists = 1
    for size in shape[:-1]:
        lists *= size
        found += lists
    return found
