"""The protocol's checklist: a server that does all passes all, and each that does one thing wrong fails that item alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from nograd.conformance import EVERY, OVER_GRPC, conformance, examine
from nograd.conformance.inference import nested
from nograd.conformance.target import examined
from nograd.conformance.tensors import packed, unpacked
from nograd.errors import ConfigError, ModelLoadError
from nograd.report.finding import Report
from nograd.report.finding_formats import to_junit, to_sarif
from tests.conformant_infer import MODELS
from tests.conformant_server import Conformant, sender
from tests.running_server import RunningServer
from tests.test_cli import nograd as command

DOCS = Path(__file__).parent.parent / "docs" / "conformance.md"

FAULTS = {
    "not live": "server.R1",
    "not ready": "server.R2",
    "no version": "server.R3",
    "no slash": "server.R3-slash",
    "no config": "server.R4",
    "no index": "server.R4",
    "html errors": "server.R5",
    "detail errors": "server.R5",
    "tracebacks": "server.R5",
    "400 for unknown paths": "server.R6",
    "400 for methods": "server.R6-method",
    "ready for all": "model.M1",
    "no outputs told": "model.M2",
    "no platform": "model.M2",
    "any version": "model.M3",
    "no versioned infer": "model.M4",
    "any case": "model.M5",
    "flat only": "request.I1",
    "ragged": "request.I1",
    "any shape": "request.I2",
    "small datatypes": "request.I3",
    "coerces": "request.I3-other",
    "null is zero": "request.I5",
    "takes NaN": "request.I5",
    "truncates": "request.I5-coercion",
    "ignores unknown inputs": "request.I7",
    "last of two": "request.I7",
    "mute about names": "request.I7-name",
    "all outputs": "request.I8",
    "own order": "request.I8-order",
    "none for none": "request.I8-order",
    "32 rows": "request.I9",
    "mixes rows": "request.I10",
    "strict parameters": "request.I11",
    "no timeout": "request.I12",
    "500 for depth": "request.I13",
    "422 for malformed": "request.I13-status",
    "no limit": "request.I13-limit",
    "wants a content type": "request.I14",
    "no compression": "request.I14-gzip",
    "no id": "response.O1",
    "no model_name": "response.O1",
    "another shape": "response.O2",
    "data short": "response.O2",
    "prints NaN": "response.O3",
    "noise": "response.O4",
    "no binary inputs": "binary.B1",
    "no mixing": "binary.B2",
    "big-endian": "binary.B3",
    "leaves bytes": "binary.B4",
    "all or none": "binary.B5",
    "json for octets": "binary.B6",
    "no header": "binary.B6",
    "any header": "binary.B8",
    "any index": "repository.P1",
    "no states": "repository.P1",
    "loads anything": "repository.P2-unknown",
    "no reload": "repository.P2",
    "stays loaded": "repository.P3",
    "counts nothing": "statistics.S1",
    "no success": "statistics.S1",
    "config without size": "statistics.S2",
    "no metrics": "statistics.S3",
}
"""What a server does wrong -> the item that says so."""

OF_TEXT = {"ascii only": "request.I6", "numbers as text": "request.I6-coercion", "no raw": "binary.B7"}
OF_BF16 = {"bf16 as json": "request.I4"}


def examination(fault: str, model: str) -> Report:
    return examine(examined(sender(Conformant(fault)), model), repository=True)


def broken(report: Report) -> set[str]:
    return {finding.check for finding in report.of("error", "warning", "info")}


@pytest.mark.parametrize(("fault", "item"), FAULTS.items())
def test_a_server_that_does_one_thing_wrong_fails_that_item_alone(fault: str, item: str) -> None:
    report = examination(fault, "Adder")

    assert broken(report) == {item}, str(report)


@pytest.mark.parametrize(("fault", "item"), OF_TEXT.items())
def test_so_does_one_whose_model_takes_text(fault: str, item: str) -> None:
    assert broken(examination(fault, "Texter")) == {item}


@pytest.mark.parametrize(("fault", "item"), OF_BF16.items())
def test_so_does_one_whose_model_takes_bf16(fault: str, item: str) -> None:
    assert item in broken(examination(fault, "Brain"))


def test_a_server_that_does_all_passes_all() -> None:
    reports = {model: examination("", model) for model in MODELS}

    assert {model: broken(report) for model, report in reports.items()} == {
        "Adder": set(),
        "Texter": set(),
        "Brain": {"model.M4"},  # no JSON request can be made for it
    }
    passed = {finding.check for report in reports.values() for finding in report.of("passed")}
    assert passed == {item.id for item in EVERY}


def test_every_item_has_a_server_that_fails_it() -> None:
    failed = {*FAULTS.values(), *OF_TEXT.values(), *OF_BF16.values()}

    assert failed == {item.id for item in EVERY}


def test_a_must_is_an_error_and_a_compat_a_warning() -> None:
    must, compat, useful = (examination(fault, "Adder") for fault in ("no id", "no slash", "noise"))

    assert (must.worst, must.exit_code()) == ("error", 1)
    assert (compat.worst, compat.exit_code()) == ("warning", 0)
    assert (useful.worst, useful.exit_code()) == ("info", 0)


def test_a_failure_tells_the_request_what_was_expected_what_came_and_the_rule() -> None:
    (finding,) = examination("no id", "Adder").of("error")

    assert finding.evidence.startswith('a request with an id: expected the same id, got 200: {"model_name": "Adder"')
    assert '"if specified this identifier must be returned in the response"' in finding.rule.replace("Optional, but ", "")
    assert f"  rule      {finding.rule[:40]}" in str(examination("no id", "Adder"))


def test_extensions_that_are_not_announced_are_skipped_with_their_reason() -> None:
    report = examination("no extensions", "Adder")

    assert broken(report) == set()
    skipped = {finding.check: finding.evidence for finding in report.of("skipped")}
    assert skipped["binary.B1"] == "the server does not announce the extension binary_tensor_data"
    assert {"repository.P1", "repository.P3", "statistics.S1", "statistics.S2", "request.I12"} <= skipped.keys()


def test_a_model_is_loaded_and_unloaded_only_where_that_is_asked_for() -> None:
    app = Conformant("stays loaded")

    report = examine(examined(sender(app), "Adder"), repository=False)

    assert broken(report) == set()
    assert {each.check for each in report.of("skipped")} >= {"repository.P2", "repository.P3"}


def test_reports_name_the_tool_and_hold_the_rule() -> None:
    report = examination("no id", "Adder")

    tree = ET.fromstring(to_junit(report))
    (run,) = json.loads(to_sarif(report))["runs"]
    assert (tree.get("name"), tree.get("failures")) == ("nograd conformance Adder", "1")
    assert run["tool"]["driver"]["name"] == "nograd conformance"
    assert "must be returned in the response" in to_junit(report)


def test_our_own_server_passes_all_that_it_announces(tiny_server: RunningServer, text_server: RunningServer) -> None:
    for server in (tiny_server, text_server):
        report = conformance(server.url)

        assert not broken(report), str(report)
        assert len(report.findings) == len(EVERY)


def test_the_command_prints_the_report_and_writes_files(tiny_server: RunningServer, tmp_path: Path) -> None:
    found, junit = tmp_path / "found.json", tmp_path / "found.xml"

    ended = command("conformance", tiny_server.url, "-o", "-", "-o", str(found), "-o", str(junit))

    assert ended.returncode == 0, ended.stdout
    assert "passed   model: M1, M2, M3, M4, M5" in ended.stdout
    assert json.loads(found.read_text())["counts"]["error"] == 0
    assert ET.parse(junit).getroot().get("tests") == str(len(EVERY))


def test_a_request_of_ones_own_takes_the_place_of_the_made_one(tiny_server: RunningServer, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [1] * 16}]}))
    bad.write_text("{}")

    assert conformance(f"{tiny_server.url}/v2/models/tiny", data=good).exit_code() == 0
    with pytest.raises(ConfigError, match="is not an infer request"):
        conformance(tiny_server.url, data=bad)
    with pytest.raises(ModelLoadError, match="nothing answers"):
        conformance("http://127.0.0.1:9")


def test_data_are_nested_and_packed() -> None:
    assert nested([1, 2, 3, 4, 5, 6], [3, 1, 2]) == [[[1, 2]], [[3, 4]], [[5, 6]]]
    assert packed("INT16", [1, 256]) == b"\x01\x00\x00\x01"
    assert unpacked("BYTES", packed("BYTES", ["a", "ü"])) == ["a", "ü"]
    for lie in (b"\x01", b"\x05\x00\x00\x00ab"):
        with pytest.raises(ValueError, match="truncated"):
            unpacked("BYTES", lie)


def test_the_documentation_names_every_item_once() -> None:
    named = re.findall(r"^\| `([a-z]+\.\w+[\w-]*)` \|", DOCS.read_text("utf-8"), re.MULTILINE)

    assert named == [*(item.id for item in EVERY), *(item.id for item in OVER_GRPC)]
