"""A report as text, JSON, SARIF and JUnit, and what its severities mean for an exit code."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.errors import ConfigError
from nograd.report.finding import SEVERITIES, Finding, Report, Severity
from nograd.report.finding_formats import to_json, to_junit, to_sarif, to_text, writer_of
from nograd.report.verdict import Check, Verdict, error, info, passed, run_checks, skipped, warning


def finding(severity: Severity, check: str = "mode.eval", **changes: Any) -> Finding:
    plain: dict[str, Any] = {"title": "It is", "done": "looked", "evidence": "saw 3 of 4", "figures": {"seen": 3.0}}
    return Finding(check, severity, **{**plain, "remedy": "model.eval()", **changes})


ALL = Report("m.onnx", tuple(finding(severity, f"mode.{severity}") for severity in reversed(SEVERITIES)), 1.5)


@pytest.mark.parametrize(
    ("severities", "worst", "code", "strict_code"),
    [
        ([], "passed", 0, 0),
        (["passed", "skipped"], "skipped", 0, 0),
        (["info", "passed"], "info", 0, 0),
        (["info", "warning"], "warning", 0, 1),
        (["warning", "error", "passed"], "error", 1, 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst_severity(
    severities: list[Severity], worst: Severity, code: int, strict_code: int
) -> None:
    report = Report("m", tuple(map(finding, severities)))

    assert (report.worst, report.exit_code(), report.exit_code(strict=True)) == (worst, code, strict_code)


def test_counts_name_every_severity_worst_first() -> None:
    assert ALL.counts == dict.fromkeys(SEVERITIES, 1)
    assert list(ALL.counts) == list(SEVERITIES)
    assert [each.severity for each in ALL.of("error", "info")] == ["info", "error"]


def test_the_text_is_for_people_worst_first_and_no_wider_than_100_columns() -> None:
    text = to_text(
        Report("m.onnx", (*ALL.findings, finding("passed", "batching.rows"), finding("info", evidence="word " * 60)), 1.5)
    )

    lines = text.splitlines()
    assert lines[0] == "m.onnx: 1 error, 1 warning, 2 info, 1 skipped, 2 passed, in 1.5 s"
    assert lines[2:7] == [
        "ERROR    mode.error: saw 3 of 4",
        "  expected  It is",
        "  method    looked",
        "  fix       model.eval()",
        "",
    ]
    assert lines[-4:] == ["skipped  mode.skipped: saw 3 of 4", "", "passed   mode: passed", "passed   batching: rows"]
    assert max(map(len, lines)) <= 100
    assert str(ALL) == to_text(ALL)


def test_json_holds_all_and_no_nan() -> None:
    report = Report("m", (finding("error", figures={"off": float("inf"), "word": "x"}),), 2.0)

    found = json.loads(to_json(report))

    assert found["findings"][0]["figures"] == {"off": "inf", "word": "x"}
    assert (found["worst"], found["counts"]["error"], found["findings"][0]["family"]) == ("error", 1, "mode")


def test_sarif_has_what_the_schema_of_version_2_1_0_requires() -> None:
    """Section 3 of the OASIS standard: log, run, tool, driver, rule, result, message, location."""
    log = json.loads(to_sarif(ALL))

    assert (log["version"], log["$schema"].endswith("sarif-2.1.0.json")) == ("2.1.0", True)
    (run,) = log["runs"]
    assert run["tool"]["driver"]["name"] == "nograd check"
    rules, results = run["tool"]["driver"]["rules"], run["results"]
    assert len({rule["id"] for rule in rules}) == len(rules) == len(results)
    for index, result in enumerate(results):
        assert result["ruleIndex"] == index
        assert rules[index]["id"] == result["ruleId"]
        assert rules[index]["shortDescription"]["text"]
        assert result["message"]["text"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["kind"] in ("notApplicable", "pass", "fail", "review", "open", "informational")
        assert (result["level"] == "none") == (result["kind"] != "fail")
        assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    by_severity = {result["properties"]["severity"]: (result["kind"], result["level"]) for result in results}
    assert by_severity["error"] == ("fail", "error")
    assert by_severity["info"] == ("fail", "note")
    assert by_severity["passed"] == ("pass", "none")


def test_junit_counts_what_it_holds() -> None:
    root = ET.fromstring(to_junit(ALL))

    assert root.tag == "testsuites"
    assert [root.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "2", "0", "1"]
    (suite,) = root
    assert [suite.get(name) for name in ("name", "tests", "failures", "skipped")] == ["mode", "5", "2", "1"]
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds == {
        "mode.error": ["failure"],
        "mode.warning": ["failure"],
        "mode.info": ["system-out"],
        "mode.skipped": ["skipped"],
        "mode.passed": ["system-out"],
    }


@given(st.text(), st.text())
def test_every_format_can_be_read_whatever_a_model_says(evidence: str, target: str) -> None:
    report = Report(target, (finding("error", evidence=evidence),))

    assert json.loads(to_json(report))["findings"][0]["evidence"] == evidence
    assert evidence in json.loads(to_sarif(report))["runs"][0]["results"][0]["message"]["text"]
    assert ET.fromstring(to_junit(report)).get("failures") == "1"
    assert to_text(report)


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(ConfigError, match="format is 'xml'; it must be one of text, json, sarif, junit"):
        writer_of("xml")


# -- running checks


def check_of(run: Any, *, is_deep: bool = False) -> Check[int]:
    return Check("mode.eval", "It is", "looked", run, "model.eval()", "error", is_deep)


@pytest.mark.parametrize(
    ("verdict", "remedy"),
    [
        (error("e"), "model.eval()"),
        (warning("w").with_remedy("own"), "own"),
        (info("i"), "model.eval()"),
        (passed("p"), ""),
        (skipped("s"), ""),
    ],
)
def test_a_finding_has_a_remedy_where_there_is_something_to_mend(verdict: Verdict, remedy: str) -> None:
    (found,) = run_checks([check_of(lambda _: verdict)], 1, deep=False)

    assert (found.severity, found.evidence, found.remedy) == (verdict.severity, verdict.evidence, remedy)
    assert (found.check, found.family, found.title, found.done) == ("mode.eval", "mode", "It is", "looked")


def test_a_check_that_fails_itself_is_a_finding_and_the_next_one_is_run() -> None:
    def fail(_: int) -> Verdict:
        raise ValueError("two\nlines")

    first, second = run_checks([check_of(fail), check_of(lambda _: passed("p"))], 1, deep=False)

    assert first.severity == "warning"
    assert first.evidence == "the check could not be completed: ValueError: two lines"
    assert second.severity == "passed"


def test_what_cannot_be_run_is_skipped_with_its_reason() -> None:
    (absent,) = run_checks([check_of(lambda _: passed("p"))], None, deep=False, why_not="no model")
    (long,) = run_checks([check_of(lambda _: passed("p"), is_deep=True)], 1, deep=False)
    (asked,) = run_checks([check_of(lambda _: passed("p"), is_deep=True)], 1, deep=True)

    assert (absent.severity, absent.evidence) == ("skipped", "no model")
    assert (long.severity, long.evidence) == ("skipped", "a slow check: --deep (deep=True) runs it")
    assert asked.severity == "passed"
