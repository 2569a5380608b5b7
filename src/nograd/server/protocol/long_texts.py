"""Long JSON bodies with texts, taken apart and decoded in slices.

As for numbers (`long_data`), a decoder in C would hold the GIL for its whole call. Here the positions of all strings are found
by searches that take microseconds, and the strings are decoded some at a time. Strings are counted before they are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from nograd.errors import ProtocolError, TooLargeError
from nograd.server.protocol import long_data
from nograd.server.protocol.long_data import LONG_DATA, MAX_LISTS, MAX_STRINGS, count_byte, mark, nests

__all__ = ["NotTextsError", "count_strings", "decode_texts", "hollow_texts", "mask_escapes"]

BYTES_PER_CHAR = 12
"""JSON's longest spelling of one character: two escapes, such as \\ud83d\\ude00."""

_DECODE = msgspec.json.Decoder(list[str])
_SPACES = b" \t\r\n"


class NotTextsError(Exception):
    """A JSON value is not a list of strings, flat or nested in its shape."""


def mask_escapes(data: bytes) -> bytes:
    """Return JSON of the same length in which no quote and no backslash is escaped: each `"` begins or ends a string."""
    if data.find(b"\\") < 0:
        return data
    pieces = []
    at = 0
    while at < len(data):
        piece = data[at : at + long_data.SLICE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and len(piece) > 1:
            piece = piece[:-1]  # the escape ends in the next slice
        pieces.append(piece.replace(b"\\\\", b"__").replace(b'\\"', b"__"))
        at += len(piece)
    return b"".join(pieces)


def count_strings(data: bytes) -> int:
    """Return how many strings JSON has."""
    return _count_strings(mask_escapes(data))


def _count_strings(masked: bytes) -> int:
    return count_byte(masked, b'"') // 2


def hollow_texts(body: bytes, key: bytes, *, max_texts: int) -> tuple[bytes, list[bytes]]:
    """Return a body without the long values of a key, and these values.

    Each list or string of more than LONG_DATA bytes behind the key becomes the text that `mark` returns for its position.

    Args:
        body: JSON, perhaps malformed; the values are for `decode_texts`, or lists of numbers.
        key: in quotes, such as `"data"`.
        max_texts: strings that the values may have together.

    Raises:
        TooLargeError: it has more strings, or too many lists.
    """
    masked = mask_escapes(body)
    if (strings := _count_strings(masked)) > max_texts + MAX_STRINGS:
        raise TooLargeError(
            f"the body has {strings} strings; a request may have at most {max_texts} texts: send fewer at a time"
        )
    kept: list[bytes] = []
    values: list[bytes] = []
    taken = at = 0
    while (found := masked.find(key, at)) >= 0:
        at = found + len(key)
        start = _value_after(masked, at)
        if start < 0:
            continue
        end = _end_of_value(masked, start)
        if end - start > LONG_DATA:
            kept += [body[taken:start], mark(len(values))]
            values.append(body[start:end])
            taken = end
        at = max(at, end)
    return (b"".join([*kept, body[taken:]]), values) if values else (body, values)


def _value_after(masked: bytes, key_end: int) -> int:
    """Return where the list or string after a key begins; -1 if no such value follows."""
    head = masked[key_end : key_end + 64]
    bare = head.lstrip(_SPACES)
    value = bare[1:].lstrip(_SPACES)
    if bare[:1] != b":" or value[:1] not in (b"[", b'"'):
        return -1
    return key_end + len(head) - len(value)


def _end_of_value(masked: bytes, start: int) -> int:
    """Return where a list or a string ends; -1 if it does not.

    Raises:
        TooLargeError: it has too many lists.
    """
    if masked[start : start + 1] == b'"':
        return masked.find(b'"', start + 1) + 1 or -1
    depth = lists = 0
    at = start
    while True:
        quote = masked.find(b'"', at)
        gap = masked[at : quote if quote >= 0 else len(masked)]
        if (lists := lists + count_byte(gap, b"[")) > MAX_LISTS:
            raise TooLargeError(f"the body has more than {MAX_LISTS} lists; send flat data")
        for position, step in _brackets(gap):
            depth += step
            if depth == 0:
                return at + position + 1
        if quote < 0 or (closing := masked.find(b'"', quote + 1)) < 0:
            return -1
        at = closing + 1


def _brackets(gap: bytes) -> Iterator[tuple[int, int]]:
    """Yield the position of each bracket in a piece without strings, and 1 or -1."""
    opening, closing = gap.find(b"["), gap.find(b"]")
    while opening >= 0 or closing >= 0:
        if opening >= 0 and (closing < 0 or opening < closing):
            yield opening, 1
            opening = gap.find(b"[", opening + 1)
        else:
            yield closing, -1
            closing = gap.find(b"]", closing + 1)


def decode_texts(data: bytes, shape: Sequence[int], *, count: int, max_chars: int) -> list[str]:
    """Return the texts of a flat or nested JSON list.

    Args:
        data: JSON of the list, perhaps malformed.
        shape: as the client sent it; the lists must nest in it unless they are flat.
        count: texts that fill the shape.
        max_chars: characters of a text, at most; a text is refused before it is decoded if its JSON is too long for them.

    Raises:
        NotTextsError: it is not such a list.
        ProtocolError: it has another number of texts.
        TooLargeError: a text is too long.
    """
    masked = mask_escapes(data)
    if (found := _count_strings(masked)) != count:
        raise ProtocolError(f"its data has {found}")
    texts: list[str] = []
    gaps: list[bytes] = []
    pieces: list[bytes] = []
    size = at = 0
    while (opening := masked.find(b'"', at)) >= 0:
        end = masked.find(b'"', opening + 1) + 1
        if not end:
            raise NotTextsError("a string has no end")
        _require_short(end - opening - 2, len(gaps), max_chars)
        gaps.append(masked[at:opening])
        pieces.append(data[opening:end])
        size, at = size + end - opening, end
        if size > long_data.SLICE:
            texts += _decoded(pieces)
            pieces, size = [], 0
    gaps.append(masked[at:])
    skeleton = b'"'.join(gaps).translate(None, _SPACES)  # a quote for each string
    if skeleton != b"[" + b",".join([b'"'] * found) + b"]" and not nests(skeleton, shape, leaf=b'"'):
        raise NotTextsError("the values are not strings in lists of this shape")
    return texts + _decoded(pieces)


def _require_short(nbytes: int, item: int, max_chars: int) -> None:
    if nbytes > BYTES_PER_CHAR * max_chars:
        raise TooLargeError(
            f"item {item} is a text of {nbytes} bytes in JSON; a text may have at most {max_chars} characters (max_text_chars)"
        )


def _decoded(pieces: list[bytes]) -> list[str]:
    try:
        return _DECODE.decode(b"[" + b",".join(pieces) + b"]")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotTextsError(str(error).split(" - at")[0]) from None
