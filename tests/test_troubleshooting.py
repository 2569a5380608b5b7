"""docs/troubleshooting.md explains messages that nograd has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
MESSAGES = [
    message for heading in re.findall(r"^### (.*)$", PAGE, re.MULTILINE) for message in re.findall(r"`([^`]+)`", heading)
]

EXAMPLES = re.compile(
    r"'[^']*'|\[[^\]]*\]|\b\d+\b|\b[A-Z]{4,}\b|\b(?:mine|int64|float32|torch|tokenizers|tokenizer\.json)(?= |$)|--port$"
)
"""Parts of a message that differ from case to case: names, shapes, numbers, placeholders."""


@pytest.fixture(scope="module")
def texts() -> str:
    """All strings of the package, each on its line; `{}` for what f-strings fill in."""
    found: list[str] = []
    for path in (ROOT / "src" / "nograd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_page_has_messages() -> None:
    assert len(MESSAGES) >= 40
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_one_of_the_package(message: str, texts: str) -> None:
    pieces = [piece.strip(" ;,:") for piece in EXAMPLES.split(message)]
    words = [piece for piece in pieces if len(piece) > 2]

    assert words, "only names and numbers"
    assert [piece for piece in words if piece not in texts] == []
