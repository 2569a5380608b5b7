"""Sanitising of text from other programs, such as a remote server, for terminals. Pure."""

from __future__ import annotations

import re

__all__ = ["clean", "escape_controls"]

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line end, direction marks, separators, and surrogate halves."""


ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours and cursor moves of a terminal (ECMA-48, 5.4)."""


def escape_controls(text: str) -> str:
    """Escape control characters, so that a text cannot move the cursor or change the terminal.

    >>> print(escape_controls("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return _CONTROLS.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def clean(text: object) -> str:
    """Return a text as one line without terminal or page control sequences.

    Terminal colours are removed, white space is collapsed to single spaces, and unprintable characters become U+FFFD.
    """
    words = ESCAPE_SEQUENCE.sub("", str(text)).split()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(words))
