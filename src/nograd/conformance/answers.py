"""O: the contents of an infer response."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from nograd.client.http import Answer
from nograd.client.requests import tiled
from nograd.conformance.inference import FLOATS
from nograd.conformance.item import Case, answered, must, useful
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict, skipped

__all__ = ["ITEMS"]

LONG = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE][-+]?\d+)?")

FLOAT32_DIGITS = 9
"""Number of significant digits that distinguish every float32 from its neighbours."""


def envelope(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item O1."""
    answer = target.infer({**target.request, "id": "an id of ours"})
    found = answer.json if isinstance(answer.json, dict) else {}
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    outputs = found.get("outputs")
    yield "a request", "content type application/json", answer, kind == "application/json"
    yield "a request", f"model_name {target.model!r}", answer, found.get("model_name") == target.model
    yield "a request with an id", "the same id", answer, found.get("id") == "an id of ours"
    version = found.get("model_version")
    yield "a request", "model_version as a string, or none", answer, version is None or isinstance(version, str)
    is_right = isinstance(outputs, list) and bool(outputs) and all(_is_output(each) for each in outputs)
    yield "a request", "outputs with name, shape, datatype, data", answer, is_right


def _is_output(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("name"), str)
        and isinstance(found.get("datatype"), str)
        and isinstance(found.get("shape"), list)
        and isinstance(found.get("data"), list)
    )


def leaves(data: Any) -> Iterator[Any]:
    """Yield the elements of nested lists."""
    for each in data:
        if isinstance(each, list):
            yield from leaves(each)
        else:
            yield each


def shapes(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item O2."""
    answers = {"a request": base}
    if target.is_batched:
        answers["2 rows"] = target.infer(tiled(target.request, 2))
    specs = {each.get("name"): each for each in target.metadata.get("outputs") or [] if isinstance(each, dict)}
    for what, answer in answers.items():
        if answer.status != 200:
            continue  # a model may take one row only
        for each in _valid_outputs(answer):
            size, count = prod(each["shape"]), sum(1 for _ in leaves(each["data"]))
            yield f"{what}: output {each['name']}", f"{size} elements, as its shape {each['shape']} says", answer, size == count
            if (spec := specs.get(each["name"])) is not None and isinstance(spec.get("shape"), list):
                is_right = _fits(each, spec)
                yield f"{what}: output {each['name']}", f"{spec.get('datatype')} {spec['shape']} (metadata)", answer, is_right


def _valid_outputs(answer: Answer) -> list[Mapping[str, Any]]:
    found = answer.json
    outputs = found.get("outputs") if isinstance(found, dict) else None
    return [each for each in outputs if _is_output(each)] if isinstance(outputs, list) else []


def _fits(given: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Return True if an output matches the metadata."""
    shape, wanted = given["shape"], spec["shape"]
    return (
        given["datatype"] == spec.get("datatype")
        and len(shape) == len(wanted)
        and all(want in (size, -1) for size, want in zip(shape, wanted, strict=True))
    )


def strict_json(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item O3."""
    yield "a request", "JSON without NaN and Infinity", base, is_strict(base.body)
    at = target.of_kind(*FLOATS)
    if at is not None:
        large = 6e4 if target.inputs[at]["datatype"] == "FP16" else 3e38
        count = len(target.inputs[at]["data"])
        answer = target.infer(target.with_input(at, data=([large, -large] * count)[:count]))
        is_right = is_strict(answer.body) if answer.status == 200 else answer.status >= 400
        yield f"values of {large:g}, whose sums are infinite,", "JSON without NaN and Infinity, or an error", answer, is_right


def is_strict(body: bytes) -> bool:
    """Return True if bytes are JSON by RFC 8259. Python's own parser also accepts NaN and Infinity."""

    def refuse(literal: str) -> None:
        raise ValueError(literal)

    try:
        json.loads(body, parse_constant=refuse)
    except ValueError:
        return False
    return True


def digits(_target: ServerTarget, base: Answer) -> Verdict | Iterator[Case]:
    """Check item O4."""
    found = json.loads(base.body, parse_float=str)
    numbers = [leaf for each in found["outputs"] if each.get("datatype") == "FP32" for leaf in leaves(each["data"])]
    texts = [each for each in numbers if isinstance(each, str)]
    if not texts:
        return skipped("no output is FP32 with a fraction")
    long = [text for text in texts if significant(text) > FLOAT32_DIGITS]
    shown = f"at most {FLOAT32_DIGITS} digits, and not {long[0]}" if long else "few digits"
    return iter([("a request", shown, base, not long)])


def significant(text: str) -> int:
    """Return the number of significant digits of a decimal number.

    >>> [significant(text) for text in ("0.10000000149011612", "-12.5", "1e-7", "0.001")]
    [17, 3, 1, 1]
    """
    found = LONG.fullmatch(text)
    return len(((found[1] + (found[2] or "")).lstrip("0").rstrip("0")) or "0") if found else 0


OUTPUT = "inference_rest.md, $inference_response: model_name, model_version, id, outputs (name, shape, datatype, data)"

ITEMS: tuple[Check[ServerTarget], ...] = (
    must("response.O1", "A response contains model, id and outputs", "sent a request with an id", answered(envelope),
         f'{OUTPUT}; "id": "Optional, but if specified this identifier must be returned in the response"'),
    must("response.O2", "Output shapes match data and metadata", "counted elements, for 1 and 2 rows", answered(shapes),
         'required_api.md, Tensor Data: "Tensor data must be presented in row-major order of the tensor elements"; '
         'inference_rest.md: "Variable-size dimensions are specified as -1"'),
    must("response.O3", "Responses are valid JSON",
         "parsed responses strictly, also for very large inputs",
         answered(strict_json),
         "RFC 8259, 6: numbers that cannot be represented, such as Infinity and NaN, are not permitted"),
    useful("response.O4", "FP32 values have at most 9 digits", "counted digits", answered(digits),
           "9 significant digits identify every float32 (IEEE 754-2019, 5.12.2); more digits waste bandwidth"),
)  # fmt: skip
