"""User-facing text is plain technical English: words and turns that it does not use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WORDS = {
    r"anew": "again; restart, reload",
    r"mends?": "fix",
    r"lone": "single",
    r"company": "other requests, a full batch",
    r"beside": "next to, besides, in addition to",
    r"nobody|somebody": "name the actor",
    r"whoever|whom": "name the actor",
    r"who asks": "the caller",
    r"told": "reported, given, distinguished",
    r"stands|lies": "is",
    r"(?<!there )(?:is|are) no (?!longer)\w+": "is not a",
    r"(?:of its own|by itself)": "own, alone, without help",
    r"by hand": "manually",
    r"(?:go|goes|going|gone) on": "continue, resume",
    r"begins? anew": "restart",
    r"at most so (?:much|many)": "limit",
    r"so many": "a number",
    r"as good as": "almost, equally",
    r"all else": "everything else",
    r"cut off": "interrupted",
    r"(?:answers?|what) (?:is|are|was|were) kept": "cached",
}
"""Words that user-facing text does not use, as regular expressions, and what it says instead."""

HEADLESS = re.compile(r"^(?:#+ )(?:What|Who|Whom|Of|By|That) ", re.MULTILINE)
"""Headings name the feature."""

GENERATED = "docs/reference/"
"""Made from help texts and docstrings in src by `make reference`; a word there is changed in src."""

FROM_SOURCE = {"checks.md": r"<!-- checks -->.*", "conformance.md": r"^\| `[a-z]+\.[^\n]*"}
"""Parts of pages that repeat titles and texts of checks and items in src; a word there is changed in src."""

QUOTED = re.compile(r"```.*?```|^(?:    |\$ ).*?$|`[^`\n]+(?:\n[^`\n]+)?`|\]\([^)]*\)|<!--.*?-->", re.DOTALL | re.MULTILINE)
"""Code, output of commands, identifiers and addresses."""


def pages() -> list[Path]:
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if not str(path.relative_to(ROOT)).startswith(GENERATED)]


def own_text(path: Path) -> str:
    """Return the text of a page without its parts from src."""
    text = path.read_text("utf-8")
    part = FROM_SOURCE.get(path.name)
    return re.sub(part, "", text, flags=re.DOTALL | re.MULTILINE) if part else text


def prose(text: str) -> str:
    """Return a text without what it quotes; lines keep their numbers."""
    return QUOTED.sub(lambda quoted: "\n" * quoted[0].count("\n"), text)


def words_of(text: str) -> list[str]:
    """Return the words of `WORDS` that a text uses, each with its line."""
    return [
        f"line {number}: {found[0]!r}; write {instead}"
        for number, line in enumerate(prose(text).splitlines(), start=1)
        for word, instead in WORDS.items()
        for found in re.finditer(rf"\b(?:{word})\b", line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_plain_technical_english(path: Path) -> None:
    assert words_of(own_text(path)) == []


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_headings_of_a_page_name_the_feature(path: Path) -> None:
    assert HEADLESS.findall(prose(own_text(path))) == []


@pytest.mark.parametrize(
    "text",
    [
        "The server begins anew.",
        "Bad rows\nare told with a line.",
        "It runs for whoever asks.",
        "A LONE request",
        "x.csv is no model",
        "It goes on.",
    ],
)
def test_words_are_found_in_prose(text: str) -> None:
    assert words_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "`anew` is a word",
        "[here](docs/beside.md)",
        "```\nanew\n```",
        "    anew: 1\n",
        "companies and aloneness",
        "there is no file",
        "is no longer used",
    ],
)
def test_words_are_not_found_in_code_addresses_and_other_words(text: str) -> None:
    assert words_of(text) == []
