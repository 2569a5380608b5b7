"""/metrics, read with Prometheus' own parser, against what was sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nograd import __version__
from nograd.batching import BatchRecord
from nograd.server.telemetry.metrics import Metrics, ModelMetrics
from nograd.server.telemetry.store import FOLD_AT, ModelStore
from nograd.server.workers.merging import of_workers
from tests.fakes import Reply, Site, doubling, x

Samples = dict[tuple[str, ...], float]


def samples(text: bytes) -> Samples:
    """Every sample by its name and its labels' values in the order of their names; bounds as floats are written."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = {name: str(float(value)) if name == "le" else value for name, value in sample.labels.items()}
            found[sample.name, *(labels[name] for name in sorted(labels))] = sample.value
    return found


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"doubling": doubling(), "idle": doubling()}, max_batch_size=4, max_queue_rows=8, max_body_bytes=1000) as site:
        yield site


def scrape(site: Site) -> Samples:
    return samples(site.get("/metrics").body)


def test_counts_are_what_was_sent(site: Site) -> None:
    for rows in (1, 2, 6):
        assert site.infer("doubling", x(*[[1, 2]] * rows)).status == 200
    for _ in range(2):
        assert site.infer("doubling", x([1, 2]), outputs=[{"name": "y"}]).status == 400
    assert site.infer("doubling", x(*[[1, 2]] * 9)).status == 413

    found = scrape(site)

    assert {key[2]: value for key, value in found.items() if key[:2] == ("nograd_requests_total", "doubling")} == {
        "200": 3, "400": 2, "413": 1,
    }  # fmt: skip
    assert found["nograd_rows_total", "doubling"] == 9
    assert sum(value for key, value in found.items() if key[:2] == ("nograd_batches_total", "doubling")) == 4
    assert found["nograd_request_seconds_count", "doubling"] == 3
    assert found["nograd_queue_seconds_count", "doubling"] == 4
    assert found["nograd_run_seconds_count", "doubling"] == 4
    assert (found["nograd_batch_rows_count", "doubling"], found["nograd_batch_rows_sum", "doubling"]) == (4, 9)
    assert [found["nograd_batch_rows_bucket", bound, "doubling"] for bound in ("1.0", "2.0", "4.0", "inf")] == [1, 3, 4, 4]
    assert found["nograd_padding_ratio_sum", "doubling"] == 0
    assert found["nograd_queue_rows", "doubling"] == 0
    assert found["nograd_request_seconds_count", "idle"] == 0


def body_too_long(site: Site) -> Reply:
    return site.request("POST", "/v2/models/doubling/infer", b"...", headers={"content-length": "1001"})


def body_compressed(site: Site) -> Reply:
    return site.request("POST", "/v2/models/doubling/infer", b"...", headers={"content-encoding": "br"})


def test_what_is_refused_before_it_is_read_is_counted_too(site: Site) -> None:
    statuses = [str(refuse(site).status) for refuse in (body_too_long, body_compressed, body_compressed)]

    found = scrape(site)

    assert statuses == ["413", "501", "501"]
    assert found.get(("nograd_requests_total", "doubling", "413")) == 1
    assert found.get(("nograd_requests_total", "doubling", "501")) == 2


def test_counters_never_go_back_and_asking_changes_nothing(site: Site) -> None:
    site.infer("doubling", x([1, 2]))

    def is_ours(key: tuple[str, ...]) -> bool:
        return not key[0].endswith("_created") and not key[0].startswith("process_")

    first = {key: value for key, value in scrape(site).items() if is_ours(key)}
    assert {key: value for key, value in scrape(site).items() if is_ours(key)} == first
    site.infer("doubling", x([1, 2]))

    assert all(value >= first.get(key, 0) for key, value in scrape(site).items() if is_ours(key))


def test_readiness_is_a_gauge_that_falls_when_the_server_drains(site: Site) -> None:
    before = scrape(site)
    site.service.drain()
    after = scrape(site)

    assert [each["nograd_model_ready", "doubling"] for each in (before, after)] == [1, 0]


def test_predictions_are_held_against_what_runs_took() -> None:
    metrics = Metrics()
    store = metrics.store("m")
    for run_s, predicted_s, runs in ((0.02, 0.01, 1), (0.009, 0.01, 1), (5.0, 0.0, 1), (9.0, 0.01, 3)):
        store.note_batch(1.0, BatchRecord(1, 1, "full", run_s, (0.0,), 0.0, 0, predicted_s=predicted_s, runs=runs), 0, 1)

    found = samples(metrics.text())

    assert found["nograd_cost_error_ratio_count", "m"] == 2
    assert found["nograd_cost_error_ratio_sum", "m"] == pytest.approx(2.9)
    assert [found["nograd_cost_error_ratio_bucket", bound, "m"] for bound in ("0.8", "0.9", "1.5", "2.0")] == [0, 1, 1, 2]


