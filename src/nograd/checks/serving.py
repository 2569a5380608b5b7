"""Serving: check a running server with valid and invalid requests. The checks do not depend on nograd's own server."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

from nograd.client.http import Answer, ServerSubject
from nograd.client.requests import request_of, rows_of, varied, with_input
from nograd.report.verdict import Check, Verdict, error, info, passed, skipped, warning

__all__ = ["CHECKS"]

HUGE_BYTES = 2**40
"""Announced length of a body that is never sent."""

WRONG_TIMEOUT_US = 1


def check_live(server: ServerSubject) -> Verdict:
    """Request liveness and readiness."""
    answers = {path: server.get(path) for path in ("/v2/health/live", "/v2/health/ready", f"{server.model_path}/ready")}
    bad = {path: answer for path, answer in answers.items() if answer.status != 200}
    if bad:
        return error("; ".join(f"{path} returns {_describe_answer(answer)}" for path, answer in bad.items()))
    return passed(
        "the server is live, and server and model are ready", slowest_s=max(answer.seconds for answer in answers.values())
    )


def _describe_answer(answer: Answer) -> str:
    return f"{answer.status or 'no response'}: {answer.text}"


def check_metadata(server: ServerSubject) -> Verdict:
    """Read the model's metadata."""
    if not server.metadata:
        return error(f"GET {server.model_path} returns no metadata, so clients cannot know the model's inputs")
    missing = [key for key in ("name", "versions", "platform", "inputs", "outputs") if not server.metadata.get(key)]
    for tensor in (*server.metadata.get("inputs", []), *server.metadata.get("outputs", [])):
        missing += [f"{tensor.get('name', 'a tensor')}.{key}" for key in ("name", "datatype", "shape") if not tensor.get(key)]
    if missing:
        return warning(f"the model's metadata lack {', '.join(missing)}", missing=float(len(missing)))
    return passed("the metadata contain name, versions, platform, inputs and outputs")


