"""Infer calls of the server that does all that the checklist asks for: JSON and binary tensors, in and out."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from nograd.conformance.tensors import TYPES, packed, unpacked

MODELS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "Adder": {
        "inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 2]}, {"name": "b", "datatype": "INT64", "shape": [-1, 2]}],
        "outputs": [
            {"name": "sum", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "double", "datatype": "FP32", "shape": [-1, 2]},
        ],
    },
    "Texter": {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "upper", "datatype": "BYTES", "shape": [-1]}],
    },
    "Brain": {
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    },
}
"""What is served: two inputs and outputs of numbers, one of text, and one whose input JSON cannot carry."""

DATATYPES = (*TYPES, "BYTES", "BF16")
OWN = ("binary_data_size", "binary_data", "binary_data_output", "timeout", "priority")


class RefusedError(Exception):
    """A status, and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class Reply:
    value: Any
    status: int = 200
    tail: bytes | None = None
    """Binary tensors, behind the JSON."""


@dataclass
class Infer:
    """One infer call; `fault` is what it does wrong."""

    fault: str
    rows: int = 0
    """Rows that were run."""

    def answer(self, name: str, headers: Mapping[str, str], body: bytes) -> Reply:
        fault = self.fault
        if int(headers.get("content-length", "0")) > 2**30:
            raise RefusedError(500 if fault == "no limit" else 413, "too large")
        if "content-type" not in headers and fault == "wants a content type":
            raise RefusedError(415, "a content type is wanted")
        request, tail, is_raw = self.split(name, headers, self.unpack(headers, body))
        specs = {each["name"]: each for each in MODELS[name]["inputs"]}
        given = request.get("inputs")
        if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
            raise RefusedError(400, "inputs is a list of tensors, and not empty")
        self.parameters(request, given)
        if fault == "no mixing" and 0 < sum("data" in each for each in given) < len(given):
            raise RefusedError(400, "all inputs are JSON, or all are binary")
        arrays, tail = self.tensors(given, specs, tail)
        if tail and fault != "leaves bytes":
            raise RefusedError(400, f"{len(tail)} bytes are left over")
        if missing := specs.keys() - arrays.keys():
            raise RefusedError(400, f"input {missing.pop()} is missing")
        return self.run(name, request, arrays, is_raw=is_raw)

    def tensors(
        self, given: list[dict[str, Any]], specs: Mapping[str, dict[str, Any]], tail: bytes
    ) -> tuple[dict[str, np.ndarray[Any, Any]], bytes]:
        """Return the inputs by name, and the bytes that are left."""
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for each in given:
            if each.get("name") not in specs:
                if self.fault == "ignores unknown inputs" and len(given) > len(specs):
                    continue
                raise RefusedError(400, f"there is no input {each.get('name')}")
            if each["name"] in arrays and self.fault != "last of two":
                raise RefusedError(400, f"input {each['name']} is given twice")
            arrays[each["name"]], tail = self.tensor(each, specs[each["name"]], tail)
        return arrays, tail

    def unpack(self, headers: Mapping[str, str], body: bytes) -> bytes:
        coding = headers.get("content-encoding", "")
        if coding and self.fault == "no compression":
            raise RefusedError(415, f"{coding} is not taken")
        return gzip.decompress(body) if coding == "gzip" else zlib.decompress(body) if coding == "deflate" else body

    def split(self, name: str, headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], bytes, bool]:
        """Return the JSON, the bytes behind it, and whether the request was raw."""
        length, tail = headers.get("inference-header-content-length"), b""
        if length == "0" and self.fault != "no raw":
            (spec,) = MODELS[name]["inputs"]
            if spec["datatype"] == "BYTES":
                body = len(body).to_bytes(4, "little") + body
            one = {**spec, "shape": [1, *spec["shape"][1:]], "parameters": {"binary_data_size": len(body)}}
            return {"inputs": [one]}, body, True
        if length is not None:
            if not length.isdigit() or int(length) > len(body) or length == "0":
                if self.fault != "any header":
                    raise RefusedError(400, f"inference-header-content-length is {length}")
                length = str(json.JSONDecoder().raw_decode(body.decode("latin-1"))[1])
            body, tail = body[: int(length)], body[int(length) :]
        try:
            request = json.loads(body, parse_constant=self.constant)
        except RecursionError:
            raise RefusedError(500 if self.fault == "500 for depth" else 400, "too deep") from None
        except ValueError as error:
            raise RefusedError(400, f"no JSON: {type(error).__name__}") from None
        if not isinstance(request, dict):
            raise RefusedError(400, "no JSON object")
        return request, tail, False

    def constant(self, literal: str) -> float:
        if self.fault == "takes NaN":
            return 0.0
        raise ValueError(literal)

    def parameters(self, request: dict[str, Any], given: list[dict[str, Any]]) -> None:
        everywhere = [request, *given, *(request.get("outputs") or [])]
        names = {name for each in everywhere for name in each.get("parameters", {})}
        if self.fault == "strict parameters" and not names <= set(OWN):
            raise RefusedError(400, f"unknown parameters {names}")
        if self.fault == "no timeout" and "timeout" in names:
            raise RefusedError(400, "timeout is no parameter")

    def tensor(self, given: dict[str, Any], spec: dict[str, Any], tail: bytes) -> tuple[np.ndarray[Any, Any], bytes]:
        fault = self.fault
        self.datatype(given, spec)
        shape: Any = given.get("shape")
        if not is_shape(shape, spec) and fault != "any shape":
            raise RefusedError(400, f"the shape of {given['name']} is {shape}")
        size = given.get("parameters", {}).get("binary_data_size")
        if size is not None:
            return self.binary(spec, shape, tail[:size], size), tail[size:]
        if spec["datatype"] == "BF16" and fault != "bf16 as json":
            raise RefusedError(400, "BF16 comes in binary")
        if not isinstance(given.get("data"), list):
            raise RefusedError(400, f"{given['name']} has no data")
        data = self.elements(given["data"], shape)
        if fault == "any shape" and not is_shape(shape, spec, len(data)):
            data = (data * 4)[:2]
            shape = [len(data) // prod(spec["shape"][1:]), *spec["shape"][1:]]
        if prod(shape) != len(data):
            raise RefusedError(400, f"{given['name']} has {len(data)} elements, its shape is {shape}")
        return self.checked(data, spec).reshape(shape), tail

    def datatype(self, given: dict[str, Any], spec: dict[str, Any]) -> None:
        told = given.get("datatype")
        if self.fault == "small datatypes":
            told = str(told).upper()
        if told not in DATATYPES or (told != spec["datatype"] and self.fault != "coerces"):
            raise RefusedError(400, f"{given['name']} is {told}, not {spec['datatype']}")

    def elements(self, data: list[Any], shape: list[int]) -> list[Any]:
        """Return flat data."""
        if not any(isinstance(each, list) for each in data):
            return data
        if self.fault == "flat only":
            raise RefusedError(400, "data is a flat list")
        is_even = len(data) == shape[0] and all(isinstance(each, list) and len(each) == shape[1] for each in data)
        if not is_even and self.fault != "ragged":
            raise RefusedError(400, "data is ragged")
        return [leaf for each in data for leaf in each]

    def checked(self, data: list[Any], spec: dict[str, Any]) -> np.ndarray[Any, Any]:
        fault, name = self.fault, spec["datatype"]
        if name == "BYTES":
            if fault == "numbers as text":
                data = [str(each) for each in data]
            if not all(isinstance(each, str) and (fault != "ascii only" or each.isascii()) for each in data):
                raise RefusedError(400, f"{spec['name']} holds what is no text")
            array = np.empty(len(data), object)
            array[:] = data
            return array
        if fault == "null is zero":
            data = [0 if each is None else each for each in data]
        kinds = int | float if "INT" not in name or fault == "truncates" else int
        if not all(isinstance(each, kinds) and not isinstance(each, bool) for each in data):
            raise RefusedError(400, f"{spec['name']} holds what is no {name}")
        try:
            return np.asarray([int(each) for each in data] if "INT" in name else data, TYPES.get(name, "<f4"))
        except OverflowError:
            raise RefusedError(400, f"{spec['name']} holds a number beyond {name}") from None

    def binary(self, spec: dict[str, Any], shape: list[int], body: bytes, size: int) -> np.ndarray[Any, Any]:
        fault = self.fault
        if fault == "no binary inputs":
            raise RefusedError(400, "binary inputs are not taken")
        if len(body) < size:
            raise RefusedError(400, "bytes are missing")
        if spec["datatype"] == "BYTES":
            try:
                texts = unpacked("BYTES", body)
            except ValueError as error:
                raise RefusedError(400, str(error)) from None
            if len(texts) != prod(shape):
                raise RefusedError(400, "another number of elements")
            return self.checked(texts, spec)
        dtype = np.dtype(TYPES[spec["datatype"]])
        if len(body) != prod(shape) * dtype.itemsize:
            raise RefusedError(400, f"{spec['name']} has {len(body)} bytes, its shape is {shape}")
        return np.frombuffer(body, dtype.newbyteorder(">") if fault == "big-endian" else dtype).reshape(shape)

    def run(self, name: str, request: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]], *, is_raw: bool) -> Reply:
        sizes = {len(array) for array in arrays.values()}
        if len(sizes) > 1 and self.fault != "mixes rows":
            raise RefusedError(400, f"inputs have {sizes} rows")
        rows = max(sizes)
        if self.fault == "32 rows":
            arrays = {key: array[:32] for key, array in arrays.items()}
        self.rows = rows
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = computed(name, arrays)
        wanted = self.wanted(request, list(outputs))
        return self.told(name, request, {key: outputs[key] for key in wanted}, is_raw=is_raw)

    def wanted(self, request: dict[str, Any], known: list[str]) -> list[str]:
        asked = [each["name"] for each in request.get("outputs") or []]
        if unknown := set(asked) - set(known):
            raise RefusedError(400, f"there is no output {unknown.pop()}")
        if self.fault == "own order":
            return [name for name in known if name in asked or not asked]
        if self.fault == "none for none" and request.get("outputs") == []:
            return []
        if self.fault == "all outputs":
            return [*asked, *(name for name in known if name not in asked)]
        return asked or known

    def told(self, name: str, request: dict[str, Any], outputs: dict[str, np.ndarray[Any, Any]], *, is_raw: bool) -> Reply:
        fault, tail, has_binary = self.fault, b"", False
        every = is_raw or request.get("parameters", {}).get("binary_data_output", False)
        own = {each["name"]: each.get("parameters", {}).get("binary_data") for each in request.get("outputs") or []}
        datatypes = {each["name"]: each["datatype"] for each in MODELS[name]["outputs"]}
        listed = []
        for key, array in outputs.items():
            one = {"name": key, "datatype": datatypes[key], "shape": list(array.shape)}
            flat = array.ravel().tolist()
            is_binary = every if own.get(key) is None or fault == "all or none" else own[key]
            if is_binary:
                body = packed(datatypes[key], flat)
                listed.append({**one, "parameters": {"binary_data_size": len(body) + (fault == "sizes off by one")}})
                tail, has_binary = tail + body, True
                continue
            listed.append({**one, "data": self.printed(flat, datatypes[key])})
            if fault == "another shape":
                listed[-1]["shape"] = [*one["shape"], 1]
            if fault == "data short":
                listed[-1]["data"] = listed[-1]["data"][:-1]
        answer: dict[str, Any] = {"model_name": name, "model_version": "1", "id": request.get("id", "made"), "outputs": listed}
        if fault in ("no id", "no model_name"):
            del answer[fault.removeprefix("no ")]
        return Reply(answer, tail=tail if has_binary else None)

    def printed(self, flat: list[Any], datatype: str) -> list[Any]:
        if datatype != "FP32":
            return flat
        if not all(map(isfinite, flat)) and self.fault != "prints NaN":
            raise RefusedError(500, "an output is not finite, which JSON cannot carry")
        return flat if self.fault == "noise" else [float(str(np.float32(value))) for value in flat]


def is_shape(found: Any, spec: dict[str, Any], count: int | None = None) -> bool:
    """Whether it is a shape of this input, and of so many elements."""
    if not isinstance(found, list) or not all(type(size) is int and size >= 0 for size in found):
        return False
    return len(found) == len(spec["shape"]) and count in (None, prod(found))


def computed(name: str, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Run a model."""
    if name == "Texter":
        upper = np.empty(len(arrays["text"]), object)
        upper[:] = [text.upper() for text in arrays["text"]]
        return {"upper": upper}
    if name == "Brain":
        return {"y": arrays["x"]}
    rows = min(map(len, arrays.values()))
    a, b = arrays["a"][:rows], arrays["b"][:rows]
    return {"sum": (a * np.float32(0.7) + b.astype(np.float32)), "double": a * np.float32(2.1)}
