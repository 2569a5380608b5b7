"""For mkdocstrings: examples in docstrings (`>>>`) become blocks of code; Markdown would take them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["DoctestBlocks", "fenced"]

EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)", re.MULTILINE)
"""From a prompt to the next empty line: what doctest takes for one example, or several that follow each other."""

OPTION = re.compile(r" *# doctest: \+\w+")


def fenced(text: str) -> str:
    """Return a docstring with its examples between fences, without doctest's own options."""
    return EXAMPLE.sub(lambda found: f"```pycon\n{OPTION.sub('', found[0]).rstrip()}\n```\n", text)


class DoctestBlocks(griffe.Extension):
    """Changes the docstring of everything that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
