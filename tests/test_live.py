"""What happened in the last minute, and /live.json, which the page reads: its contract is here."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd import __version__
from nograd.batching import BatchRecord
from nograd.server.telemetry.histogram import Histogram, by_size, by_size_and_time, by_time
from nograd.server.telemetry.live import describe_minute
from nograd.server.telemetry.minute import LONGEST_ERROR
from nograd.server.telemetry.store import ModelStore
from tests.fakes import Site, doubling, x

SERIES = ("requests", "errors", "faults", "rows", "p50_ms", "p95_ms", "p99_ms", "queue_rows", "batch_rows")


def record(
    rows: int = 1, *, reason: Any = "device free", waits: tuple[float, ...] = (0.0,), padding: float = 0.0
) -> BatchRecord:
    return BatchRecord(rows, len(waits), reason, run_s=0.25, waited_s=waits, padding_share=padding, failed=0)


def times_histogram() -> Histogram[float]:
    return Histogram(by_time)


def runs_histogram() -> Histogram[tuple[int, float]]:
    return Histogram(by_size_and_time)


# -- percentiles


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_at_most_four_percent_too_high_and_never_above_the_maximum(times: list[float], percent: int) -> None:
    histogram = times_histogram()
    for seconds in times:
        histogram.add(seconds)

    exact_ms = sorted(times)[math.ceil(len(times) * percent / 100) - 1] * 1000
    found_ms = histogram.percentile_ms(percent)

    assert found_ms is not None
    assert exact_ms * (1 - 1e-9) <= found_ms <= exact_ms * 1.04 * (1 + 1e-9)
    assert found_ms <= max(times) * 1000


@given(st.lists(st.floats(0, 10), max_size=20), st.lists(st.floats(0, 10), max_size=20))
def test_merged_histograms_are_the_histogram_of_all(first: list[float], second: list[float]) -> None:
    apart, whole = [times_histogram(), times_histogram()], times_histogram()
    for histogram, times in zip(apart, (first, second), strict=True):
        histogram.extend(times)
        whole.extend(times)
    merged = Histogram.merged(by_time, apart)

    assert [merged.percentile_ms(each) for each in range(1, 101)] == [whole.percentile_ms(each) for each in range(1, 101)]
    assert (merged.total, merged.maximum) == (whole.total, whole.maximum)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.integers(0, 30))
def test_when_times_are_sorted_in_makes_no_difference(times: list[float], until: int) -> None:
    looked_at, whole = times_histogram(), times_histogram()
    looked_at.extend(times[:until])
    assert looked_at.total == len(times[:until])
    looked_at.extend(times[until:])
    whole.extend(times)

    assert [looked_at.percentile_ms(each) for each in (1, 50, 100)] == [whole.percentile_ms(each) for each in (1, 50, 100)]


def test_an_empty_histogram_has_no_percentile() -> None:
    assert times_histogram().percentile_ms(50) is None


# -- times of runs by size


def test_runs_are_told_by_their_size_with_the_middle_and_the_spread() -> None:
    runs = runs_histogram()
    for ms in range(1, 101):
        runs.add((4, ms / 1000))
    runs.add((2, 0.5))

    two, four = by_size(runs.tally)

    assert (two["size"], two["count"]) == (2, 1)
    assert two["p10_ms"] == two["p50_ms"] == two["p90_ms"] == pytest.approx(500, rel=0.04)
    assert (four["size"], four["count"]) == (4, 100)
    assert [four[name] for name in ("p10_ms", "p50_ms", "p90_ms")] == pytest.approx([10, 50, 90], rel=0.04)


@given(st.lists(st.integers(1, 1_000_000), max_size=40))
def test_sizes_up_to_64_are_told_apart_and_larger_ones_within_a_fifteenth(sizes: list[int]) -> None:
    for size in sizes:
        runs = runs_histogram()
        runs.add((size, 0.001))
        (group,) = by_size(runs.tally)
        assert group["size"] == size if size <= 64 else group["size"] == pytest.approx(size, rel=1 / 15)


def test_merged_runs_are_the_runs_of_all() -> None:
    first, second, whole = runs_histogram(), runs_histogram(), runs_histogram()
    for number in range(50):
        (first if number % 3 else second).add((number % 5 + 1, number / 100))
        whole.add((number % 5 + 1, number / 100))

    assert by_size(Histogram.merged(by_size_and_time, [first, second]).tally) == by_size(whole.tally)
    assert by_size(Histogram.merged(by_size_and_time, []).tally) == []


# -- the last minute


def test_series_are_the_sixty_whole_seconds_before_now() -> None:
    store = ModelStore()
    store.note_request(100.2, 0.010)
    store.note_request(100.9, 0.030)
    store.note_batch(100.9, record(3), queue_rows=5, size=1)
    store.note_batch(100.95, record(1), queue_rows=2, size=1)
    store.note_error(101.5, 503, 0.0, "the queue is full")
    store.note_request(103.0, 0.020)  # this second is not over at 103.9

    series = describe_minute(store.minute, 103.9)["series"]

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
    store = ModelStore()
    for second in range(200):
        store.note_request(float(second), 0.01)
    assert describe_minute(store.minute, 200.0)["latency"]["count"] == 60
    assert sum(describe_minute(store.minute, 200.0)["series"]["requests"]) == 60

    later = describe_minute(store.minute, 1000.0)

    assert later["latency"] == {"count": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None, "max_ms": None}
    assert sum(later["series"]["requests"]) == 0


def test_batches_are_summed_up_by_size_reason_and_padding() -> None:
    store = ModelStore()
    store.note_batch(10.0, record(4, reason="full", waits=(0.5, 0.125), padding=0.5), 0, 4)
    store.note_batch(10.5, record(1), 0, 1)
    store.note_batch(11.5, record(1), 0, 1)

    shown = describe_minute(store.minute, 12.0)

    assert shown["batch_rows"] == [(1, 2), (4, 1)]
    assert shown["release_reasons"] == {"device free": 2, "full": 1}
    assert shown["padding_share"] == 0.5 * 4 / 6
    assert shown["run_ms"]["max_ms"] == 250
    assert shown["wait_ms"]["max_ms"] == 500


def test_the_last_errors_are_the_newest_eight_newest_first() -> None:
    store = ModelStore()
    for number in range(10):
        store.note_error(float(number), 400, 0.0, f"error {number}")

    errors = describe_minute(store.minute, 10.5)["last_errors"]

    assert [each["error"] for each in errors] == [f"error {number}" for number in range(9, 1, -1)]
    assert errors[0] == {"age_s": 1.5, "first_s": 1.5, "count": 1, "status": 400, "error": "error 9"}


def test_equal_errors_are_one_with_their_number() -> None:
    store = ModelStore()
    for number in range(100):
        store.note_error(float(number), 504, 0.0, "no answer after 1 s")
        store.note_error(float(number), 503, 0.0, "no answer after 1 s")

    errors = describe_minute(store.minute, 100.0)["last_errors"]

    assert errors == [
        {"age_s": 1.0, "first_s": 100.0, "count": 100, "status": status, "error": "no answer after 1 s"}
        for status in (503, 504)
    ]


def test_what_a_client_sent_is_kept_within_bounds_where_an_error_quotes_it() -> None:
    store = ModelStore()
    store.note_error(1.0, 400, 0.0, "x" * 1_000_000)

    assert [len(each["error"]) for each in describe_minute(store.minute, 2.0)["last_errors"]] == [LONGEST_ERROR]


def test_errors_from_500_on_are_the_servers_fault() -> None:
    store = ModelStore()
    for status in (400, 404, 500, 503, 504):
        store.note_error(10.0, status, 0.0, "an error")

    series = describe_minute(store.minute, 11.0)["series"]

    assert (series["errors"][-1], series["faults"][-1]) == (5, 3)


def test_runs_of_the_last_minute_are_told_by_size_and_failed_batches_are_none() -> None:
    store = ModelStore()
    store.note_batch(1.0, record(2), 0, 2)
    store.note_batch(100.0, record(3), 0, 96)
    store.note_batch(100.5, dataclasses.replace(record(4), runs=3), 0, 4)

    (run,) = describe_minute(store.minute, 101.0)["runs"]

    assert (run["size"], run["count"]) == (100, 1)
    assert run["p50_ms"] == pytest.approx(250, rel=0.04)


def test_nothing_happened_is_shown_as_nothing_rather_than_zero() -> None:
    shown = describe_minute(ModelStore().minute, 50.0)

    assert shown["padding_share"] is None
    assert (shown["batch_rows"], shown["release_reasons"], shown["last_errors"], shown["runs"]) == ([], {}, [], [])


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
        "name": "nograd", "version": __version__, "ready": True, "draining": False, "lost": False,
    }  # fmt: skip
    assert server["uptime_s"] >= 0
    (model,) = shown["models"]
    assert set(model) == {
        "name", "version", "ready", "backend", "device", "batching", "batching_reason", "size_limits", "inputs", "outputs",
        "independence", "example", "limits", "queue_rows", "running_rows", "totals", "series", "latency", "batch_rows",
        "release_reasons", "padding_share", "run_ms", "wait_ms", "last_errors", "cache", "code", "cost", "runs",
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
    assert set(model["cost"]) == {"unit", "source", "sizes", "ms"}
    assert (model["cost"]["unit"], model["cost"]["source"]) == ("rows", "measured at the start")
    assert len(model["cost"]["sizes"]) == len(model["cost"]["ms"])
    assert model["cost"]["sizes"][-1] == 4
    assert [(run["size"], run["count"]) for run in model["runs"]] == [(1, 2), (4, 1)]
    (error,) = model["last_errors"]
    assert (error["count"], error["first_s"]) == (1, error["age_s"])
    assert (error["status"], error["error"].split(";")[0]) == (413, "the request has 9 rows")
    assert error["age_s"] >= 0
    assert example == 200
