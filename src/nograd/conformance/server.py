"""R: the server itself, independent of its models."""

from __future__ import annotations

from collections.abc import Iterator

from nograd.client.http import Answer
from nograd.conformance.item import PROBES, Case, compat, expect, judge_cases, must, probed
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict, skipped

__all__ = ["ITEMS", "is_error"]

UNKNOWN = "no_such_model_xyz"


def live(target: ServerTarget) -> Verdict:
    """Check item R1."""
    return judge_cases([expect("GET /v2/health/live", target.get("/v2/health/live"), 200)])


def ready(target: ServerTarget) -> Verdict:
    """Check item R2."""
    return judge_cases([expect("GET /v2/health/ready", target.get("/v2/health/ready"), 200)])


def metadata(target: ServerTarget) -> Verdict:
    """Check item R3."""
    return judge_cases([_metadata("/v2", target.get("/v2"))])


def metadata_slash(target: ServerTarget) -> Verdict:
    """Check item R3, with a slash."""
    answer = target.get("/v2/")
    is_right = answer.status == 200 and answer.json == target.get("/v2").json
    return judge_cases([("GET /v2/", "200, and the same body as /v2", answer, is_right)])


def _metadata(path: str, answer: Answer) -> Case:
    found = answer.json if isinstance(answer.json, dict) else {}
    names = found.get("extensions")
    is_right = (
        answer.status == 200
        and all(isinstance(found.get(key), str) for key in ("name", "version"))
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    )
    return f"GET {path}", '200 and {"name": string, "version": string, "extensions": [strings]}', answer, is_right


def extensions(target: ServerTarget) -> Verdict:
    """Check item R4."""
    cases = [probed(target, name) for name in sorted(target.extensions & PROBES.keys())]
    if not cases:
        return skipped("none of the announced extensions has its own path")
    return judge_cases(cases)


def is_error(answer: Answer) -> bool:
    """Return True if a response is the protocol's error object with a message."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    said = answer.sentence
    return answer.status >= 400 and kind == "application/json" and bool(said) and "Traceback (most recent" not in said


def errors(target: ServerTarget) -> Verdict:
    """Check item R5."""
    answers = {
        "GET of an unknown path": target.get("/v2/no/such/path"),
        "GET of an unknown model": target.get(f"/v2/models/{UNKNOWN}"),
        "infer of an unknown model": target.post(f"/v2/models/{UNKNOWN}/infer", b'{"inputs": []}'),
        "infer with half a JSON object": target.post(f"{target.path}/infer", b'{"inputs": [{"name"'),
        "infer with a list": target.post(f"{target.path}/infer", b"[1, 2]"),
        "infer without inputs": target.post(f"{target.path}/infer", b"{}"),
        "GET of infer": target.get(f"{target.path}/infer"),
    }
    wanted = 'an error status, application/json, and {"error": a sentence}'
    return judge_cases((what, wanted, answer, is_error(answer)) for what, answer in answers.items())


def unknown_path(target: ServerTarget) -> Verdict:
    """Check item R6."""
    return judge_cases([expect("GET of an unknown path", target.get("/v2/no/such/path"), 404)])


def wrong_method(target: ServerTarget) -> Verdict:
    """Check item R6, methods."""

    def cases() -> Iterator[Case]:
        yield expect("GET of infer", target.get(f"{target.path}/infer"), 405)
        yield expect("POST to /v2/health/live", target.post("/v2/health/live", b"{}"), 405)

    return judge_cases(cases())


ERROR_RULE = (
    'inference_rest.md: "A failed ... request must be indicated by an HTTP error status (typically 400). The HTTP body must '
    'contain the ... error_response object": {"error": $string}'
)

ITEMS: tuple[Check[ServerTarget], ...] = (
    must("server.R1", "A running server is live", "requested liveness", live,
         'inference_rest.md: "The "server live" health API indicates if the inference server is able to receive and respond to '
         'metadata and inference requests"'),
    must("server.R2", "A server with working models is ready", "requested readiness", ready,
         'inference_rest.md: "The "server ready" health API indicates if all the models are ready for inferencing"'),
    must("server.R3", "Server metadata are complete", "read GET /v2", metadata,
         'inference_rest.md, $metadata_server_response: {"name": $string, "version": $string, "extensions": [$string, ...]}'),
    compat("server.R3-slash", "Server metadata are also at /v2/", "read GET /v2/", metadata_slash,
           "open_inference_rest.yaml lists the path /v2/, inference_rest.md /v2: clients use both"),
    must("server.R4", "Announced extensions exist", "requested a path of each announced extension", extensions,
         'inference_rest.md: ""extensions": The extensions supported by the server"'),
    must("server.R5", "Errors have the protocol's error object", "sent seven invalid requests", errors, ERROR_RULE),
    must("server.R6", "An unknown path gets 404", "requested an unknown path", unknown_path,
         'RFC 9110, 15.5.5: "404 (Not Found) ... the origin server did not find a current representation for the target '
         'resource"'),
    compat("server.R6-method", "A wrong method gets 405", "used wrong methods", wrong_method,
           'RFC 9110, 15.5.6: "405 (Method Not Allowed) ... is known by the origin server but not supported by the target '
           'resource"; Triton answers 405'),
)  # fmt: skip
