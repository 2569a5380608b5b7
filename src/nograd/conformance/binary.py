"""B: the extension binary_tensor_data over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from nograd.client.http import Answer
from nograd.client.requests import numbers, varied
from nograd.conformance.item import Case, announced, answered, expect, must, refused
from nograd.conformance.target import ServerTarget
from nograd.conformance.tensors import HEADER, TYPES, parts, request, unpacked
from nograd.report.verdict import Check, Verdict, skipped

__all__ = ["ITEMS"]

OCTETS = "application/octet-stream"


def sent(target: ServerTarget, head: Mapping[str, Any], tail: bytes, length: str | None = None) -> Answer:
    """Send a JSON object followed by bytes, and return the response; `length` replaces the real length of the JSON."""
    body = json.dumps(head).encode()
    headers = {"Content-Type": OCTETS, HEADER: str(len(body)) if length is None else length}
    return target.post(f"{target.path}/infer", body + tail, headers)


def everything(target: ServerTarget, **rest: Any) -> tuple[dict[str, Any], bytes]:
    """Return the request with all its inputs in binary."""
    return request(target.inputs, range(len(target.inputs)), **rest)


def wire(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item B1."""
    yield expect("all inputs in binary", sent(target, *everything(target)), 200)


def mixed(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item B2."""
    if len(target.inputs) < 2:
        return skipped("the model has one input")
    if sent(target, *everything(target)).status != 200:
        return skipped("requests with binary inputs fail: see binary.B1")
    return iter([expect("one input in binary, the others in JSON", sent(target, *request(target.inputs, [0])), 200)])


def encoding(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item B3."""
    other = varied({"inputs": target.inputs}, 3)
    plain = target.infer(other)
    answer = sent(target, *request(other["inputs"], range(len(other["inputs"]))))
    if plain.status == 200 and answer.status == 200:  # binary.B1 checks that it is answered at all
        yield "the same tensors, as JSON and in binary", "the same answer", answer, same_answers(plain, answer)


def same_answers(plain: Answer, answer: Answer) -> bool:
    """Return True if two responses, each in JSON or binary, hold the same numbers up to rounding."""
    first, second = values_of(plain), values_of(answer)
    if first is None or second is None or first.keys() != second.keys():
        return False
    return all(_same_arrays(first[name], second[name]) for name in first)


def _same_arrays(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> bool:
    if first.shape != second.shape:
        return False
    if first.dtype.kind in "OUS" or second.dtype.kind in "OUS":
        return bool(np.array_equal(first, second))
    return bool(np.allclose(first.astype(float), second.astype(float), rtol=1e-3, atol=1e-5))


def values_of(answer: Answer) -> dict[str, np.ndarray[Any, Any]] | None:
    """Return the outputs of a response as flat arrays by name; None if it cannot be parsed."""
    try:
        head, tail = parts(answer)
        listed = []
        for each in head["outputs"]:
            size = each.get("parameters", {}).get("binary_data_size")
            if size is None:
                listed.append(each)
                continue
            listed.append({**each, "data": unpacked(each["datatype"], tail[:size])})
            tail = tail[size:]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return numbers({"outputs": listed})


def sizes(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item B4."""
    head, tail = everything(target)
    yield refused("additional bytes", sent(target, head, tail + b"\0"))
    yield refused("bytes missing", sent(target, head, tail[:-1]))
    first = head["inputs"][0]
    for change in (-1, 1):
        wrong = {**first, "parameters": {"binary_data_size": first["parameters"]["binary_data_size"] + change}}
        body = tail + b"\0" if change > 0 else tail[1:]
        yield refused(f"binary_data_size {change:+}", sent(target, {"inputs": [wrong, *head["inputs"][1:]]}, body))
    if target.inputs[0]["datatype"] == "BYTES":
        yield refused("a wrong length prefix", sent(target, head, b"\xff\xff\xff\x7f" + tail[4:]))


def outputs(target: ServerTarget, base: Answer) -> Iterator[Case]:
    """Check item B5."""
    names = [each["name"] for each in base.json["outputs"]]
    first = {"name": names[0], "parameters": {"binary_data": True}}
    others = [{"name": names[0], "parameters": {"binary_data": False}}, *({"name": name} for name in names[1:])]
    wanted: dict[str, tuple[dict[str, Any], set[str]]] = {
        "binary_data for the first output": ({"outputs": [first]}, {names[0]}),
        "binary_data_output": ({"parameters": {"binary_data_output": True}}, set(names)),
        "binary_data_output, and binary_data false for the first output": (
            {"parameters": {"binary_data_output": True}, "outputs": others},
            set(names[1:]),
        ),
    }  # fmt: skip
    for what, (rest, binary) in wanted.items():
        answer = target.infer({**target.request, **rest})
        yield what, f"these outputs in binary: {', '.join(sorted(binary)) or 'none'}", answer, _binary_outputs(answer) == binary


def _binary_outputs(answer: Answer) -> set[str] | None:
    """Return the names of the outputs in binary; None if the response cannot be parsed or an output is in both forms."""
    try:
        head, _ = parts(answer)
        found = {each["name"]: each for each in head["outputs"]}
        binary = {name for name, each in found.items() if "binary_data_size" in each.get("parameters", {})}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    is_right = all(("data" in each) == (name not in binary) for name, each in found.items())
    return binary if is_right else None


def framing(target: ServerTarget, _base: Answer) -> Verdict | Iterator[Case]:
    """Check item B6."""
    answer = target.infer({**target.request, "parameters": {"binary_data_output": True}})
    if b"binary_data_size" not in answer.body:
        return skipped("no output came in binary: see binary.B5")
    return _framing(answer)


def _framing(answer: Answer) -> Iterator[Case]:
    length = answer.headers.get(HEADER.lower(), "")
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    yield "an answer in binary", f"the header {HEADER}", answer, length.isdigit() and int(length) <= len(answer.body)
    yield "an answer in binary", f"content type {OCTETS}", answer, kind == OCTETS
    if length.isdigit():
        yield "an answer in binary", "sizes that add up to the body, and fit shapes", answer, _adds_up(answer)


def _adds_up(answer: Answer) -> bool:
    try:
        head, tail = parts(answer)
        sizes = [each["parameters"]["binary_data_size"] for each in head["outputs"] if "data" not in each]
        fixed = [each for each in head["outputs"] if each["datatype"] in TYPES and "data" not in each]
        fits = all(
            each["parameters"]["binary_data_size"] == prod(each["shape"]) * np.dtype(TYPES[each["datatype"]]).itemsize
            for each in fixed
        )
    except (ValueError, KeyError, TypeError):
        return False
    return sum(sizes) == len(tail) and fits


def raw(target: ServerTarget, base: Answer) -> Verdict | Iterator[Case]:
    """Check item B7."""
    if len(target.inputs) != 1:
        return skipped("the model has more than one input")
    shape = target.metadata["inputs"][0]["shape"]
    if sum(size == -1 for size in shape[1:]) > 1 or not target.is_batched:
        return skipped(f"the input's shape {shape} cannot be derived from a number of bytes")
    return _raw(target, base)


def _raw(target: ServerTarget, base: Answer) -> Iterator[Case]:
    _, tail = everything(target)
    if target.metadata["inputs"][0]["datatype"] == "BYTES":  # one element without its length prefix
        tail = tail[4:]
    answer = target.post(f"{target.path}/infer", tail, {"Content-Type": OCTETS, HEADER: "0"})
    is_right = answer.status == 200 and same_answers(base, answer)
    yield f"the input's bytes alone, with {HEADER}: 0", "200, and the same answer", answer, is_right


def headers(target: ServerTarget, _base: Answer) -> Iterator[Case]:
    """Check item B8."""
    head, tail = everything(target)
    for length in ("999999999", "-1", "ten"):
        yield refused(f"{HEADER}: {length}", sent(target, head, tail, length))


SOURCE = "Triton, extension_binary_data.md"

Judge = Callable[[ServerTarget, Answer], Verdict | Iterator[Case]]


def _item(id_: str, title: str, done: str, run: Judge, rule: str) -> Check[ServerTarget]:
    return must(id_, title, done, announced("binary_tensor_data", answered(run)), f"{SOURCE}: {rule}")


ITEMS: tuple[Check[ServerTarget], ...] = (
    _item("binary.B1", "Inputs may be in binary", "sent all inputs in binary", wire,
          '"the HTTP body of the request or response will contain the JSON inference request or response object '
          'followed by the binary tensor data in the same order as the order of the input or output tensors"'),
    _item("binary.B2", "Inputs in JSON and in binary may be mixed", "sent one in binary, the others in JSON", mixed,
          '"When one or more tensors are communicated as binary data"'),
    _item("binary.B3", "Bytes are little-endian and row-major", "compared JSON with binary", encoding,
          '"Tensor data represented as binary data is organized in little-endian byte order, row major, without stride '
          'or padding"'),
    _item("binary.B4", "Wrong sizes are rejected", "sent too many and too few bytes, and wrong length prefixes", sizes,
          '""binary_data_size" : int64 parameter indicating the size of the tensor binary data, in bytes"'),
    _item("binary.B5", "Outputs are binary if requested", "requested each, all, and all but one in binary", outputs,
          '""binary_data" : bool parameter that is true if the output should be returned as binary data ... If '
          '"binary_data" is specified on an output it overrides this setting"'),
    _item("binary.B6", "A binary response has the length of its JSON", "read headers and sizes of a response", framing,
          '"If any binary data is present in the request or response the Inference-Header-Content-Length header must be'
          ' provided"'),
    _item("binary.B7", "A raw request contains only the bytes of the single input", "sent only bytes", raw,
          "raw binary requests: header 0, the body is the one input's bytes, batch size 1"),
    _item("binary.B8", "A wrong header is rejected", "sent lengths beyond the body, below 0, and not a number", headers,
          '"the Inference-Header-Content-Length header must be provided to give the length of the JSON object"'),
)  # fmt: skip
