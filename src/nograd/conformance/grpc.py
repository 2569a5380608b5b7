"""G: the protocol over gRPC, compared with the same server over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from nograd.client.http import Answer
from nograd.client.requests import same_numbers
from nograd.conformance.calling import Call, CallResult
from nograd.conformance.item import NO_REQUEST
from nograd.conformance.server import UNKNOWN
from nograd.conformance.target import ServerTarget
from nograd.conformance.tensors import TYPES, packed, unpacked
from nograd.report.finding import Severity
from nograd.report.verdict import Check, Verdict, error, passed, skipped

__all__ = ["ITEMS", "GrpcTarget"]

SERVICE = "inference.GRPCInferenceService"

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""Datatype -> field of its elements; FP16 and BF16 have none."""

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""HealthCheckResponse with status SERVING."""

REFLECTION = ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
              "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")  # fmt: skip
LIST_SERVICES = b"\x3a\x01*"
"""ServerReflectionRequest with list_services."""

Case: TypeAlias = tuple[str, str, CallResult, bool]
"""Request in words, expected result in words, actual result, and True if they match."""


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """A server over gRPC, and the same server over HTTP."""

    call: Call
    http: ServerTarget

    def ask(self, method: str, **fields: Any) -> CallResult:
        """Call a method of the protocol with a message of these fields, which have the form of JSON."""
        return self.call(f"/{SERVICE}/{method}", _filled(f"{method}Request", fields).SerializeToString())

    def infer(self, *, raw: bool, **fields: Any) -> CallResult:
        """Send the model's request with its data as bytes or in `contents`, and with these fields changed."""
        return self.send(self.request(raw=raw), **fields)

    def send(self, request: Any, **fields: Any) -> CallResult:
        """Send a ModelInferRequest with these fields changed."""
        for name, value in fields.items():
            setattr(request, name, value)
        return self.call(f"/{SERVICE}/ModelInfer", request.SerializeToString())

    def request(self, *, raw: bool) -> Any:
        """Return the model's request as a ModelInferRequest."""
        message = _filled("ModelInferRequest", {"model_name": self.http.model})
        for each in self.http.inputs:
            given = message.inputs.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
            if raw:
                message.raw_input_contents.append(packed(each["datatype"], each["data"]))
            else:
                encoded = [item.encode() for item in each["data"]] if each["datatype"] == "BYTES" else each["data"]
                getattr(given.contents, CONTENTS[each["datatype"]]).extend(encoded)
        return message


def _filled(kind: str, fields: Mapping[str, Any]) -> Any:
    from nograd.server.grpc import messages

    return messages.filled(getattr(messages, kind), fields)


def _read(kind: str, called: CallResult) -> Any:
    """Return the response message; an empty one if it is missing or cannot be decoded."""
    from google.protobuf.message import DecodeError

    from nograd.server.grpc import messages

    try:
        return getattr(messages, kind).FromString(called.body)
    except DecodeError:
        return getattr(messages, kind)()


def _answer(called: CallResult) -> Answer:
    """Return an infer call's response in the form of HTTP; without outputs if its contents cannot be decoded."""
    message, found = _read("ModelInferResponse", called), []
    raw = message.raw_output_contents
    try:
        for at, each in enumerate(message.outputs):
            data = unpacked(each.datatype, raw[at]) if raw else list(getattr(each.contents, CONTENTS[each.datatype]))
            data = [item.decode() if isinstance(item, bytes) else item for item in data]
            found.append({"name": each.name, "datatype": each.datatype, "shape": list(each.shape), "data": data})
    except (KeyError, ValueError, IndexError):
        found = []
    return Answer(200 if called.code == "OK" else 400, {}, json.dumps({"outputs": found}).encode(), 0.0)


# -- items


def live(target: GrpcTarget) -> Iterator[Case]:
    """Check item G1, health."""
    called = target.ask("ServerLive")
    yield "ServerLive", "live: true", called, _read("ServerLiveResponse", called).live
    called = target.ask("ServerReady")
    yield "ServerReady", "ready: true", called, _read("ServerReadyResponse", called).ready
    for version in ("", *target.http.versions):
        called = target.ask("ModelReady", name=target.http.model, version=version)
        yield f"ModelReady, version {version!r}", "ready: true", called, _read("ModelReadyResponse", called).ready


def metadata(target: GrpcTarget) -> Iterator[Case]:
    """Check item G1, metadata."""
    over_http = target.http.get("/v2").json
    called = target.ask("ServerMetadata")
    over_grpc = _read("ServerMetadataResponse", called)
    own = (over_grpc.name, over_grpc.version)
    is_right = isinstance(over_http, dict) and own == (over_http.get("name"), over_http.get("version"))
    yield "ServerMetadata", "name and version as HTTP has them", called, is_right
    called = target.ask("ModelMetadata", name=target.http.model)
    over_grpc = _read("ModelMetadataResponse", called)
    is_right = all(
        [(each.name, each.datatype, list(each.shape)) for each in getattr(over_grpc, side)]
        == [(each["name"], each["datatype"], each["shape"]) for each in target.http.metadata.get(side, [])]
        for side in ("inputs", "outputs")
    )
    yield "ModelMetadata", "inputs and outputs as HTTP has them", called, is_right and over_grpc.name == target.http.model


