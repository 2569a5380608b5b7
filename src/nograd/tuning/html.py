"""Render the report of `nograd tune` as one HTML file without scripts or external resources; it suits light, dark and print."""

from __future__ import annotations

from nograd.report.markup import element
from nograd.report.page import header, page
from nograd.tuning import sections, tables
from nograd.tuning.values import TuneReport

__all__ = ["to_html"]


def to_html(report: TuneReport) -> str:
    """Return the report as one page that needs no network and no script. Write it as UTF-8."""
    top = header("nograd tune", report.nograd, f"{report.when} UTC" if report.when else "")
    return page(f"nograd tune: {report.model or 'a model'}, {report.goal}", top, _parts(report))


def _parts(report: TuneReport) -> list[str]:
    halves = [part for part in (tables.confirmation(report), sections.effort(report)) if part]
    return [
        sections.verdict(report),
        sections.notes(report),
        sections.picture(report),
        tables.candidates(report),
        tables.unused(report),
        tables.parity(report),
        tables.independence(report),
        sections.curves(report),
        element("div", halves, class_="pair cards") if halves else "",
        sections.machine(report),
    ]
