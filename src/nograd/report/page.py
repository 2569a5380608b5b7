"""The frame of a single-file page: its policy, style, head and header. For every report that nograd writes as HTML."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha256
from importlib.resources import files
from urllib.parse import quote

from nograd.report.markup import element, text

__all__ = ["header", "page"]

MARK = '<path d="M3.5 5h17L12 20z"/><path d="M4 21.5 20 2.5"/>'
ICON = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#1f63b5" stroke-width="2.4">{MARK}</svg>'
)


def page(title: str, top: str, parts: Iterable[str]) -> str:
    """Return a page that needs no network and no script. Write it as UTF-8.

    Its policy (Content-Security-Policy, CSP level 3) allows only its own style sheet, by digest, and its own icon. Markup
    in a name or a reason is therefore harmless, even if it were not escaped.

    Args:
        title: title of the window, as text.
        top: the header, as markup.
        parts: the parts of the page, as markup; empty ones are omitted.
    """
    style = files("nograd.report").joinpath("report.css").read_text("utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        element("title", text(title)),
        f'<link rel="icon" href="data:image/svg+xml,{quote(ICON)}">',
        f"<style>{style}</style>",
    ]
    body = [top, element("main", [part for part in parts if part]), ""]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            element("head", "\n".join(head)),
            element("body", "\n".join(body)),
            "</html>",
            "",
        ]
    )


def _policy(style: str) -> str:
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def header(name: str, version: str, when: str) -> str:
    """Return the line at the top of a page: the tool, its version, and the time."""
    mark = f'<svg class="logo" viewBox="0 0 24 24" aria-hidden="true">{MARK}</svg>'
    brand = element("p", f"{mark}{name} " + element("span", text(version), class_="quiet"), class_="brand")
    return element("header", brand + element("p", text(when), class_="quiet"), class_="top")
