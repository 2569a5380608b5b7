"""The report as text and as JSON, and the words that it shares with the page."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.core.independence import Independence
from nograd.errors import ModelLoadError
from nograd.report import figures
from nograd.report.figures import Figure
from nograd.tuning import wording
from nograd.tuning.html import to_html
from nograd.tuning.report import WIDTH, dumps, loads, to_text
from nograd.tuning.values import Candidate, CurvePoint, Row, TuneReport
from tests.sample_reports import SAMPLES, alone, awkward, crowded, empty, interrupted, minilm, tiny, unmeasured

NUMBERS = st.floats(allow_nan=False)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FIGURES = st.builds(Figure, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 99))
ROWS = st.builds(
    Row,
    st.builds(Candidate, WORDS, WORDS, st.integers(1, 64), st.integers(1, 64)),
    st.sampled_from(list(wording.STATUSES)),
    WORDS,
    file_bytes=st.none() | st.integers(0, 2**40),
    metric=st.none() | NUMBERS,
    lone_s=st.none() | FIGURES,
    rows_per_s=st.none() | FIGURES,
    ratio=st.none() | FIGURES,
    curve=st.lists(st.builds(CurvePoint, st.integers(1, 9999), FIGURES), max_size=3).map(tuple),
)
REPORTS = st.builds(
    TuneReport, WORDS, WORDS, WORDS, WORDS, st.lists(ROWS, max_size=4).map(tuple), WORDS,
    machine=st.dictionaries(WORDS, WORDS | st.lists(st.integers(0, 9))), spent_s=st.dictionaries(WORDS, NUMBERS),
    notes=st.lists(WORDS, max_size=2).map(tuple), budget_s=NUMBERS,
)  # fmt: skip


# As a file


@given(REPORTS)
def test_a_report_comes_back_as_it_was(report: TuneReport) -> None:
    assert loads(dumps(report)) == report


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"awkward"}))
def test_samples_come_back_as_they_were(name: str) -> None:
    report = SAMPLES[name]()

    assert loads(dumps(report)) == report
    assert loads(dumps(report).decode()) == report


def test_nan_and_infinities_come_back_and_stand_as_words() -> None:
    report = replace(alone(), budget_s=-inf, reference_metric=nan, spent_s={"building": inf})

    back = loads(dumps(report))

    assert (back.budget_s, back.spent_s) == (-inf, {"building": inf})
    assert back.reference_metric is not None
    assert isnan(back.reference_metric)
    assert json.loads(dumps(report))["report"]["reference_metric"] == "nan"


def test_a_name_that_is_not_utf_8_is_written_escaped() -> None:
    assert loads(dumps(replace(alone(), model="caf\udce9.pt2"))).model == "caf\\udce9.pt2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a report of nograd tune"),
        (b"\xff\xfe", "not a report of nograd tune"),
        (b"[1, 2]", "not a report of nograd tune"),
        (b'{"a": 1}', "missing required field `kind`"),
        (b'{"kind": "recipe", "format": 1, "report": {}}', "is a 'recipe'; expected a 'nograd tune report'"),
        (b'{"kind": "nograd tune report", "format": 2, "report": {"new": 1}}', "has format 2; this nograd reads up to 1"),
        (b'{"kind": "nograd tune report", "format": 1, "report": {"model": 5}}', "Expected `str`, got `int`"),
        (dumps(alone()).replace(b'"winner"', b'"champion"'), "champion"),
        (dumps(alone())[:-40], "not a report of nograd tune"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_the_reason(text: bytes, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        loads(text)


# As text


def test_the_verdict_comes_first_then_who_ties_and_who_is_next() -> None:
    text = to_text(minilm())
    lines = text.splitlines()

    assert lines[3] == (
        "onnx float32, 1 lane x 2 threads: 2.32x eager [2.23 .. 2.43] for one row alone; confirmed under load"
    )  # fmt: skip
    assert " ".join(lines[4:6]) == (
        "openvino 1x2 is as good within 2 %, and less simple. Next is onnx 2x1 at 1.52x: the winner is 53 % ahead."
    )


def test_candidates_stand_from_the_winner_down_in_one_unit() -> None:
    lines = to_text(minilm()).splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("  candidate"))) :][:4]

    assert [" ".join(line.split()) for line in table] == [
        "candidate status x eager 1 row ms p99 rows/s batch MB cosine",
        "onnx 1x2 winner 2.32x [2.23 .. 2.43] 6.12 7.10 72.1 8 312 0.99999",
        "openvino 1x2 tied 2.29x [2.20 .. 2.40] 6.21 7.40 70.4 8 398 0.99999",
        "onnx 2x1 measured 1.52x [1.46 .. 1.59] 9.34 10.2 94.3 1 401 0.99999",
    ]


def test_statuses_follow_each_other_in_the_order_of_the_report() -> None:
    lines = to_text(interrupted()).splitlines()

    places = [lines.index(head) for head in ("refused", "failed", "not tried", "under load")]
    assert places == sorted(places)
    assert "  openvino 1x2 and openvino 2x1: the run was interrupted before its turn" in lines
    assert lines[-1] == "note: only 4 rounds were measured, so the intervals are wide"


def test_a_doubt_under_load_is_said_in_the_verdict_and_in_full() -> None:
    text = to_text(interrupted())

    assert "within 200 ms; not\nconfirmed under load" in text
    assert "NOT confirmed: the 99th percentile was 241 ms, 49 % above the predicted one" in text
    assert "  p99 241 ms, predicted 162 ms" in text


def test_a_reference_that_wins_is_not_compared_with_itself() -> None:
    assert wording.verdict(tiny()) == (
        "eager float32, 1 lane x 1 thread: what the others are compared with, and none was more than 2 % better in rows a "
        "second; not tried under load"
    )


def test_without_a_winner_the_verdict_counts_what_came_of_the_candidates() -> None:
    assert wording.verdict(unmeasured()) == "no winner among 2 candidates: 1 failed and 1 not tried"
    assert wording.verdict(empty()) == "no winner: there was no candidate"


@pytest.mark.parametrize("name", SAMPLES)
def test_no_line_is_wider_than_the_terminal(name: str) -> None:
    assert [line for line in to_text(SAMPLES[name]()).splitlines() if len(line) > WIDTH] == []


@given(REPORTS)
def test_any_report_is_text_that_a_terminal_shows_as_it_is(report: TuneReport) -> None:
    text = to_text(report)

    assert text.endswith("\n")
    assert all(char.isprintable() or char == "\n" for char in text)


def test_columns_give_way_to_long_names() -> None:
    head = next(line for line in to_text(crowded()).splitlines() if line.startswith("  candidate"))

    assert "batch" not in head
    assert "cosine" in head


def test_colours_and_control_characters_of_a_reason_do_not_reach_the_terminal() -> None:
    assert "red\ufffd\ufffd\ufffd 1x1: \ufffd gone and spaced" in to_text(awkward())


# Figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (9.999, "10.0"),
        (72.14, "72.1"),
        (412_000, "412,000"),
        (0.00512, "0.00512"),
        (5.1e-7, "5.10e-07"),
        (nan, figures.NONE),
    ],
)
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert figures.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00612, "6.12 ms"), (0.0000412, "41.2 µs"), (0.9996, "1 s"),
     (60.0, "60 s"), (600.0, "10 min"), (0.0, "0 s"), (inf, figures.NONE), (None, figures.NONE)],
)  # fmt: skip
def test_a_time_is_in_its_best_unit(value: float | None, text: str) -> None:
    assert figures.seconds(value) == text


@pytest.mark.parametrize(
    ("values", "name"),
    [([0.006, 0.2], "ms"), ([0.0004, 0.006], "ms"), ([0.00004, 0.006], "µs"), ([1e-5, 2e-5], "µs"), ([0.0061, 1.2], "ms"),
     ([0.15, 1.2], "s"), ([1e-9, 50.0], "ms"), ([None, nan], "ms")],
)  # fmt: skip
def test_a_column_has_one_unit_that_suits_its_smallest_and_its_largest(values: list[float | None], name: str) -> None:
    assert figures.unit_of(values).name == name


def test_only_one_is_shown_as_a_cosine_of_one() -> None:
    assert (figures.cosine(1.0), figures.cosine(0.99999999), figures.cosine(-0.5, 2)) == ("1.0000000", "0.9999999", "-0.50")


def test_only_the_whole_is_shown_as_a_hundred_percent() -> None:
    assert (figures.share(1.0), figures.share(0.999999), figures.share(0.742)) == ("100 %", "> 99.99 %", "74.2 %")


def test_an_interval_of_no_width_is_left_out() -> None:
    assert figures.interval(Figure(1, 1, 1)) == figures.interval(Figure(1, nan, 2)) == figures.interval(None) == ""
    assert figures.interval(Figure(0.002, 0.0019, 0.0021), 1000) == "[1.90 .. 2.10]"


def with_independence() -> TuneReport:
    report = minilm()
    coupled = Independence(4e-2, size_effect=1e-7, num_batches=12, max_rows=5, backend="onnx", precision="int8-dynamic")
    return replace(report, rows=(replace(report.rows[0], independence=coupled), *report.rows[1:]))


def test_the_report_says_how_far_rows_of_a_batch_influence_each_other() -> None:
    report = with_independence()
    told = " ".join(to_text(report).split())

    assert (
        f"rows in a batch {report.rows[0].candidate.variant}: coupled: other rows move a row by at most 4.0e-02 of the" in told
    )
    assert "rows in a batch" not in to_text(minilm())
    assert loads(dumps(report)) == report


def test_the_page_has_a_table_of_rows_in_a_batch() -> None:
    page = to_html(with_independence())

    assert "Rows in a batch" in page
    assert "coupled" in page
    assert "Rows in a batch" not in to_html(minilm())
