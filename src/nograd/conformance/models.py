"""M: one model, by its name and version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from nograd.client.http import Answer
from nograd.conformance.item import Case, expect, judge_cases, must, refused
from nograd.conformance.server import UNKNOWN
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict, skipped

__all__ = ["DATATYPES", "ITEMS"]

DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16",
)  # fmt: skip

NO_VERSION = "no_such_version_999999"


def paths_of(target: ServerTarget) -> tuple[str, ...]:
    """Return the model's path without a version, and with each version in its metadata."""
    return target.path, *(f"{target.path}/versions/{version}" for version in target.versions)


def ready(target: ServerTarget) -> Verdict:
    """Check item M1."""

    def cases() -> Iterator[Case]:
        for path in paths_of(target):
            answer = target.get(f"{path}/ready")
            found = answer.json
            says = not answer.body or (
                isinstance(found, dict) and found.get("ready") is True and found.get("name") == target.model
            )
            yield (
                f"GET {path}/ready",
                '200 and {"name": the model\'s, "ready": true}, or no body',
                answer,
                answer.status == 200 and says,
            )
        unknown = target.get(f"/v2/models/{UNKNOWN}/ready")
        yield refused("GET .../ready of an unknown model", unknown)

    return judge_cases(cases())


def metadata(target: ServerTarget) -> Verdict:
    """Check item M2."""

    def cases() -> Iterator[Case]:
        for path in paths_of(target):
            answer = target.get(path)
            faults = _faults(answer.json, target.model) if answer.status == 200 else ["status 200"]
            yield f"GET {path}", f"model metadata: {'; '.join(faults) or 'whole'}", answer, not faults

    return judge_cases(cases())


def _faults(found: Any, model: str) -> list[str]:
    """Return the requirements that the metadata do not meet."""
    if not isinstance(found, dict):
        return ["a JSON object"]
    faults = []
    if found.get("name") != model:
        faults.append(f"name {model!r}")
    if not isinstance(found.get("platform"), str):
        faults.append("platform, a string")
    if not all(isinstance(each, str) for each in found.get("versions") or []):
        faults.append("versions as strings")
    for key in ("inputs", "outputs"):
        tensors = found.get(key)
        if not isinstance(tensors, list) or not tensors:
            faults.append(f"{key}, a list of tensors")
        elif not all(_is_tensor(each) for each in tensors):
            faults.append(f"{key} with name, datatype and shape, -1 for what varies")
    return faults


def _is_tensor(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or found.get("datatype") not in DATATYPES:
        return False
    shape = found.get("shape")
    return isinstance(shape, list) and all(type(size) is int and size >= -1 for size in shape)


def unknown(target: ServerTarget) -> Verdict:
    """Check item M3."""

    def cases() -> Iterator[Case]:
        for what, path in (("model", f"/v2/models/{UNKNOWN}"), ("version", f"{target.path}/versions/{NO_VERSION}")):
            yield refused(f"metadata of an unknown {what}", target.get(path))
            yield refused(f"infer of an unknown {what}", target.post(f"{path}/infer", _body(target)))

    return judge_cases(cases())


def _body(target: ServerTarget) -> bytes:
    return json.dumps(target.request or {"inputs": []}).encode()


def infer(target: ServerTarget) -> Verdict:
    """Check item M4."""
    if not target.request:
        return skipped("the metadata list no inputs, so no request can be built: see model.M2")
    return judge_cases(
        expect(f"POST {path}/infer", target.post(f"{path}/infer", _body(target)), 200) for path in paths_of(target)
    )


def names(target: ServerTarget) -> Verdict:
    """Check item M5."""
    first = target.model[:1]
    swapped = target.model.swapcase()
    encoded = f"/v2/models/%{ord(first):02X}{target.path.removeprefix('/v2/models/')[1:]}" if first.isascii() else target.path

    def cases() -> Iterator[Case]:
        if first.isalnum():
            yield expect(f"GET {encoded}", target.get(encoded), 200)
        if swapped != target.model:
            answer: Answer = target.get(f"/v2/models/{swapped}")
            yield f"GET /v2/models/{swapped}", "a 4xx, or another model", answer, _is_another(answer, swapped)

    return judge_cases(cases())


def _is_another(answer: Answer, name: str) -> bool:
    """Return True if a name in other letter case is unknown, or is another model's name."""
    found = answer.json
    return 400 <= answer.status < 500 or (isinstance(found, dict) and found.get("name") == name)


ITEMS: tuple[Check[ServerTarget], ...] = (
    must("model.M1", "A working model is ready, an unknown one is not", "requested each version's readiness", ready,
         'inference_rest.md: "The "model ready" health API indicates if a specific model is ready for inferencing"; '
         '$ready_model_response: {"name": $string, "ready": $bool}'),
    must("model.M2", "Model metadata are complete", "read the metadata of each version", metadata,
         'inference_rest.md, $metadata_model_response: name, platform, inputs, outputs; $metadata_tensor: name, datatype, '
         'shape; "Variable-size dimensions are specified as -1"'),
    must("model.M3", "An unknown model or version is rejected", "requested an unknown model and an unknown version", unknown,
         'inference_rest.md: "A failed ... request must be indicated by an HTTP error status (typically 400)"'),
    must("model.M4", "A request built from the metadata is answered", "sent one to each version", infer,
         'inference_rest.md: "A successful inference request is indicated by a 200 HTTP status code"; POST '
         'v2/models/<model_name>[/versions/<model_version>]/infer'),
    must("model.M5", "Names are case-sensitive, and may be percent-encoded",
         "changed the case and the encoding of the name",
         names,
         'required_api.md: "All strings in all contexts are case-sensitive"; RFC 3986, 2.3: URIs that differ in the encoding '
         'of an unreserved character are equivalent'),
)  # fmt: skip
