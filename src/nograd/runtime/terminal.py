"""Text of other programs, such as a remote server, as a terminal may show it. Pure."""

from __future__ import annotations

import re

__all__ = ["clean", "escape_controls"]

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line end, marks that change the direction of text, separators, and halves of surrogates."""


ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours and cursor moves of a terminal (ECMA-48, 5.4)."""


def escape_controls(text: str) -> str:
    """Return a text in which control characters are escaped, so that it cannot move the cursor or change the terminal.

    >>> print(escape_controls("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return _CONTROLS.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def clean(text: object) -> str:
    """Return a text as one line without anything that a terminal or a page could take for a command.

    Colours of a terminal go, runs of white space become one space, and what cannot be printed becomes U+FFFD.
    """
    words = ESCAPE_SEQUENCE.sub("", str(text)).split()
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(words))
