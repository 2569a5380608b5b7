"""Checks of servers: each on one that does that one thing wrong, and all on `nograd serve`."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from nograd import check
from nograd.checks import registry
from nograd.checks.drain import check_drain, started
from nograd.checks.load import _judge_burst as judge_burst
from nograd.client.http import Answer, server_subject
from nograd.errors import ConfigError, ModelLoadError
from nograd.report.verdict import Verdict
from tests.bad_servers import serving_badly
from tests.running_server import FOLDER, RunningServer

FAULTS = {
    "not ready": ("serving.live", "error"),
    "no metadata": ("serving.metadata", "error"),
    "no versions": ("serving.metadata", "warning"),
    "another output": ("serving.answer", "warning"),
    "500 for unknown": ("serving.unknown_model", "error"),
    "500 for bad requests": ("serving.bad_json", "error"),
    "mute": ("serving.bad_json", "warning"),
    "tracebacks": ("serving.bad_inputs", "warning"),
    "any method": ("serving.method", "warning"),
    "no limit": ("serving.too_large", "warning"),
    "no time-out": ("serving.timeout", "info"),
    "400 for a time-out": ("serving.timeout", "warning"),
    "no metrics": ("serving.metrics", "warning"),
    "no histogram": ("serving.metrics", "info"),
    "mixes requests": ("serving.concurrent", "error"),
    "500 under load": ("serving.overload", "error"),
    "rude under load": ("serving.overload", "warning"),
    "dead after load": ("serving.overload", "error"),
}
"""What a server does wrong -> the check that finds it, and how bad that is."""


def run(check_id: str, url: str) -> Verdict:
    (found,) = [each for each in registry.SERVERS if each.id == check_id]
    return found.run(server_subject(url))


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_server_does_wrong_is_found(fault: str) -> None:
    check_id, severity = FAULTS[fault]
    with serving_badly(fault) as server:
        verdict = run(check_id, server.url)

    assert verdict.severity == severity, verdict.evidence


@pytest.mark.parametrize("fault", ["", "polite under load"])
def test_nothing_is_found_in_a_server_that_does_all_right(fault: str) -> None:
    with serving_badly(fault) as server:
        report = check(server.url, only=["serving"])

    assert report.of("error", "warning", "info") == (), str(report)
    assert len(report.of("passed")) == len(registry.SERVERS)


def test_every_check_of_servers_has_a_server_that_fails_it() -> None:
    assert {check_id for check_id, _ in FAULTS.values()} == {each.id for each in registry.SERVERS}


def test_nothing_is_found_in_nograds_own_server(tiny_server: RunningServer, text_server: RunningServer) -> None:
    for server in (tiny_server, text_server, tiny_server, text_server):  # the second time, a cache knows the requests
        report = check(server.url)

        assert report.of("error", "warning", "info") == (), str(report)
        assert {finding.check for finding in report.of("passed")} == {each.id for each in registry.SERVERS}
        assert len(report.findings) == len(registry.EVERY)


def test_a_model_can_be_named_in_the_url(tiny_server: RunningServer) -> None:
    assert server_subject(f"{tiny_server.url}/v2/models/tiny").model == "tiny"
    assert server_subject(tiny_server.url).model == "tiny"
    with pytest.raises(ModelLoadError, match="has no model 'other'; it serves 'tiny'"):
        server_subject(f"{tiny_server.url}/v2/models/other")


@pytest.mark.parametrize(
    ("url", "kind", "said"),
    [
        ("http://127.0.0.1:9", ModelLoadError, "nothing answers at http://127.0.0.1:9: ConnectionRefusedError"),
        ("http://", ConfigError, "the URL is 'http://'; it must be http://host:port, or"),
    ],
)
def test_a_url_where_nothing_answers_is_one_sentence(url: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        check(url)


def test_a_server_that_is_told_to_stop_answers_what_it_holds() -> None:
    report = check("tests.served_models:tiny", deep=True, only=["serving"])

    assert report.of("error", "warning", "skipped", "info") == (), str(report)
    assert "serving.drain" in {finding.check for finding in report.of("passed")}


def test_a_server_that_loses_what_it_holds_is_found() -> None:
    with started([sys.executable, str(FOLDER / "bad_servers.py")]) as server:
        verdict = check_drain(replace(server, server=replace(server.server, timeout_s=5)))

    assert (verdict.severity, verdict.figures["answered"]) == ("error", 0)


def test_a_server_that_does_not_start_is_an_error_and_no_traceback() -> None:
    with (
        pytest.raises(ModelLoadError, match="the server did not start: no model"),
        started([sys.executable, "-c", "import sys; sys.exit('no model')"]),
    ):
        pass


@pytest.mark.parametrize(
    ("burst", "severity"),
    [
        ([(200, {}, 1.0), (503, {"retry-after": "1"}, 0.1)], "passed"),
        ([(503, {"retry-after": "1"}, 3.0)], "warning"),
        ([(429, {}, 0.1)], "warning"),
        ([(0, {}, 0.1)], "error"),
    ],
    ids=["polite", "late", "without a word", "dropped"],
)
def test_a_burst_is_judged_by_its_refusals(burst: list[tuple[int, dict[str, str], float]], severity: str) -> None:
    answers = [Answer(status, headers, b"{}", seconds) for status, headers, seconds in burst]

    assert judge_burst(answers, Answer(200, {}, b"{}", 0.01)).severity == severity
