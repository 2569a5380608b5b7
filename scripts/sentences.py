"""`python -m scripts.sentences -n 100 --seed 1` prints random sentences of user-facing text, for a review of its English.

Sources: README and documentation (without decisions, code and generated pages), help texts of the command line, error messages,
and docstrings of public names. Each line names its source.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import typer.main

import nograd
from nograd.cli.application import app

__all__ = ["sentences"]

ROOT = Path(__file__).parent.parent

CODE = re.compile(r"```.*?```|<!--.*?-->|^(?:    |\t).*?$|^>>> .*?$|^\|.*\|$", re.DOTALL | re.MULTILINE)
"""Blocks of code, comments, examples and tables in Markdown and docstrings."""

LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*\"])")
MIN_WORDS = 3
"""Shorter texts are names or headings, not sentences."""


def sentences() -> list[tuple[str, str]]:
    """Return the sentences of user-facing text, each once, with their sources."""
    found = {text: source for source, text in (*_pages(), *_help_texts(), *_errors(), *_docstrings())}
    return sorted((source, text) for text, source in found.items())


def _pages() -> Iterator[tuple[str, str]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in pages:
        name = str(path.relative_to(ROOT))
        if not name.startswith(("docs/adr/", "docs/reference/")):
            yield from _split(name, path.read_text("utf-8"))


def _help_texts() -> Iterator[tuple[str, str]]:
    pending: list[Any] = [typer.main.get_command(app)]  # of a copy of click that typer contains
    while pending:
        command = pending.pop()
        texts = [command.help, *(getattr(option, "help", None) for option in command.params)]
        for text in filter(None, texts):
            yield from _split(f"help of {command.name or 'nograd'}", text)
        pending.extend(getattr(command, "commands", {}).values())


def _errors() -> Iterator[tuple[str, str]]:
    """Yield messages of raised errors; `{}` replaces values."""
    for path in sorted((ROOT / "src" / "nograd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                yield from _split(f"error in {path.relative_to(ROOT / 'src' / 'nograd')}", _literal(node.exc.args[0]))


def _literal(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _docstrings() -> Iterator[tuple[str, str]]:
    for name in nograd.__all__:
        value = getattr(nograd, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            yield from _split(name, inspect.cleandoc(value.__doc__ or ""))
        if inspect.isclass(value):
            for member, inner in vars(value).items():
                if not member.startswith("_") and (inspect.isfunction(inner) or isinstance(inner, property)):
                    yield from _split(f"{name}.{member}", inspect.cleandoc(inner.__doc__ or ""))


def _split(source: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the sentences of a text, without Markdown's links and blocks of code."""
    plain = re.sub(r"^(?:Args|Raises|Returns|Yields):$", "", text, flags=re.MULTILINE)
    plain = re.sub(r"^ {4}(?=\w+: )", "\n", plain, flags=re.MULTILINE)  # entries of Google sections are sentences
    plain = re.sub(r"^ {8}(?=\S)", "", plain, flags=re.MULTILINE)  # their continuation lines
    for paragraph in re.split(r"\n\s*\n|^#+ .*$|^\s*(?:[-*]|\d+\.) ", CODE.sub("\n\n", plain), flags=re.MULTILINE):
        for sentence in END.split(" ".join(LINK.sub(r"\1", paragraph).split())):
            if len(sentence.split()) >= MIN_WORDS and re.search(r"[a-z]{3}", sentence):
                yield source, sentence


def main() -> None:
    """Print random sentences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100, metavar="COUNT", help="Number of sentences; default: 100.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed; default: 0.")
    options = parser.parse_args()
    known = sentences()
    drawn = Random(options.seed).sample(known, min(options.n, len(known)))
    for number, (source, sentence) in enumerate(drawn, start=1):
        print(f"{number:3}  {sentence}  [{source}]")  # noqa: T201  its output


if __name__ == "__main__":
    main()
