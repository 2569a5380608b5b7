"""I: valid and invalid contents of an infer request."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from nograd.client.http import Answer
from nograd.client.requests import same_numbers, tiled
from nograd.conformance.item import Case, announced, answered, compat, expect, judge_cases, must, refused
from nograd.conformance.server import UNKNOWN
from nograd.conformance.target import ServerTarget
from nograd.report.verdict import Check, Verdict, skipped

__all__ = ["ITEMS"]

INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
FLOATS = ("FP16", "FP32", "FP64")

MANY_ROWS, MANY_ELEMENTS = 64, 500_000
"""Maximum rows and elements of a large request."""

HUGE_BYTES = 2**40
DEEP = 100_000


def nested(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Return flat data as nested lists of a shape."""
    if len(shape) < 2:
        return list(data)
    step = prod(shape[1:])
    return [nested(data[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


def send_invalid(target: ServerTarget, body: Mapping[str, Any], what: str) -> Case:
    """Send a request that must be refused; the case expects a 4xx status."""
    return refused(what, target.infer(body))


def send_equal(target: ServerTarget, base: Answer, body: Mapping[str, Any], what: str) -> Case:
    """Send a request that must have the same response as the base request; the case expects the same numbers."""
    answer = target.infer(body)
    return what, "200, and the same answer", answer, answer.status == 200 and same_numbers(answer, base)


def forms(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I1."""
    whole = [{**each, "data": nested(each["data"], each["shape"])} for each in target.inputs]
    yield send_equal(target, base, {"inputs": whole}, "nested data")
    inputs = tiled(target.request, 2)["inputs"] if target.is_batched else target.inputs
    for at, each in enumerate(inputs):
        if len(each["shape"]) > 1 and each["shape"][0] > 1 and each["shape"][-1] > 1:
            data = ragged(each["data"], each["shape"])
            body = {"inputs": [{**one, "data": data} if place == at else one for place, one in enumerate(inputs)]}
            yield send_invalid(target, body, f"ragged data of {each['name']}")
            break


def ragged(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Return flat data as nested lists of almost a shape: one element moves from the first row to the last.

    >>> ragged([1, 2, 3, 4], [2, 2])
    [[1], [3, 4, 2]]
    """
    found = nested(data, shape)
    first, last = found[0], found[-1]
    while isinstance(first[0], list):
        first, last = first[0], last[0]
    last.append(first.pop())
    return found


def shapes(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I2."""
    first = target.inputs[0]
    shape, data = first["shape"], first["data"]
    yield send_invalid(target, target.with_input(data=data[:-1]), "an element too few")
    yield send_invalid(target, target.with_input(data=[*data, data[0]]), "an element too many")
    yield send_invalid(target, target.with_input(shape=[-1, *shape[1:]]), "a negative size")
    yield send_invalid(target, target.with_input(shape=[float(shape[0]) + 0.5, *shape[1:]]), "a size of 1.5")
    empty = target.infer(target.with_input(shape=[0, *shape[1:]], data=[]))
    yield "no rows", "200 or a 4xx", empty, empty.status == 200 or 400 <= empty.status < 500


def unknown_datatype(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I3."""
    yield send_invalid(target, target.with_input(datatype="FP31"), "datatype FP31")
    yield send_invalid(target, target.with_input(datatype=target.inputs[0]["datatype"].lower()), "a datatype in small letters")


def other_datatype(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I3 with another datatype than the metadata's."""
    first = target.inputs[0]
    other = "INT32" if first["datatype"] in FLOATS else "FP32"
    yield send_invalid(
        target, target.with_input(datatype=other, data=[1] * len(first["data"])), f"{other} for {first['datatype']}"
    )


def half(target: ServerTarget) -> Verdict:
    """Check item I4."""
    if not target.request or target.of_kind("BF16") is None:
        return skipped("no input is BF16")
    return judge_cases([send_invalid(target, target.request, "BF16 as JSON")])


def values(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item I5."""
    at = target.of_kind(*FLOATS, *INTEGERS)
    if at is None:
        return skipped("no input is a number")
    return _values(target, at)


def _values(target: ServerTarget, at: int) -> Iterator[Case]:
    given = target.inputs[at]
    rest = given["data"][1:]
    yield send_invalid(target, target.with_input(at, data=["one", *rest]), "a string among numbers")
    yield send_invalid(target, target.with_input(at, data=[None, *rest]), "null among numbers")
    yield send_invalid(target, target.with_input(at, data=[{}, *rest]), "an object among numbers")
    whole = target.of_kind(*INTEGERS)
    if whole is not None:
        one = target.inputs[whole]
        yield send_invalid(target, target.with_input(whole, data=[2**70, *one["data"][1:]]), f"2**70 as {one['datatype']}")
    for literal in ("NaN", "Infinity"):
        text = json.dumps(target.with_input(at, data=["@", *rest])).replace('"@"', literal)
        answer = target.post(f"{target.path}/infer", text.encode())
        yield refused(f"the literal {literal}, which JSON lacks,", answer)


def coerced(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item I5, coercion."""
    at, whole = target.of_kind(*FLOATS, *INTEGERS), target.of_kind(*INTEGERS)
    if at is None:
        return skipped("no input is a number")
    wrong = [(at, True), (at, "1"), *([(whole, 1.5)] if whole is not None else [])]
    return iter([
        send_invalid(target, target.with_input(place, data=[value, *target.inputs[place]["data"][1:]]),
              f"{json.dumps(value)} as {target.inputs[place]['datatype']}")
        for place, value in wrong
    ])  # fmt: skip


def texts(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item I6."""
    at = target.of_kind("BYTES")
    if at is None:
        return skipped("no input is BYTES")
    return _texts(target, at)


def _texts(target: ServerTarget, at: int) -> Iterator[Case]:
    rest = target.inputs[at]["data"][1:]
    yield expect("text beyond ASCII", target.infer(target.with_input(at, data=["früh am Morgen 早上", *rest])), 200)
    broken = json.dumps(target.with_input(at, data=["@", *rest])).encode().replace(b"@", b"\xff\xfe")
    yield refused("bytes that are not UTF-8", target.post(f"{target.path}/infer", broken))


def coerced_text(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item I6, coercion."""
    at = target.of_kind("BYTES")
    if at is None:
        return skipped("no input is BYTES")
    return iter([send_invalid(target, target.with_input(at, data=[17, *target.inputs[at]["data"][1:]]), "17 as BYTES")])


def tensors(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I7."""
    first = target.inputs[0]
    for what, body in _wrong_tensors(target, first).items():
        yield send_invalid(target, body, what)


def _wrong_tensors(target: ServerTarget, first: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "no inputs": {"inputs": []},
        "an unknown input": target.with_input(name="no_such_input"),
        "an input too many": {"inputs": [*target.inputs, {**first, "name": "no_such_input"}]},
        "an input given twice": {"inputs": [*target.inputs, first]},
        "an unknown output": {**target.request, "outputs": [{"name": "no_such_output"}]},
    }


def tensor_names(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I7, sentences."""
    bodies = _wrong_tensors(target, target.inputs[0])
    for what, name in (("an unknown input", "no_such_input"), ("an unknown output", "no_such_output")):
        answer = target.infer(bodies[what])
        yield what, f"an error that names {name}", answer, answer.status >= 400 and name in answer.text


def _outputs(answer: Answer) -> list[str]:
    """Return the outputs' names, as far as the response can be parsed."""
    found = answer.json
    listed = found.get("outputs") if isinstance(found, dict) else None
    return [str(each.get("name")) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def filtered(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I8."""
    names = _outputs(base)
    for name in names:
        answer = target.infer({**target.request, "outputs": [{"name": name}]})
        yield f"output {name} requested", f"200 and {name} only", answer, answer.status == 200 and _outputs(answer) == [name]


def ordered(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I8, order and an empty list."""
    names = _outputs(base)
    answer = target.infer({**target.request, "outputs": [{"name": name} for name in reversed(names)]})
    yield "all outputs, backwards", "them in this order", answer, _outputs(answer) == names[::-1]
    none = target.infer({**target.request, "outputs": []})
    yield "outputs: []", "all outputs", none, sorted(_outputs(none)) == sorted(names)


def many_rows(target: ServerTarget, base: Answer) -> Verdict | Iterator[Case]:
    """Check item I9."""
    if not target.is_batched:
        return skipped("not every input has a first dimension that may vary")
    return _many_rows(target, base)


def _many_rows(target: ServerTarget, base: Answer) -> Iterator[Case]:
    size = max(sum(len(each["data"]) for each in target.inputs), 1)
    for rows in (2, max(3, min(MANY_ROWS, MANY_ELEMENTS // size))):
        answer = target.infer(tiled(target.request, rows))
        is_right = answer.status in (400, 413, 429, 503) or (
            answer.status == 200 and _rows(answer) == _times(_rows(base), rows)
        )
        yield f"{rows} rows", f"{rows} rows of each output, or a rejection", answer, is_right


def _rows(answer: Answer) -> list[Any]:
    try:
        return [each["shape"][0] for each in answer.json["outputs"]]
    except (TypeError, KeyError, IndexError):
        return []


def _times(sizes: Sequence[Any], rows: int) -> list[Any]:
    return [size * rows for size in sizes]


def mixed_rows(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item I10."""
    if not target.is_batched or len(target.inputs) < 2:
        return skipped("the model has one input" if len(target.inputs) < 2 else "rows are not a dimension of every input")
    one = tiled({"inputs": [target.inputs[0]]}, 2)["inputs"][0]
    return iter([send_invalid(target, {"inputs": [one, *target.inputs[1:]]}, "2 rows of one input, 1 of the others")])


def parameters(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I11."""
    unknown = {"x_text": "a", "x_number": 1, "x_float": 0.5, "x_bool": True}
    yield send_equal(target, base, {**target.request, "parameters": unknown}, "unknown parameters of the request")
    yield send_equal(target, base, target.with_input(parameters=unknown), "unknown parameters of an input")
    outputs = [{"name": name, "parameters": unknown} for name in _outputs(base)]
    yield send_equal(target, base, {**target.request, "outputs": outputs}, "unknown parameters of an output")


def schedule(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I12."""
    yield send_equal(
        target, base, {**target.request, "parameters": {"timeout": 60_000_000, "priority": 1}}, "timeout and priority"
    )


def bodies(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I13."""
    path = f"{target.path}/infer"
    whole = json.dumps(target.request).encode()
    broken = {
        "no body": b"", "not JSON": b"hello", "a truncated body": whole[:-2], "bytes that are not UTF-8": b"\xff\xfe" + whole,
        f"lists, {DEEP:,} deep": b"[" * DEEP, "a list": b"[1, 2]",
        "no inputs at all": b"{}", "inputs as a string": b'{"inputs": "x"}',
    }  # fmt: skip
    for what, body in broken.items():
        answer = target.post(path, body)
        yield refused(what, answer)
    yield send_equal(target, base, target.request, "the request, after all these")


def statuses(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I13, numbers."""
    path, first = f"{target.path}/infer", target.inputs[0]
    malformed = {
        "no JSON": target.post(path, b"hello"),
        "no inputs at all": target.post(path, b"{}"),
        "an element too few": target.infer(target.with_input(data=first["data"][:-1])),
        "an unknown datatype": target.infer(target.with_input(datatype="FP31")),
        "an unknown input": target.infer(target.with_input(name="no_such_input")),
    }
    for what, answer in malformed.items():
        if answer.status >= 400:  # other items check that it is refused at all
            yield expect(what, answer, 400)
    yield expect("an unknown model", target.post(f"/v2/models/{UNKNOWN}/infer", json.dumps(target.request).encode()), 404)


def too_large(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item I13, limits."""
    headers = {"Content-Type": "application/json", "Content-Length": str(HUGE_BYTES)}
    answer = target.send("POST", f"{target.path}/infer", b"", headers)
    is_right = answer.status in (400, 413)
    yield f"a body of {HUGE_BYTES} bytes, announced and not sent", "413 (or 400) immediately", answer, is_right


def content_types(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I14."""
    body = json.dumps(target.request).encode()
    kinds: dict[str, dict[str, str]] = {
        "application/json; charset=utf-8": {"Content-Type": "application/json; charset=utf-8"},
        "none": {},
    }
    for what, headers in kinds.items():
        answer = target.post(f"{target.path}/infer", body, headers)
        is_right = answer.status == 200 and same_numbers(answer, base)
        yield f"content type {what}", "200, and the same answer", answer, is_right


def compression(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item I14, compression."""
    body = json.dumps(target.request).encode()
    for name, packed in (("gzip", gzip.compress(body, mtime=0)), ("deflate", zlib.compress(body))):
        headers = {"Content-Type": "application/json", "Content-Encoding": name}
        answer = target.post(f"{target.path}/infer", packed, headers)
        is_right = answer.status == 200 and same_numbers(answer, base)
        yield f"a body in {name}", "200, and the same answer", answer, is_right


DATA = (
    'required_api.md, Tensor Data: "Tensor data must be presented in row-major order of the tensor elements... Tensor elements '
    'may be presented in their nature multi-dimensional representation, or as a flattened one-dimensional representation"'
)
COERCION = (
    'required_api.md, Tensor Data: "Each element of the array may be an integer, floating-point number, string or boolean '
    "value. The server can decide to coerce each element to the required type or return an error if an unexpected value is "
    'received"'
)
BATCH = (
    'inference_rest.md: "If the input is batched, the shape and data must represent the full shape and contents of the entire '
    'batch"'
)
INPUT = "inference_rest.md, $inference_request_input: name, shape, datatype, data"
JSON_RULE = "RFC 8259: a JSON text is UTF-8; numbers are decimal, and there is no NaN and no Infinity"

ITEMS: tuple[Check[ServerTarget], ...] = (
    must("request.I1", "Data may be flat or nested, but not "
                       "ragged", "sent flat, nested and ragged data", answered(forms), DATA),
    must("request.I2", "Shapes that do not fit the data are "
                       "rejected", "sent shapes that the data do not fill", answered(shapes),
         'inference_rest.md: "shape": "Each dimension must be an integer representable as an unsigned 64-bit integer value"'),
    must("request.I3", "An unknown datatype is rejected", "sent unknown datatypes", answered(unknown_datatype),
         f'{INPUT}; "datatype": "The data-type of the input tensor elements as defined in Tensor Data Types"'),
    compat("request.I3-other", "A datatype other than the model's is "
                               "rejected", "sent another datatype", answered(other_datatype),
           "Triton: inference input data-type is X, model expects Y (400)"),
    compat("request.I4", "BF16 as JSON is rejected", "sent BF16 as JSON", half,
           "Triton: BF16 data must be sent as binary, JSON has no representation of it (400)"),
    must("request.I5", "Values out of the datatype's range are rejected", "sent a word, null, NaN, a number out of range",
         answered(values), f"{COERCION}; {JSON_RULE}"),
    compat("request.I5-coercion", "Values of another kind are rejected",
           "sent true, a number as a string, and 1.5 for integers",
           answered(coerced), f"{COERCION}; Triton returns an error"),
    must("request.I6", "BYTES are UTF-8 strings in JSON", "sent text beyond ASCII, and bytes that are not UTF-8",
         answered(texts), JSON_RULE),
    compat("request.I6-coercion", "Numbers for a text input are rejected", "sent a number", answered(coerced_text),
           f"{COERCION}; Triton returns an error"),
    must("request.I7", "Missing, unknown and repeated tensors are "
                       "rejected", "sent none, unknown ones, and one twice", answered(tensors),
         'inference_rest.md: "inputs": "The input tensors", "outputs": "The output tensors requested for this inference"'),
    compat("request.I7-name", "Errors name the tensor", "sent an unknown input, and requested an unknown output",
           answered(tensor_names), "Triton: unexpected inference input 'NAME' for model"),
    must("request.I8", "Only requested outputs are returned", "requested each output", answered(filtered),
         'inference_rest.md: "outputs": "The output tensors requested for this inference... Optional, if not specified all '
         'outputs produced by the model will be returned"'),
    compat("request.I8-order", "Outputs have the requested order, and [] means all",
           "requested them in reverse order, and none",
           answered(ordered), "Triton answers in the order of the request, and takes an empty list as none given"),
    must("request.I9", "Several rows are all answered, or rejected", "sent 2 rows, and up to 64", answered(many_rows),
         BATCH),
    must("request.I10", "Inputs with different numbers of rows are rejected", "sent 2 rows of one input, 1 of the others",
         answered(mixed_rows),
         BATCH),
    must("request.I11", "Unknown parameters are not an error", "sent unknown parameters everywhere", answered(parameters),
         'inference_rest.md: "parameters": "An object containing zero or more parameters for this inference request expressed '
         'as key/value pairs"; required_api.md: strings, numbers, booleans'),
    must("request.I12", "Timeout and priority are accepted", "sent both", announced("schedule_policy", answered(schedule)),
         "Triton, extension_schedule_policy.md: priority and timeout (microseconds) are request parameters"),
    must("request.I13", "A malformed body gets 4xx, and the server recovers", "sent bodies that are not JSON or not requests",
         answered(bodies),
         'inference_rest.md: "A failed ... request must be indicated by an HTTP error status (typically 400)"'),
    compat("request.I13-status", "Malformed requests get 400, unknown models 404", "sent some of each", answered(statuses),
           'inference_rest.md: "(typically 400)"; Triton answers 400 and 404'),
    compat("request.I13-limit", "A body that is too large is rejected before it is sent", "announced a terabyte",
           answered(too_large), "RFC 9110, 15.5.14: 413 (Content Too Large); Triton: 400, by default from 64 MiB on"),
    must("request.I14", "A content type may be missing or have a charset", "sent both", answered(content_types),
         "inference_rest.md: the HTTP body contains the request's JSON object; it requires no header except Content-Length"),
    compat("request.I14-gzip", "Bodies may be compressed", "sent gzip and deflate", answered(compression),
           "Triton takes Content-Encoding gzip and deflate"),
)  # fmt: skip
