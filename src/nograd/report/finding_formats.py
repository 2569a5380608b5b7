"""Write a report as text for people, JSON for programs, SARIF for code scanning, and JUnit for test reports."""

from __future__ import annotations

import json
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

from nograd import __version__
from nograd.errors import ConfigError
from nograd.report.finding import SEVERITIES, Finding, Report, Severity

__all__ = ["FORMATS", "to_json", "to_junit", "to_sarif", "to_text", "writer_of"]

WIDTH = 100

HOMES = {"check": "https://nograd.readthedocs.io/checks/", "conformance": "https://nograd.readthedocs.io/conformance/"}
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

SARIF_LEVELS: dict[Severity, str] = {
    "error": "error",
    "warning": "warning",
    "info": "note",
    "skipped": "none",
    "passed": "none",
}
SARIF_KINDS: dict[Severity, str] = {
    "error": "fail", "warning": "fail", "info": "fail", "skipped": "notApplicable", "passed": "pass",
}  # fmt: skip
"""SARIF 2.1.0, 3.27.9 and 3.27.10: a level other than `none` requires the kind `fail`."""


def to_text(report: Report) -> str:
    """Return the report as text: worst first, 100 columns, no colour; passed checks in one line per family."""
    counts = ", ".join(f"{count} {severity}" for severity, count in report.counts.items() if count) or "nothing was checked"
    lines = [f"{report.target}: {counts}, in {report.spent_s:.3g} s", ""]
    for severity in SEVERITIES[:3]:
        for finding in report.of(severity):
            lines += [*_paragraph(finding), ""]
    lines += _skipped(report.of("skipped"))
    lines += _passed(report.of("passed"))
    return "\n".join(lines).rstrip() + "\n"


def _paragraph(finding: Finding) -> Iterator[str]:
    yield from _wrapped(finding.evidence, f"{finding.severity.upper():8} {finding.check}: ", indent=9)
    lines = {"expected": finding.title, "method": finding.done, "fix": finding.remedy, "rule": finding.rule}
    for label, text in lines.items():
        if text:
            yield from _wrapped(text, f"  {label:9} ")


def _wrapped(text: str, head: str, *, indent: int | None = None) -> list[str]:
    """Return the text after a head, in lines; further lines are indented, by default by the length of the head."""
    further = " " * (len(head) if indent is None else indent)
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
    )


def _skipped(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Yield the skipped checks, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for finding in findings:
        by_reason.setdefault(finding.evidence, []).append(finding.check)
    for reason, checks in by_reason.items():
        yield from _wrapped(f"{', '.join(checks)}: {reason}", "skipped  ")
    if findings:
        yield ""


def _passed(findings: tuple[Finding, ...]) -> Iterator[str]:
    families: dict[str, list[str]] = {}
    for finding in findings:
        families.setdefault(finding.family, []).append(finding.check.partition(".")[2])
    for family, names in families.items():
        yield from _wrapped(f"{family}: {', '.join(names)}", "passed   ")


def to_json(report: Report) -> str:
    """Return the report as JSON, indented."""
    return json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"


def to_sarif(report: Report) -> str:
    """Return the report as SARIF 2.1.0: one run, one rule for each check, one result for each finding.

    A model has no lines of code, so results point at the target by name, as a logical location.
    """
    rules = [_rule(finding, HOMES[report.tool]) for finding in report.findings]
    results = [_result(finding, index, report.target) for index, finding in enumerate(report.findings)]
    driver = {"name": f"nograd {report.tool}", "version": __version__, "informationUri": HOMES[report.tool], "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, allow_nan=False) + "\n"


def _rule(finding: Finding, home: str) -> dict[str, Any]:
    return {
        "id": finding.check,
        "name": finding.check.replace(".", "_"),
        "shortDescription": {"text": finding.title},
        "fullDescription": {"text": finding.done},
        "helpUri": f"{home}#{finding.check.replace('.', '')}",
    }


def _result(finding: Finding, index: int, target: str) -> dict[str, Any]:
    remedy = (f" Fix: {finding.remedy}" if finding.remedy else "") + (f" Rule: {finding.rule}" if finding.rule else "")
    plain = finding.to_json()
    return {
        "ruleId": finding.check,
        "ruleIndex": index,
        "kind": SARIF_KINDS[finding.severity],
        "level": SARIF_LEVELS[finding.severity],
        "message": {"text": f"{finding.evidence}. Expected: {finding.title}.{remedy}"},
        "locations": [
            {"logicalLocations": [{"name": target, "fullyQualifiedName": f"{target}/{finding.check}", "kind": "module"}]}
        ],
        "properties": {"figures": plain["figures"], "done": finding.done, "severity": finding.severity},
    }


def to_junit(report: Report) -> str:
    """Return the report as JUnit XML: one suite for each family; errors and warnings are failures, infos are output."""
    root = ET.Element("testsuites", {"name": f"nograd {report.tool} {_clean(report.target)}", "time": f"{report.spent_s:.3f}"})
    families = dict.fromkeys(finding.family for finding in report.findings)
    for family in families:
        _suite(root, family, [finding for finding in report.findings if finding.family == family])
    _count(root, list(report.findings))
    ET.indent(root, " ")
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ET.Element, family: str, findings: list[Finding]) -> None:
    suite = ET.SubElement(root, "testsuite", {"name": family})
    _count(suite, findings)
    for finding in findings:
        case = ET.SubElement(suite, "testcase", {"classname": f"nograd.{family}", "name": finding.check})
        said = _clean("\n".join(filter(None, (finding.done, finding.evidence, finding.remedy, finding.rule))))
        if finding.severity in ("error", "warning"):
            fault = ET.SubElement(case, "failure", {"type": finding.severity, "message": _clean(finding.evidence)})
            fault.text = said
        elif finding.severity == "skipped":
            ET.SubElement(case, "skipped", {"message": _clean(finding.evidence)})
        else:
            ET.SubElement(case, "system-out").text = said


def _count(element: ET.Element, findings: list[Finding]) -> None:
    failures = sum(finding.severity in ("error", "warning") for finding in findings)
    skips = sum(finding.severity == "skipped" for finding in findings)
    for name, count in (("tests", len(findings)), ("failures", failures), ("errors", 0), ("skipped", skips)):
        element.set(name, str(count))


def _clean(text: str) -> str:
    """Return the text without characters that XML 1.0 forbids, such as NUL, which models' errors may contain."""
    return "".join(sign if sign in "\t\n\r" or (sign >= " " and sign not in "\ufffe\uffff" and not "\ud800" <= sign <= "\udfff")
                   else "?" for sign in text)  # fmt: skip


FORMATS: dict[str, Callable[[Report], str]] = {"text": to_text, "json": to_json, "sarif": to_sarif, "junit": to_junit}
"""Name -> function that writes a report in the format."""


def writer_of(name: str) -> Callable[[Report], str]:
    """Return the function that writes a report in a format.

    Raises:
        ConfigError: the format is unknown.
    """
    if name not in FORMATS:
        raise ConfigError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    return FORMATS[name]
