"""The extensions statistics and model_configuration (S1, S2): in Triton's form, and numbers that add up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from nograd import Predictor, Signature, TensorSpec
from nograd.batching import BatchRecord, Execution
from nograd.core.independence import Independence
from nograd.core.tensors import Batch
from nograd.server.protocol.triton_config import configuration
from nograd.server.settings.definition import ServeConfig
from nograd.server.telemetry.statistics import LookupCounts, describe_totals
from nograd.server.telemetry.store import FOLD_AT, ModelStore
from tests.fakes import GATE, OUTPUT, Fake, Gate, Site, X, asgi, doubling, flat_cost, x

DURATIONS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request is cut but by the settings."""
    monkeypatch.setattr("nograd.server.models.served.measure_cost", flat_cost)


def record(*executions: Execution, waited_s: tuple[float, ...]) -> BatchRecord:
    rows = sum(each.rows for each in executions)
    return BatchRecord(rows, len(waited_s), "full", 1.0, waited_s, 0.0, 0, executions=executions, answered_s=waited_s)


def time(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def stats(site: Site, path: str = "/v2/models/stats") -> dict[str, Any]:
    """What is told of the only model."""
    reply = site.get(path)
    assert reply.status == 200, reply.body
    (found,) = reply.json["model_stats"]
    return dict(found)


def counts(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: each["count"] for name, each in found["inference_stats"].items()}


def test_every_request_of_a_batch_counts_the_batch_s_time_and_a_batch_counts_it_once() -> None:
    store = ModelStore()
    store.note_batch(95.0, record(Execution(4, 0.25, 2.0, 0.5), waited_s=(1.0, 2.0, 3.0)), 0, 4)
    store.note_batch(96.0, record(Execution(1, 0.0, 1.0, 0.0), waited_s=(0.5,)), 0, 1)
    store.note_batch(96.5, record(Execution(4, 0.25, 4.0, 0.5), waited_s=(0.0,)), 0, 4)
    for now, latency_s in ((95.0, 5.0), (95.5, 2.0), (96.0, 3.0), (96.5, 4.0), (98.0, 1.0), (99.0, 5.0)):
        store.note_request(now, latency_s)
    store.note_error(99.5, 400, 0.125, "an error")

    found = describe_totals(store, LookupCounts(hits=1, hit_s=0.5, misses=5, miss_s=0.25), now=100.0, epoch_s=1_700_000_000.0)

    second = 1_000_000_000
    assert found == {
        "last_inference": 1_699_999_999_000,
        "inference_count": 9,
        "execution_count": 3,
        "inference_stats": {
            "success": time(6, 20 * second),
            "fail": time(1, second // 8),
            "queue": time(6, 13 * second // 2),
            "compute_input": time(5, second),
            "compute_infer": time(5, 11 * second),
            "compute_output": time(5, 2 * second),
            "cache_hit": time(1, second // 2),
            "cache_miss": time(5, second // 4),
        },
        "batch_stats": [
            {"batch_size": 1, "compute_input": time(1, 0), "compute_infer": time(1, second), "compute_output": time(1, 0)},
            {
                "batch_size": 4,
                "compute_input": time(2, second // 2),
                "compute_infer": time(2, 6 * second),
                "compute_output": time(2, second),
            },
        ],
    }


def test_batches_are_added_up_before_they_are_too_many_to_keep() -> None:
    store = ModelStore()
    for _ in range(2 * FOLD_AT + 3):
        store.note_batch(1.0, record(Execution(2, 0.0, 0.5, 0.0), waited_s=(0.25,)), 0, 2)

    assert len(store._batches) == 3
    assert describe_totals(store, LookupCounts(), 0.0, 0.0)["inference_count"] == 2 * (2 * FOLD_AT + 3)


def test_a_model_that_was_asked_nothing_has_nothing_but_zeros() -> None:
    with Site({"doubling": doubling()}) as site:
        found = stats(site)

    assert found == {
        "name": "doubling",
        "version": "1",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {name: time(0, 0) for name in DURATIONS},
        "batch_stats": [],
    }


def test_requests_rows_runs_and_failures_are_counted_apart() -> None:
    with Site({"doubling": doubling()}, max_batch_size=4) as site:
        site.infer("doubling", x([1, 2]))
        site.infer("doubling", x([1, 2], [3, 4], [5, 6]))
        site.infer("doubling", x(*[[float(i), 0.0] for i in range(10)]))  # runs in parts of 4, 4 and 2 rows
        site.infer("doubling", {**x([1, 2]), "name": "y"})
        site.request("POST", "/v2/models/doubling/infer", b"{", headers={"content-length": f"{10**10}"})
        found = stats(site, "/v2/models/doubling/stats")

    assert found["inference_count"] == 14
    assert found["execution_count"] == 5
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]] == [
        (1, 1), (2, 1), (3, 1), (4, 2),
    ]  # fmt: skip
    assert counts(found) == {
        "success": 3, "fail": 2, "queue": 3, "compute_input": 3, "compute_infer": 3, "compute_output": 3,
        "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert found["last_inference"] > 1_700_000_000_000


def test_the_parts_of_a_request_s_time_are_no_more_than_the_whole() -> None:
    with Site({"doubling": doubling()}) as site:
        for i in range(5):
            site.infer("doubling", x([float(i), 2]))
        times = {name: each["ns"] for name, each in stats(site)["inference_stats"].items()}

    parts = [times[name] for name in ("queue", "compute_input", "compute_infer", "compute_output")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= times["success"] + 4  # each is rounded


def test_what_waits_behind_a_batch_counts_its_wait_and_shares_a_run() -> None:
    gate = Gate()
    with Site({"gated": gate.model()}, max_batch_size=2) as site:

        async def story() -> None:
            path = "/v2/models/gated/infer"
            first = asyncio.ensure_future(asgi(site.app, "POST", path, json.dumps({"inputs": [x([GATE, 0])]}).encode()))
            await gate.wait_entered()
            body = json.dumps({"inputs": [x([1, 2])]}).encode()
            others = [asyncio.ensure_future(asgi(site.app, "POST", path, body)) for _ in range(2)]
            while site.service.model("gated").snapshot()["queue_rows"] < 2:  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0)
            gate.opened.set()
            await asyncio.gather(first, *others)

        site.run(story())
        found = stats(site)

    assert (found["inference_count"], found["execution_count"]) == (3, 2)
    assert counts(found)["compute_infer"] == 3
    by_batch = {each["batch_size"]: each["compute_infer"]["ns"] for each in found["batch_stats"]}
    assert abs(found["inference_stats"]["compute_infer"]["ns"] - (by_batch[1] + 2 * by_batch[2])) <= 2  # rounded


def test_a_run_that_fails_is_no_execution_and_its_request_is_a_failure() -> None:
    def run(batch: Batch) -> Batch:
        if (batch["x"] == 13).any():
            raise ValueError("thirteen")
        return {"output": batch["x"]}

    with Site({"fragile": Fake(run, Signature((X,), (OUTPUT,)))}) as site:
        site.infer("fragile", x([13, 0]))
        site.infer("fragile", x([1, 0]))
        found = stats(site)

    assert (found["inference_count"], found["execution_count"]) == (1, 1)
    assert (counts(found)["success"], counts(found)["fail"], counts(found)["queue"]) == (1, 1, 1)


def test_answers_that_were_kept_are_hits_and_no_inferences() -> None:
    with Site({"doubling": doubling()}, cache_mb=1) as site:
        for _ in range(3):
            site.infer("doubling", x([1, 2]))
        site.infer("doubling", x([1, 2], [3, 4]))  # one row of it is known
        found = stats(site)

    assert (found["inference_count"], found["execution_count"]) == (2, 2)
    assert counts(found) == {
        "success": 4, "fail": 0, "queue": 4, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
        "cache_hit": 2, "cache_miss": 2,
    }  # fmt: skip
    assert found["inference_stats"]["cache_hit"]["ns"] > 0


def test_all_models_one_model_one_version_and_none() -> None:
    with Site({"a": doubling(), "b": doubling()}) as site:
        names = [each["name"] for each in site.get("/v2/models/stats").json["model_stats"]]
        one = stats(site, "/v2/models/b/versions/1/stats")
        nobody, no_version = site.get("/v2/models/c/stats"), site.get("/v2/models/b/versions/2/stats")
        wrong = site.request("POST", "/v2/models/stats")

    assert names == ["a", "b"]
    assert one["name"] == "b"
    assert (nobody.status, no_version.status, wrong.status) == (404, 404, 405)
    assert "there is no model 'c'" in nobody.error


# -- S2


def test_the_configuration_tells_what_a_server_of_triton_s_would() -> None:
    with Site({"doubling": doubling()}, max_batch_size=16, max_wait_ms=2.5, max_queue_rows=64, timeout_s=3.0) as site:
        reply = site.get("/v2/models/doubling/config")
        again = site.get("/v2/models/doubling/versions/1/config")

    assert reply.json == again.json == {
        "name": "doubling",
        "platform": "pytorch_fake",
        "backend": "fake",
        "version_policy": {"specific": {"versions": [1]}},
        "max_batch_size": 16,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2], "format": "FORMAT_NONE", "optional": False}],
        "output": [{"name": "output", "data_type": "TYPE_FP32", "dims": [2]}],
        "instance_group": [{"name": "doubling", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
        "parameters": {
            "batching": {"string_value": "pad"},
            "batching_reason": {"string_value": "rows are independent"},
            "independence": {"string_value": "not measured"},
        },
        "dynamic_batching": {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 2500,
            "preserve_ordering": False,
            "priority_levels": 5,
            "default_priority_level": 3,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": 3_000_000,
                "allow_timeout_override": True,
                "max_queue_size": 64,
            },
        },
    }  # fmt: skip


SPECS = (TensorSpec("text", "bytes"), TensorSpec("ids", "int64", ("tokens",)), TensorSpec("mask", "bool", ("tokens",)))


def told(version: str = "1", device: str = "cpu", **more: Any) -> dict[str, Any]:
    backend = Fake(dict, Signature(SPECS, SPECS[1:], **more), lanes=2)
    backend.device = device
    metadata = {"name": "m", "platform": "p"}
    return configuration(
        metadata, version, SPECS, SPECS[1:], backend=backend, max_batch_size=8, limits=ServeConfig(), is_cached=True
    )


def test_text_is_a_string_a_row_s_varying_size_is_minus_one_and_rows_are_no_dimension() -> None:
    assert [(each["data_type"], each["dims"]) for each in told()["input"]] == [
        ("TYPE_STRING", []), ("TYPE_INT64", [-1]), ("TYPE_BOOL", [-1]),
    ]  # fmt: skip


def test_a_gpu_lanes_and_versions_that_are_words() -> None:
    found = told(version="summer", device="cuda:1")

    assert found["instance_group"] == [{"name": "m", "kind": "KIND_GPU", "count": 2, "gpus": [1]}]
    assert found["version_policy"] == {"all": {}}
    assert found["response_cache"] == {"enable": True}


def test_a_model_that_is_never_batched_says_so_by_having_no_batcher() -> None:
    found = told(batching="alone", reason="rows influence each other")

    assert "dynamic_batching" not in found
    assert found["parameters"]["batching_reason"] == {"string_value": "rows influence each other"}


def test_the_measured_independence_of_rows_is_configured_with_its_figures() -> None:
    found = told(independence=Independence(2.5e-7, size_effect=1e-7, num_batches=10, max_rows=5, backend="onnx"))["parameters"]

    assert found["independence_bound"] == {"string_value": "2.5e-07"}
    assert found["independence_tolerance"] == {"string_value": "1e-05"}
    assert found["independence_size_effect"] == {"string_value": "1e-07"}
    assert found["independence"]["string_value"].startswith("independent: other rows move a row by at most 2.5e-07 of the")


def test_size_limits_are_configured_if_the_model_has_some() -> None:
    found = told(max_sizes={"tokens": 128}, min_sizes={"tokens": 3})

    assert found["parameters"]["size_limits"] == {"string_value": "tokens 3 to 128"}
    assert "size_limits" not in told()["parameters"]


def test_what_a_client_sees_is_configured_also_behind_functions_of_one_item() -> None:
    item = TensorSpec("text", "bytes")
    spec = TensorSpec("x", "float32", (2,))
    predictor = Predictor(
        Fake(lambda batch: {"output": batch["x"]}, Signature((spec,), (OUTPUT,))),
        preprocess=lambda text: {"x": np.array([len(text), 1], np.float32)},
        postprocess=lambda row: "long" if row[0] > 3 else "short",
        item=item,
        sample="hello",
    )
    with Site({"length": predictor}) as site:
        found = site.get("/v2/models/length/config").json

    assert [(each["name"], each["data_type"]) for each in found["input"]] == [("text", "TYPE_STRING")]
    assert [(each["name"], each["data_type"]) for each in found["output"]] == [("answer", "TYPE_STRING")]


def test_what_is_announced() -> None:
    with Site({"doubling": doubling()}) as site:
        announced = site.get("/v2").json["extensions"]

    assert {"binary_tensor_data", "statistics", "model_configuration", "schedule_policy"} <= set(announced)


@pytest.mark.parametrize("path", ["/v2/models/doubling/statistics", "/v2/models/doubling/config/more"])
def test_what_there_is_not_names_what_there_is(path: str) -> None:
    with Site({"doubling": doubling()}) as site:
        assert "a model has '', '/ready' and '/infer' and '/stats' and '/config'" in site.get(path).error
