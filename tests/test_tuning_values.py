"""What users write of goals and tolerances, and how values of tuning are shown."""

from __future__ import annotations

import pytest

from nograd.core.parity import EXACT, INT8, Tolerance
from nograd.errors import ConfigError
from nograd.tuning.candidates import parse_tolerance
from nograd.tuning.values import Candidate, Goal, Row, TuneReport


@pytest.mark.parametrize(
    ("text", "goal"), [("latency", Goal("latency")), ("slo=20ms", Goal("slo", 0.02)), ("slo=0.5s", Goal("slo", 0.5))]
)
def test_a_goal_is_read_as_it_is_written(text: str, goal: Goal) -> None:
    assert Goal.parse(text) == goal


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fast", "the goal is 'fast'; it must be latency, throughput, memory, or slo=TIME such as slo=20ms"),
        ("slo", "the goal is 'slo'; slo needs a time with its unit, such as slo=20ms or slo=0.5s"),
        ("slo=20", "the goal is 'slo=20'; slo needs a time with its unit, such as slo=20ms or slo=0.5s"),
        ("slo=0ms", "the time of goal slo is 0.0 s; it must be above 0, finite"),
    ],
)
def test_a_goal_that_is_none_is_told_with_those_that_are(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Goal.parse(text)

    assert str(raised.value) == told


def test_a_goal_is_written_as_it_is_read() -> None:
    assert [str(Goal.parse(text)) for text in ("memory", "slo=0.25s", "slo=7.5ms")] == ["memory", "slo=250ms", "slo=7.5ms"]


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("exact", EXACT),
        ("int8", INT8),
        ("cosine=0.99", Tolerance(min_cosine=0.99)),
        ("agreement=0.98, rel=0.1", Tolerance(min_cosine=-1.0, max_rel=0.1, min_agreement=0.98)),
    ],
)
def test_a_tolerance_is_a_name_or_limits(text: str, tolerance: Tolerance) -> None:
    assert parse_tolerance(text) == tolerance


@pytest.mark.parametrize("text", ["loose", "cosine", "cosine=high", "top1=0.9"])
def test_a_tolerance_that_is_neither_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be exact, half, int8, or limits of cosine, rel, abs, agreement"):
        parse_tolerance(text)


def test_a_candidate_is_named_by_what_differs_from_the_plain() -> None:
    assert str(Candidate("onnx", lanes=1, num_threads=2)) == "onnx 1x2"
    assert str(Candidate("onnx", "int8-dynamic", 2, 1)) == "onnx int8-dynamic 2x1"


def test_a_report_knows_its_winner_and_is_plain_json() -> None:
    lost, won = Row(Candidate("eager"), "dropped", "slower"), Row(Candidate("onnx"), "winner")
    report = TuneReport("m", "latency", "half", "3 rows", (won, lost), "eager 1x1")

    assert report.winner is won
    assert report.to_json()["rows"][1]["reason"] == "slower"
    assert TuneReport("m", "latency", "half", "3 rows", (lost,), "eager 1x1").winner is None
