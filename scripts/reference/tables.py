"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["MADE", "WIDE", "table"]

MADE = "<!-- Made from the code by `make reference`; a change here is lost. -->\n"

WIDE = "---\nhide: [toc]\n---\n\n"
"""Before everything else in a page: there is no table of contents beside it."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar in a cell stays one."""
    lines = [list(head), ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
