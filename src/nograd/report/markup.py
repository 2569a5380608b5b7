"""Build HTML and SVG from values: elements, escaped text, tables that suit screen readers. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from nograd.runtime.terminal import clean

__all__ = ["card", "element", "table", "text"]


def text(value: object) -> str:
    """Return an external text as markup, in one line and without control characters."""
    return escape(clean(value))


def element(tag: str, content: str | Iterable[str] = "", /, **attributes: str | float | None) -> str:
    """Return an element. Attributes are escaped, and `class_` becomes `class`; the content is markup already.

    Numbers are rounded to a tenth. An attribute that is None is omitted.
    """
    inner = content if isinstance(content, str) else "".join(content)
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items() if value is not None
    )
    return f"<{tag}{said}>{inner}</{tag}>"


def _value(value: str | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, int | float) else escape(clean(value))


def table(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], *, class_: str = "") -> str:
    """Return a table in its own box, which scrolls if the table is too wide.

    Args:
        caption: summary of the table, for screen readers.
        heads: name of each column, as text, and class of its cells.
        rows: cells as markup; the first cell is the header of its row.
        class_: class of the table.
    """
    head = element("tr", [element("th", text(name), scope="col", class_=kind or None) for name, kind in heads])
    body = [
        element("tr", [element("th", cells[0], scope="row", class_=heads[0][1] or None)]
                + [element("td", cell, class_=kind or None) for cell, (_, kind) in zip(cells[1:], heads[1:], strict=True)])
        for cells in rows
    ]  # fmt: skip
    inner = [element("caption", text(caption), class_="unseen"), element("thead", head), element("tbody", body)]
    return element(
        "div", element("table", inner, class_=class_ or None), class_="scroll", tabindex=0, role="region", aria_label=caption
    )  # fmt: skip


def card(title: str, body: str, *, lead: str = "") -> str:
    """Return a section with a title, a line on how to read it, and a body of markup; empty if the body is empty."""
    head = element("h2", text(title)) + (element("p", text(lead), class_="lead") if lead else "")
    return element("section", head + body, class_="card") if body else ""
