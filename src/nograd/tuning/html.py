"""The report of `nograd tune` as one HTML file: no script, nothing fetched, light and dark, on paper too."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from urllib.parse import quote

from nograd.tuning import sections, tables
from nograd.tuning.markup import element, text
from nograd.tuning.values import TuneReport

__all__ = ["to_html"]

MARK = '<path d="M3.5 5h17L12 20z"/><path d="M4 21.5 20 2.5"/>'
ICON = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#1f63b5" stroke-width="2.4">{MARK}</svg>'
)


def to_html(report: TuneReport) -> str:
    """Return the report as one page, which needs no network and no script; write it as UTF-8.

    Its policy (Content-Security-Policy, CSP level 3) allows its own style sheet, by digest, and its own icon: nothing else, so
    that a name or a reason that holds markup can do nothing even if it were not escaped.
    """
    style = files("nograd.tuning").joinpath("report.css").read_text("utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(style)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        element("title", text(f"nograd tune: {report.model or 'a model'}, {report.goal}")),
        f'<link rel="icon" href="data:image/svg+xml,{quote(ICON)}">',
        f"<style>{style}</style>",
    ]
    body = [_header(report), element("main", [part for part in _parts(report) if part]), ""]
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


def _header(report: TuneReport) -> str:
    mark = f'<svg class="logo" viewBox="0 0 24 24" aria-hidden="true">{MARK}</svg>'
    when = f"{report.when} UTC" if report.when else ""
    brand = element("p", f"{mark}nograd tune " + element("span", text(report.nograd), class_="quiet"), class_="brand")
    return element("header", brand + element("p", text(when), class_="quiet"), class_="top")


def _parts(report: TuneReport) -> list[str]:
    halves = [part for part in (tables.confirmation(report), sections.effort(report)) if part]
    return [
        sections.verdict(report),
        sections.notes(report),
        sections.picture(report),
        tables.candidates(report),
        tables.unused(report),
        tables.parity(report),
        sections.curves(report),
        element("div", halves, class_="pair cards") if halves else "",
        sections.machine(report),
    ]
