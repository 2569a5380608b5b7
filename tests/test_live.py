"""What happened in the last minute, and /live.json, which the page reads: its contract is here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import __version__
from nograd.batching import BatchRecord
from nograd.server.live import Live, LogHistogram
from tests.fakes import Site, doubling, x

SERIES = ("requests", "errors", "rows", "p50_ms", "p95_ms", "p99_ms", "queue_rows", "batch_rows")


def record(
    rows: int = 1, *, reason: Any = "device free", waits: tuple[float, ...] = (0.0,), padding: float = 0.0
) -> BatchRecord:
    return BatchRecord(rows, len(waits), reason, run_s=0.25, waited_s=waits, padding_share=padding, failed=0)


# -- percentiles


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_at_most_four_percent_too_high_and_never_above_the_maximum(times: list[float], percent: int) -> None:
    histogram = LogHistogram()
    for seconds in times:
        histogram.add(seconds)

    exact_ms = sorted(times)[math.ceil(len(times) * percent / 100) - 1] * 1000
    found_ms = histogram.percentile_ms(percent)

    assert found_ms is not None
    assert exact_ms * (1 - 1e-9) <= found_ms <= exact_ms * 1.04 * (1 + 1e-9)
    assert found_ms <= max(times) * 1000


@given(st.lists(st.floats(0, 10), max_size=20), st.lists(st.floats(0, 10), max_size=20))
def test_merged_histograms_are_the_histogram_of_all(first: list[float], second: list[float]) -> None:
    apart, whole = [LogHistogram(), LogHistogram()], LogHistogram()
    for histogram, times in zip(apart, (first, second), strict=True):
        for seconds in times:
            histogram.add(seconds)
            whole.add(seconds)
    apart[0].merge(apart[1])

    assert apart[0].counts == whole.counts
    assert (apart[0].total, apart[0].maximum) == (whole.total, whole.maximum)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert LogHistogram().percentile_ms(50) is None


# -- the last minute


def test_series_are_the_sixty_whole_seconds_before_now() -> None:
    live = Live()
    live.note_request(100.2, 0.010)
    live.note_request(100.9, 0.030)
    live.note_batch(100.9, record(3), queue_rows=5)
    live.note_batch(100.95, record(1), queue_rows=2)
    live.note_error(101.5, 503, "the queue is full")
    live.note_request(103.0, 0.020)  # this second is not over at 103.9

    series = live.snapshot(103.9)["series"]

    assert series["seconds"] == 60
    assert all(len(series[name]) == 60 for name in SERIES)
    assert series["requests"][-4:] == [0, 2, 0, 0]
    assert series["errors"][-4:] == [0, 0, 1, 0]
    assert series["rows"][-4:] == [0, 4, 0, 0]
    assert series["queue_rows"][-4:] == [0, 5, 0, 0]
    assert series["batch_rows"][-4:] == [None, 2, None, None]
    assert series["p50_ms"][-4:] == [None, pytest.approx(10, rel=0.04), None, None]
    assert series["p99_ms"][-4:] == [None, pytest.approx(30, rel=0.04), None, None]


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    live = Live()
    for second in range(200):
        live.note_request(float(second), 0.01)
    assert live.snapshot(200.0)["latency"]["count"] == 60
    assert sum(live.snapshot(200.0)["series"]["requests"]) == 60

    later = live.snapshot(1000.0)

    assert later["latency"] == {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None, "max_ms": None}
    assert sum(later["series"]["requests"]) == 0


def test_batches_are_summed_up_by_size_reason_and_padding() -> None:
    live = Live()
    live.note_batch(10.0, record(4, reason="full", waits=(0.5, 0.125), padding=0.5), 0)
    live.note_batch(10.5, record(1), 0)
    live.note_batch(11.5, record(1), 0)

    shown = live.snapshot(12.0)

    assert shown["batch_rows"] == [(1, 2), (4, 1)]
    assert shown["release_reasons"] == {"device free": 2, "full": 1}
    assert shown["padding_share"] == 0.5 * 4 / 6
    assert shown["run_ms"]["max_ms"] == 250
    assert shown["wait_ms"]["max_ms"] == 500


def test_the_last_errors_are_the_newest_eight_newest_first() -> None:
    live = Live()
    for number in range(10):
        live.note_error(float(number), 400, f"error {number}")

    errors = live.snapshot(10.5)["last_errors"]

    assert [each["error"] for each in errors] == [f"error {number}" for number in range(9, 1, -1)]
    assert errors[0] == {"age_s": 1.5, "status": 400, "error": "error 9"}


def test_nothing_happened_is_shown_as_nothing_rather_than_zero() -> None:
    shown = Live().snapshot(50.0)

    assert shown["padding_share"] is None
    assert (shown["batch_rows"], shown["release_reasons"], shown["last_errors"]) == ([], {}, [])


# -- the contract


def test_live_json_is_what_the_page_was_promised() -> None:
    with Site({"doubling": doubling()}, max_batch_size=4, max_queue_rows=8, timeout_s=7.0) as site:
        site.infer("doubling", x([1, 2]), id="a")
        site.infer("doubling", x(*[[1, 2]] * 5))
        site.infer("doubling", x(*[[1, 2]] * 9))
        shown = site.get("/live.json").json
        example = site.request("POST", "/v2/models/doubling/infer", json.dumps(shown["models"][0]["example"]).encode()).status

    assert set(shown) == {"server", "models"}
    server = shown["server"]
    assert {k: server[k] for k in server if k != "uptime_s"} == {
        "name": "nograd", "version": __version__, "ready": True, "draining": False,
    }  # fmt: skip
    assert server["uptime_s"] >= 0
    (model,) = shown["models"]
    assert set(model) == {
        "name", "version", "ready", "backend", "device", "batching", "batching_reason", "inputs", "outputs", "example",
        "limits", "queue_rows", "running_rows", "totals", "series", "latency", "batch_rows", "release_reasons",
        "padding_share", "run_ms", "wait_ms", "last_errors", "cache",
    }  # fmt: skip
    fixed = ("name", "version", "ready", "backend", "device", "batching", "batching_reason", "queue_rows", "running_rows")
    assert [model[name] for name in fixed] == ["doubling", "1", True, "fake", "cpu", "pad", "rows are independent", 0, 0]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert model["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}]
    assert model["limits"] == {"max_batch_size": 4, "max_wait_ms": 0.0, "max_queue_rows": 8, "timeout_s": 7.0}
    assert model["totals"] == {"requests": 2, "rows": 6, "errors": 1, "refused": 0, "batches": 3}
    assert set(model["series"]) == {"seconds", *SERIES}
    assert model["series"]["seconds"] == 60
    assert all(len(model["series"][name]) == 60 for name in SERIES)
    assert set(model["latency"]) == {"count", "p50_ms", "p95_ms", "p99_ms", "max_ms"}
    assert model["latency"]["count"] == 2
    assert set(model["run_ms"]) == set(model["wait_ms"]) == {"p50_ms", "p95_ms", "p99_ms", "max_ms"}
    assert model["batch_rows"] == [[1, 2], [4, 1]]
    assert sum(model["release_reasons"].values()) == 3
    assert model["padding_share"] == 0.0
    (error,) = model["last_errors"]
    assert (error["status"], error["error"].split(";")[0]) == (413, "the request has 9 rows")
    assert error["age_s"] >= 0
    assert example == 200
