"""Real texts, as many as are wanted: sentences of the docstrings of what is installed here, in one order on one machine."""

from __future__ import annotations

import ast
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

__all__ = ["texts", "write_texts"]


def texts(count: int) -> list[str]:
    """Return so many texts, or as many as there are; no two are equal, and neighbours have nothing in common."""
    found = list(islice(sentences(), count))
    random.Random(0).shuffle(found)
    return found


def sentences() -> Iterator[str]:
    """Yield sentences of 5 to 120 words out of docstrings: the standard library's, then those of installed packages."""
    seen = set()
    folders = [Path(os.__file__).parent, Path(np.__file__).parent.parent]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py")) if "tests" not in path.parts):
        for text in docstrings(path):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                if sentence not in seen and 5 <= len(sentence.split()) <= 120:
                    seen.add(sentence)
                    yield sentence


def docstrings(path: Path) -> list[str]:
    try:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    except (SyntaxError, ValueError, RecursionError):  # templates, and files for other versions of Python
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [found for node in nodes if isinstance(node, kinds) if (found := ast.get_docstring(node))]


def write_texts(path: Path, found: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