def _same(target: GrpcTarget, what: str, called: CallResult) -> Case:
    base = target.http.base
    return what, "HTTP's answer", called, base is not None and same_numbers(_answer(called), base)


def typed(target: GrpcTarget) -> Verdict | Iterator[Case]:
    """Check items G2 and G10."""
    if not _is_typed(target):
        return skipped("an input is FP16, which has no typed contents")
    return iter([_same(target, "data in contents", target.infer(raw=False))])


def raw(target: GrpcTarget) -> Iterator[Case]:
    """Check items G3 and G10."""
    yield _same(target, "data in raw_input_contents", target.infer(raw=True))


def raw_refused(target: GrpcTarget) -> Iterator[Case]:
    """Check item G3 with data that do not fit."""
    request = target.request(raw=True)
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
    yield _refused("a byte too few", target.send(request))
    request = target.request(raw=True)
    request.raw_input_contents.append(request.raw_input_contents[0])
    yield _refused("an entry too many", target.send(request))
    if _is_typed(target):
        request = target.request(raw=True)
        request.inputs[0].CopyFrom(target.request(raw=False).inputs[0])
        yield _refused("contents and raw_input_contents", target.send(request))
        request = target.request(raw=False)
        elements = getattr(request.inputs[0].contents, CONTENTS[request.inputs[0].datatype])
        del elements[-1]
        yield _refused("an element too few", target.send(request))


def raw_answers(target: GrpcTarget) -> Iterator[Case]:
    """Check item G4."""
    called = target.infer(raw=True)
    message = _read("ModelInferResponse", called)
    is_raw = 0 < len(message.outputs) == len(message.raw_output_contents)
    yield "a raw request", "raw_output_contents, one for each output", called, is_raw


def identity(target: GrpcTarget) -> Iterator[Case]:
    """Check item G5, id and model."""
    called = target.infer(raw=True, id="an-id-of-ours")
    over_grpc = _read("ModelInferResponse", called)
    yield "a request with an id", "the same id", called, over_grpc.id == "an-id-of-ours"
    yield "a request", "the model's name", called, over_grpc.model_name == target.http.model


def chosen(target: GrpcTarget) -> Iterator[Case]:
    """Check item G5, outputs."""
    for each in target.http.metadata.get("outputs", []):
        request = target.request(raw=True)
        request.outputs.add(name=each["name"])
        called = target.send(request)
        names = [output.name for output in _read("ModelInferResponse", called).outputs]
        yield f"output {each['name']} alone", "that one", called, names == [each["name"]]


def _refused(what: str, called: CallResult, *codes: str) -> Case:
    expected = " or ".join(codes) or "an error"
    return what, expected, called, called.code in codes if codes else called.code != "OK"


def _mistakes(target: GrpcTarget) -> Iterator[tuple[str, CallResult, str]]:
    """Yield invalid requests as (description, result, expected status code)."""
    yield "an unknown model", target.infer(raw=True, model_name=UNKNOWN), "NOT_FOUND"
    yield "metadata of an unknown model", target.ask("ModelMetadata", name=UNKNOWN), "NOT_FOUND"
    request = target.request(raw=True)
    request.inputs[0].datatype = "FP31"
    yield "datatype FP31", target.send(request), "INVALID_ARGUMENT"
    request = target.request(raw=True)
    request.inputs[0].name = UNKNOWN
    yield "an unknown input", target.send(request), "INVALID_ARGUMENT"
    request = target.request(raw=True)
    request.outputs.add(name=UNKNOWN)
    yield "an unknown output", target.send(request), "INVALID_ARGUMENT"


def refusals(target: GrpcTarget) -> Iterator[Case]:
    """Check item G6."""
    for what, called, _ in _mistakes(target):
        yield what, "an error", called, called.code != "OK"


def codes(target: GrpcTarget) -> Iterator[Case]:
    """Check item G6, status codes."""
    for what, called, code in _mistakes(target):
        if called.code != "OK":
            yield _refused(what, called, code)


def absent(target: GrpcTarget) -> Iterator[Case]:
    """Check item G9."""
    yield _refused("an unknown method", target.call(f"/{SERVICE}/NoSuchMethod", b""), "UNIMPLEMENTED")


def health(target: GrpcTarget) -> Iterator[Case]:
    """Check item G8, health."""
    called = target.call(HEALTH, b"")
    yield "grpc.health.v1.Health/Check", "SERVING", called, called.body == SERVING


