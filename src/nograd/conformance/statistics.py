"""S: the extensions statistics and model_configuration, and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nograd.client.http import Answer
from nograd.client.requests import rows_of, varied
from nograd.conformance.item import Case, announced, answered, compat, judge_cases, must
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict

__all__ = ["ITEMS"]

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
BATCH_DURATIONS = ("compute_input", "compute_infer", "compute_output")


def statistics(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item S1."""
    before = target.get(f"{target.path}/stats")
    for path, answer in ((f"{target.path}/stats", before), ("/v2/models/stats", target.get("/v2/models/stats"))):
        found = next(iter(entries(answer, target.model)), None)
        missing = _missing(found) if found is not None else [f"model_stats with {target.model}"]
        yield f"GET {path}", f"statistics: {', '.join(missing) or 'whole'}", answer, not missing
    fresh = varied(target.request, 4242)  # a request that no cache has seen, except in an earlier examination
    counted = target.infer(fresh)
    after = target.get(f"{target.path}/stats")
    grown = _inferences(after, target.model) - _inferences(before, target.model)
    if counted.status == 200:
        rows = rows_of(fresh) if target.is_batched else 1
        was_cached = _hits(after, target.model) > _hits(before, target.model)
        wanted = f"an increase of inference_count by at least {rows}, not by {grown}, or a cache hit"
        yield "statistics after a request", wanted, after, grown >= rows or was_cached


def entries(answer: Answer, model: str) -> list[Mapping[str, Any]]:
    """Return the statistics of all versions of a model; none if they cannot be parsed."""
    found = answer.json
    listed = found.get("model_stats") if isinstance(found, dict) and answer.status == 200 else None
    if not isinstance(listed, list):
        return []
    return [each for each in listed if isinstance(each, dict) and each.get("name") == model]


def _missing(found: Mapping[str, Any]) -> list[str]:
    """Return the required fields that the statistics lack."""
    missing = [key for key in ("last_inference", "inference_count", "execution_count") if not _is_count(found.get(key))]
    times = found.get("inference_stats")
    times = times if isinstance(times, dict) else {}
    missing += [f"inference_stats.{key}" for key in DURATIONS if not _is_duration(times.get(key))]
    batches = found.get("batch_stats")
    if not isinstance(batches, list):
        return [*missing, "batch_stats"]
    for each in batches:
        if not isinstance(each, dict) or not _is_count(each.get("batch_size")):
            missing.append("batch_stats.batch_size")
        else:
            missing += [f"batch_stats.{key}" for key in BATCH_DURATIONS if not _is_duration(each.get(key))]
    return missing


def _is_count(found: Any) -> bool:
    return type(found) is int and found >= 0


def _is_duration(found: Any) -> bool:
    return isinstance(found, dict) and _is_count(found.get("count")) and _is_count(found.get("ns"))


def _inferences(answer: Answer, model: str) -> int:
    """Return the rows run by all versions, because the server chooses the version that answers."""
    counts = (each.get("inference_count") for each in entries(answer, model))
    return sum(count for count in counts if isinstance(count, int))


def _hits(answer: Answer, model: str) -> int:
    times = (each.get("inference_stats") for each in entries(answer, model))
    hits = (each.get("cache_hit") for each in times if isinstance(each, dict))
    return sum([int(each["count"]) for each in hits if isinstance(each, dict) and _is_duration(each)])


def configuration(target: ServerTarget) -> Verdict:
    """Check item S2."""
    answer = target.get(f"{target.path}/config")
    found = answer.json if answer.status == 200 and isinstance(answer.json, dict) else {}
    is_right = (
        found.get("name") == target.model
        and _is_count(found.get("max_batch_size"))
        and all(isinstance(found.get(key), list) and found[key] for key in ("input", "output"))
        and all("name" in each and "data_type" in each and "dims" in each for key in ("input", "output") for each in found[key])
    )
    wanted = "name, max_batch_size, input and output with name, data_type and dims"
    return judge_cases([(f"GET {target.path}/config", wanted, answer, is_right)])


def metrics(target: ServerTarget) -> Verdict:
    """Check item S3."""
    answer = target.get("/metrics")
    is_right = answer.status == 200 and b"# TYPE " in answer.body
    return judge_cases([("GET /metrics", "200 and Prometheus' text format", answer, is_right)])


ITEMS: tuple[Check[ServerTarget], ...] = (
    must("statistics.S1", "Statistics have Triton's form, and count requests", "read them, before and after a request",
         announced("statistics", answered(statistics)),
         "Triton, extension_statistics.md, $stats_model_response: model_stats with name, version, last_inference, "
         "inference_count, execution_count, inference_stats, batch_stats; perf_analyzer reads them"),
    must("statistics.S2", "The configuration has Triton's form", "read it", announced("model_configuration", configuration),
         "Triton, extension_model_configuration.md: the JSON representation of ModelConfig (model_config.proto)"),
    compat("statistics.S3", "Metrics have Prometheus' format", "read /metrics", metrics,
           "Prometheus' text format 0.0.4; Triton serves it on a separate port"),
)  # fmt: skip