def test_compilations_and_backlog_are_what_backend_and_batcher_say() -> None:
    metrics = Metrics()
    model = ModelMetrics(metrics, "m")
    for compilations in (0, 2, 2, 3):
        model.refresh(compilations)
    metrics.refresh_model("m", ready=True, queue_rows=3, backlog_s=0.25)

    found = samples(metrics.text())

    assert (found["nograd_compilations_total", "m"], found["nograd_backlog_seconds", "m"]) == (3, 0.25)


def test_the_process_its_version_and_its_liveness_are_there(site: Site) -> None:
    found = scrape(site)

    assert found["nograd_build_info", __version__] == 1
    assert found["nograd_live",] == 1
    assert found["process_resident_memory_bytes",] > 0
    assert found["process_open_fds",] > 0


DOCS = (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
DASHBOARD = json.loads((Path(__file__).parent.parent / "deploy" / "grafana" / "nograd.json").read_text("utf-8"))


def test_every_metric_is_in_the_docs_and_every_one_in_the_docs_exists(site: Site) -> None:
    families = text_string_to_metric_families(site.get("/metrics").body.decode() + of_workers(2, (0, 1), {}))
    there = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    ours = {name for name in there if name.startswith("nograd_") and not name.endswith("_created")}

    assert set(re.findall(r"^\| `(nograd_\w+)`", DOCS, re.MULTILINE)) == ours


def test_every_metric_that_the_dashboard_asks_for_is_there_after_traffic() -> None:
    with Site({"doubling": doubling()}, cache_mb=1, access_log=True) as site:
        for _ in range(2):
            assert site.infer("doubling", x([1, 2])).status == 200
        there = {key[0] for key in scrape(site)}
        site.service.close()
    asked = {
        name
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:nograd|process)_\w+", target["expr"])
    }

    assert len(asked) > 10
    assert asked <= there, asked - there


def test_the_content_type_is_prometheus_text_format(site: Site) -> None:
    assert site.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("name", ['quote " and \\', "line\nfeed", "ü漢"])
def test_a_models_name_may_be_anything(name: str) -> None:
    with Site({name: doubling()}) as site:
        assert scrape(site)["nograd_model_ready", name] == 1


@given(st.lists(st.floats(0, 60) | st.sampled_from([0.0005, 0.001, 30.0]), max_size=30))
def test_a_histogram_counts_every_value_up_to_and_with_its_bound(latencies: list[float]) -> None:
    metrics = Metrics()
    store = metrics.store("m")
    for seconds in latencies:
        store.note_request(1.0, seconds)

    found = samples(metrics.text())

    for key, value in found.items():
        if key[0] == "nograd_request_seconds_bucket":
            assert value == sum(seconds <= float(key[1]) for seconds in latencies)
    assert found["nograd_request_seconds_count", "m"] == len(latencies)
    assert found["nograd_request_seconds_sum", "m"] == pytest.approx(sum(latencies))
    assert found["nograd_requests_total", "m", "200"] == len(latencies)


def test_a_server_that_nobody_asks_keeps_no_more_than_a_few_thousand_values() -> None:
    store = ModelStore()
    for _ in range(3 * FOLD_AT):
        store.note_request(1.0, 0.001)
        store.note_batch(1.0, BatchRecord(1, 1, "full", 0.001, (0.0,), 0.0, 0), 0, 1)
        assert len(store._latencies) <= FOLD_AT
        assert len(store._batches) <= FOLD_AT
        assert max(store._totals.latency.pending, store._totals.wait.pending) <= FOLD_AT


def of_models(metrics: Metrics) -> Samples:
    return {key: value for key, value in samples(metrics.text()).items() if "m" in key}


def test_the_counts_of_a_version_that_was_unloaded_stay_and_its_store_does_not() -> None:
    metrics = Metrics()
    old, new = metrics.store("m"), metrics.store("m")
    old.note_request(1.0, 0.003)
    old.note_error(1.5, 404, 0.0, "an error")
    old.note_batch(2.0, BatchRecord(3, 1, "full", 0.5, (0.25,), 0.0, 0), 0, 3)
    new.note_request(2.5, 0.3)
    before = of_models(metrics)
    for _ in range(2):
        metrics.remove_store("m", old)
    after = of_models(metrics)
    new.note_request(3.0, 0.3)

    assert after == before
    assert samples(metrics.text())["nograd_requests_total", "m", "200"] == 3
    assert (after["nograd_requests_total", "m", "404"], after["nograd_rows_total", "m"]) == (1, 3)
    assert after["nograd_batches_total", "m", "full"] == 1
    assert (after["nograd_queue_seconds_sum", "m"], after["nograd_run_seconds_sum", "m"]) == (0.25, 0.5)