def reflection(target: GrpcTarget) -> Iterator[Case]:
    """Check item G8, reflection."""
    answers = [target.call(path, LIST_SERVICES) for path in REFLECTION]
    called = next((each for each in answers if SERVICE.encode() in each.body), answers[0])
    yield "a list of services", f"one with {SERVICE}", called, SERVICE.encode() in called.body


def _is_typed(target: GrpcTarget) -> bool:
    return all(each["datatype"] in CONTENTS for each in target.http.inputs)


# -- verdicts


def _judge_cases(cases: Iterable[Case], worst: Severity) -> Verdict:
    tried = list(cases)
    wrong = [f"{what}: expected {expected}, got {came.text}" for what, expected, came, is_right in tried if not is_right]
    if not wrong:
        return passed(", ".join(f"{what} {came.code}" for what, _, came, _ in tried), tried=float(len(tried)))
    found = error("; ".join(wrong[:3]), tried=float(len(tried)), wrong=float(len(wrong)))
    return Verdict(worst, found.evidence, found.figures)


def _item(
    id_: str, title: str, done: str, run: Callable[[GrpcTarget], Verdict | Iterator[Case]], rule: str,
    worst: Severity = "error", *, infers: bool = False,
) -> Check[GrpcTarget]:  # fmt: skip
    def perhaps(target: GrpcTarget) -> Verdict:
        if infers and target.http.base is None:
            return skipped(NO_REQUEST)
        if infers and any(each["datatype"] not in (*TYPES, "BYTES") for each in target.http.inputs):
            return skipped("an input is BF16")
        found = run(target)
        return found if isinstance(found, Verdict) else _judge_cases(found, worst)

    return Check(id_, title, done, perhaps, "", worst, rule=rule)


RAW = (
    "inference_grpc.md, ModelInferRequest: \"To use the raw representation 'raw_input_contents' must be initialized with data "
    "for each tensor in the same order as 'inputs'\""
)
FIT = (
    "inference_grpc.md, ModelInferRequest: \"the size of this content must match what is expected by the tensor's shape and "
    'data type"; "If this field is specified then InferInputTensor::contents must not be specified for any input tensor"'
)
STATUS = (
    'inference_grpc.md, Inference: "Errors are indicated by the google.rpc.Status returned for the request. The OK code '
    'indicates success and other codes indicate failure"'
)

ITEMS: tuple[Check[GrpcTarget], ...] = (
    _item("grpc.G1", "Server and model are live and ready", "called ServerLive, ServerReady and ModelReady", live,
          'inference_grpc.md: "A compliant server must implement the health, metadata, and inference APIs described in this '
          'section"'),
    _item("grpc.G1-metadata", "Metadata equal those over HTTP", "called ServerMetadata and ModelMetadata", metadata,
          'inference_grpc.md: "The GRPC API closely follows the concepts defined in the HTTP/REST API"'),
    _item("grpc.G2", "Data in typed contents get the same answers as over HTTP", "sent typed contents", typed,
          'inference_grpc.md, Tensor Data: "use InferTensorContents to represent the tensor data in a format that matches the '
          'tensor\'s data type"', infers=True),
    _item("grpc.G3", "Data as raw bytes get the same answers as over HTTP", "sent raw_input_contents", raw, RAW, infers=True),
    _item("grpc.G3-fit", "Data of the wrong size are rejected", "sent too little, too much, and both forms", raw_refused, FIT,
          infers=True),
    _item("grpc.G4", "Requests with raw bytes get raw bytes", "sent raw_input_contents", raw_answers,
          "inference_grpc.md leaves it open; Triton answers so, and its clients read raw outputs first", "warning",
          infers=True),
    _item("grpc.G5", "A response contains model and id", "sent a request with an id", identity,
          'inference_grpc.md, ModelInferRequest.id: "Optional identifier for the request. If specified will be returned in the '
          'response"', infers=True),
    _item("grpc.G5-outputs", "Only requested outputs are returned", "requested each output", chosen,
          'inference_grpc.md, ModelInferRequest.outputs: "Optional, if not specified all outputs produced by the model will be '
          'returned"', infers=True),
    _item("grpc.G6", "Invalid requests are errors", "sent five invalid requests", refusals, STATUS, infers=True),
    _item("grpc.G6-codes", "The status code matches the mistake", "sent five invalid requests", codes,
          "gRPC's status codes: NOT_FOUND for unknown names, INVALID_ARGUMENT for a client's mistake", "warning",
          infers=True),
    _item("grpc.G8-health", "The server supports health checks", "called grpc.health.v1", health,
          "gRPC's health checking protocol; the Open Inference Protocol does not require it", "info"),
    _item("grpc.G8-reflection", "Reflection lists the services", "requested a list of services", reflection,
          "gRPC's server reflection; the Open Inference Protocol does not require it", "info"),
    _item("grpc.G9", "An unknown method is UNIMPLEMENTED", "called an unknown method", absent,
          "gRPC's status codes: UNIMPLEMENTED for an operation that is not implemented", "warning"),
)  # fmt: skip
"""Items over gRPC. They run only if a gRPC address is given."""