def check_answer(server: ServerSubject) -> Verdict:
    """Send one request, and compare the answer with the metadata."""
    request = request_of(server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    answer = server.infer(request)
    if answer.status != 200:
        return error(f"a request built from the model's metadata gets {_describe_answer(answer)}", status=float(answer.status))
    faults = _faults(answer.json, server.metadata, rows_of(request))
    if faults:
        return warning(f"the answer does not match the metadata: {'; '.join(faults)}", faults=float(len(faults)))
    return passed(f"the answer matches the metadata; it took {answer.seconds * 1000:.3g} ms", seconds=answer.seconds)


def _faults(answer: Any, metadata: Mapping[str, Any], rows: int) -> list[str]:
    """Return the differences between an infer answer and the model's metadata."""
    given = {each.get("name"): each for each in (answer or {}).get("outputs", [])} if isinstance(answer, dict) else {}
    faults = [f"output {name!r} is not in the metadata" for name in given if name not in _names(metadata)]
    for spec in metadata.get("outputs", []):
        found = given.get(spec["name"])
        if found is None:
            faults.append(f"output {spec['name']!r} is missing")
        elif found.get("datatype") != spec["datatype"]:
            faults.append(f"output {spec['name']!r} is {found.get('datatype')}, not {spec['datatype']}")
        elif not found.get("shape") or found["shape"][0] != rows or len(found["shape"]) != len(spec["shape"]):
            faults.append(
                f"output {spec['name']!r} has shape {found.get('shape')} for {rows} rows; the metadata have {spec['shape']}"
            )
    return faults


def _names(metadata: Mapping[str, Any]) -> list[str]:
    return [spec["name"] for spec in metadata.get("outputs", [])]


def _judge_refusals(answers: Mapping[str, Answer], wanted: Mapping[str, tuple[int, ...]]) -> Verdict:
    """Decide from the answers to invalid requests: expected status, a sentence in `error`, and no traceback."""
    errors: list[str] = []
    warnings: list[str] = []
    for what, answer in answers.items():
        if answer.status not in wanted[what]:
            named = " or ".join(map(str, wanted[what]))
            (errors if answer.status == 0 or answer.status >= 500 or answer.status < 300 else warnings).append(
                f"{what} gets {_describe_answer(answer)}, not {named}"
            )
        elif "Traceback (most recent call last)" in answer.body.decode("utf-8", "replace"):
            warnings.append(f"{what} gets a traceback")
        elif not answer.sentence:
            warnings.append(f"{what} gets {answer.status} without a sentence in JSON's `error`")
    if errors or warnings:
        figures = {"tried": float(len(answers)), "wrong": float(len(errors) + len(warnings))}
        return (error if errors else warning)("; ".join([*errors, *warnings]), **figures)
    statuses = ", ".join(f"{what} {answer.status}" for what, answer in answers.items())
    return passed(statuses, tried=float(len(answers)))


def check_unknown(server: ServerSubject) -> Verdict:
    """Request an unknown model and an unknown version."""
    paths = {
        "an unknown model": "/v2/models/no_such_model/infer",
        "an unknown version": f"{server.model_path}/versions/999999/infer",
    }
    answers = {what: server.ask("POST", path, b'{"inputs": []}') for what, path in paths.items()}
    return _judge_refusals(answers, dict.fromkeys(answers, (404,)))


def check_bad_json(server: ServerSubject) -> Verdict:
    """Send bodies that are not JSON, not an object, or not a request."""
    bodies = {"a truncated body": b'{"inputs": [{"name"', "bytes that are not UTF-8": b"\xff\xfe{}", "a list": b"[1, 2]",
              "an empty object": b"{}", "deeply nested lists": b"[" * 5000}  # fmt: skip
    answers = {what: server.ask("POST", server.infer_path, body) for what, body in bodies.items()}
    return _judge_refusals(answers, dict.fromkeys(answers, (400,)))


def check_bad_inputs(server: ServerSubject) -> Verdict:
    """Send requests with a wrong name, datatype, shape, length, and kind of data."""
    request = request_of(server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    first = request["inputs"][0]
    other = "FP64" if first["datatype"] != "FP64" else "INT64"
    wrong: dict[str, Mapping[str, Any]] = {
        "an unknown input": with_input(request, name="no_such_input"),
        "another datatype": with_input(request, datatype=other, data=[1] * len(first["data"])),
        "an unknown datatype": with_input(request, datatype="FP1"),
        "a shape that the data do not fill": with_input(request, shape=[first["shape"][0] + 1, *first["shape"][1:]]),
        "a negative size": with_input(request, shape=[-1, *first["shape"][1:]]),
        "no inputs": {"inputs": []},
        "data of another kind": with_input(request, data=[{}] * len(first["data"])),
    }
    if first["datatype"] != "BYTES":  # some clients send texts as a column, and servers accept it
        wrong["a dimension too many"] = with_input(request, shape=[*first["shape"], 1])
    answers = {what: server.infer(body) for what, body in wrong.items()}
    return _judge_refusals(answers, dict.fromkeys(answers, (400,)))


def check_method(server: ServerSubject) -> Verdict:
    """Use the wrong HTTP method."""
    answers = {"GET of infer": server.get(server.infer_path), "DELETE of the model": server.ask("DELETE", server.model_path)}
    verdict = _judge_refusals(answers, dict.fromkeys(answers, (405,)))
    return verdict if verdict.severity != "error" else warning(verdict.evidence, **verdict.figures)


def check_too_large(server: ServerSubject) -> Verdict:
    """Announce a body of a terabyte, and send none of it."""
    answer = server.ask("POST", server.infer_path, b"", {"Content-Length": str(HUGE_BYTES), "Expect": ""})
    if answer.status == 413:
        return passed(f"a body of {HUGE_BYTES} bytes is rejected with 413 before it is sent, in {answer.seconds * 1000:.3g} ms")
    return warning(
        f"an announced body of {HUGE_BYTES} bytes gets {_describe_answer(answer)} after "
        f"{answer.seconds:.3g} s, not 413: bodies may have no limit",
        status=float(answer.status), seconds=answer.seconds,
    )  # fmt: skip


def check_timeout(server: ServerSubject) -> Verdict:
    """Send a request with a timeout of one microsecond."""
    request = request_of(server)
    if request is None:
        return skipped("the metadata list no inputs, so no request can be built")
    unseen = varied(request, time() % 1000)  # a body that no cache contains, not even from an earlier check
    answer = server.infer({**unseen, "parameters": {"timeout": WRONG_TIMEOUT_US}})
    if answer.status in (503, 504) and answer.sentence:
        return passed(f"a timeout of 1 us is respected: {answer.status}, {answer.sentence}")
    if answer.status == 200:
        return info("a request with parameters.timeout of 1 us was answered: the server ignores request timeouts, or it had "
                    "cached the answer")  # fmt: skip
    return warning(
        f"a request with parameters.timeout of 1 us gets {_describe_answer(answer)}, not 504",
        status=float(answer.status),
    )


def check_metrics(server: ServerSubject) -> Verdict:
    """Read /metrics."""
    answer = server.get("/metrics")
    lines = [line.split() for line in answer.body.decode("utf-8", "replace").splitlines() if line.startswith("# TYPE")]
    names = {line[2] for line in lines if len(line) >= 4}
    if answer.status != 200 or not names:
        return warning(f"GET /metrics gets {_describe_answer(answer)}: the server cannot be monitored")
    if not any("histogram" in line for line in lines):
        return info(f"{len(names)} metrics without a histogram: percentiles over several servers cannot be computed")
    return passed(f"{len(names)} metrics in Prometheus' format, with histograms", metrics=float(len(names)))


CHECKS: tuple[Check[ServerSubject], ...] = (
    Check(
        "serving.live", "The server is live and ready", "requested liveness and readiness",
        check_live, "point the load balancer's probes at /v2/health/live and /v2/health/ready", "error",
    ),
    Check(
        "serving.metadata", "The metadata describe the model", "read the model's metadata",
        check_metadata, "name inputs and outputs with datatype and shape", "error",
    ),
    Check(
        "serving.answer", "Answers match the metadata", "sent one request built from the metadata",
        check_answer, "compare GET /v2/models/NAME with the model's inputs and outputs", "error",
    ),
    Check(
        "serving.unknown_model", "Unknown models get 404", "requested a model and a version that do not exist",
        check_unknown, 'return 404 with {"error": "..."}', "error",
    ),
    Check(
        "serving.bad_json", "Malformed bodies get 400", "sent bodies that are not JSON, not an object, or not a request",
        check_bad_json, 'return 400 with {"error": "..."}', "error",
    ),
    Check(
        "serving.bad_inputs", "Invalid inputs get 400", "sent invalid names, datatypes, shapes and data",
        check_bad_inputs, "check inputs against the metadata before the model runs", "error",
    ),
    Check(
        "serving.method", "A wrong method gets 405", "used wrong HTTP methods", check_method,
        "return 405 with an Allow header", "warning",
    ),
    Check(
        "serving.too_large", "A body that is too large gets 413", "announced a terabyte",
        check_too_large, "reject by Content-Length, before reading", "warning",
    ),
    Check(
        "serving.timeout", "The server respects request timeouts", "sent a request with a timeout of 1 us",
        check_timeout, "nograd serve respects parameters.timeout, in microseconds", "warning",
    ),
    Check(
        "serving.metrics", "The server has metrics", "read /metrics", check_metrics, "serve Prometheus text at /metrics",
        "warning",
    ),
)  # fmt: skip
