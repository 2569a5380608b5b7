"""The checklist over gRPC: our own server passes it, and one that does one thing wrong fails that item alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from nograd.client.http import Answer
from nograd.conformance import OVER_GRPC, conformance, examine_grpc
from nograd.conformance.calling import CallResult
from nograd.conformance.target import ServerTarget, examined
from nograd.errors import ModelLoadError
from nograd.report.finding import Report
from nograd.server.grpc import messages
from tests.fakes import asgi, doubling
from tests.grpc_site import GrpcSite
from tests.running_server import RunningServer
from tests.test_cli import nograd as command


class Examined:
    """Our own server, over HTTP without sockets, and over gRPC."""

    def __init__(self, site: GrpcSite) -> None:
        self.site = site
        self.http: ServerTarget = examined(self._send, "doubling")

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        reply = self.site.run(asgi(self.site.app, method, path, body, headers=headers))
        assert reply is not None
        return Answer(reply.status, reply.headers, reply.body, 0.0)

    def call(self, path: str, body: bytes) -> CallResult:
        async def answer() -> CallResult:
            call = self.site.channel.stream_stream(path)(iter([body]))
            try:
                return CallResult("OK", body=await anext(aiter(call)))
            except grpc.aio.AioRpcError as error:
                return CallResult(error.code().name, error.details() or "")

        return self.site.run(answer())


@pytest.fixture(scope="module")
def server() -> Iterator[Examined]:
    with GrpcSite({"doubling": doubling()}) as site:
        yield Examined(site)


def broken(report: Report) -> set[str]:
    return {finding.check for finding in report.of("error", "warning", "info")}


def changing(kind: str, change: Callable[[Any], object]) -> Callable[[str, CallResult], CallResult]:
    """Return what changes the answers of one kind of message."""

    def changed(path: str, called: CallResult) -> CallResult:
        if called.code != "OK" or not path.endswith("/" + kind.removesuffix("Response")):
            return called
        message = getattr(messages, kind).FromString(called.body)
        change(message)
        return CallResult("OK", body=message.SerializeToString())

    return changed


def swapping(wrong: str, right: str) -> Callable[[str, CallResult], CallResult]:
    return lambda _path, called: CallResult(right, called.details) if called.code == wrong else called


def at(part: str, answer: CallResult) -> Callable[[str, CallResult], CallResult]:
    return lambda path, called: answer if part in path else called


ABSENT = CallResult("UNIMPLEMENTED", "no such method")
FAULTS: dict[str, Callable[[str, CallResult], CallResult]] = {
    "grpc.G1": changing("ServerReadyResponse", lambda said: said.ClearField("ready")),
    "grpc.G1-metadata": changing("ModelMetadataResponse", lambda said: said.ClearField("outputs")),
    "grpc.G5": changing("ModelInferResponse", lambda said: said.ClearField("id")),
    "grpc.G6-codes": swapping("NOT_FOUND", "UNKNOWN"),
    "grpc.G8-health": at("Health/Check", ABSENT),
    "grpc.G8-reflection": at("ServerReflection", ABSENT),
    "grpc.G9": at("NoSuchMethod", CallResult("UNKNOWN", "what?")),
}
"""Item -> what a server does to its answers that fails it."""


def test_our_own_server_passes_all(server: Examined) -> None:
    report = examine_grpc(server.http, server.call)

    assert {finding.check for finding in report.of("passed")} == {item.id for item in OVER_GRPC}, str(report)


@pytest.mark.parametrize("item", FAULTS)
def test_a_server_that_does_one_thing_wrong_fails_that_item_alone(server: Examined, item: str) -> None:
    report = examine_grpc(server.http, lambda path, body: FAULTS[item](path, server.call(path, body)))

    assert broken(report) == {item}, str(report)
    assert report.of("error", "warning", "info")[0].severity == next(each.worst for each in OVER_GRPC if each.id == item)


def infers(server: Examined, answer: Callable[[Any], CallResult | None]) -> Report:
    """Examine a server that answers some infer calls in another way."""

    def call(path: str, body: bytes) -> CallResult:
        found = answer(messages.ModelInferRequest.FromString(body)) if path.endswith("/ModelInfer") else None
        return server.call(path, body) if found is None else found

    return examine_grpc(server.http, call)


def answered(server: Examined, request: Any, change: Callable[[Any], object]) -> CallResult:
    called = server.call("/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())
    if called.code != "OK":
        return called
    message = messages.ModelInferResponse.FromString(called.body)
    change(message)
    return CallResult("OK", body=message.SerializeToString())


def test_one_that_takes_no_typed_contents_fails_that(server: Examined) -> None:
    report = infers(server, lambda request: None if request.raw_input_contents else CallResult("INVALID_ARGUMENT", "raw only"))

    assert broken(report) == {"grpc.G2"}


def test_one_that_answers_other_numbers_to_bytes_fails_that(server: Examined) -> None:
    def zeros(message: Any) -> None:
        message.raw_output_contents[0] = bytes(len(message.raw_output_contents[0]))

    report = infers(server, lambda request: answered(server, request, zeros) if request.raw_input_contents else None)

    assert broken(report) == {"grpc.G3"}


def test_one_that_answers_bytes_with_contents_fails_that(server: Examined) -> None:
    def typed(message: Any) -> None:
        import numpy as np

        values = np.frombuffer(message.raw_output_contents[0], np.float32)
        message.outputs[0].contents.fp32_contents.extend(values.tolist())
        message.ClearField("raw_output_contents")

    report = infers(server, lambda request: answered(server, request, typed) if request.raw_input_contents else None)

    assert broken(report) == {"grpc.G4"}
    assert report.worst == "warning"


def test_one_that_takes_both_forms_at_once_fails_that(server: Examined) -> None:
    def lenient(request: Any) -> CallResult | None:
        if request.raw_input_contents and request.inputs[0].HasField("contents"):
            request.inputs[0].ClearField("contents")
            return answered(server, request, lambda _: None)
        return None

    report = infers(server, lenient)

    assert broken(report) == {"grpc.G3-fit"}
    assert "contents and raw_input_contents: expected an error, got OK" in report.of("error")[0].evidence


def test_one_that_gives_other_outputs_fails_that(server: Examined) -> None:
    def other(request: Any) -> CallResult | None:
        if [each.name for each in request.outputs] == ["output"]:
            return answered(server, request, lambda message: setattr(message.outputs[0], "name", "another"))
        return None

    assert broken(infers(server, other)) == {"grpc.G5-outputs"}


def test_one_that_ignores_what_it_does_not_know_fails_that(server: Examined) -> None:
    def ignoring(request: Any) -> CallResult | None:
        if request.outputs and request.outputs[0].name != "output":
            request.ClearField("outputs")
            return answered(server, request, lambda _: None)
        return None

    assert broken(infers(server, ignoring)) == {"grpc.G6"}


def test_where_http_answers_no_request_infer_calls_are_skipped(server: Examined) -> None:
    http = ServerTarget(server.http.send, "doubling", server.http.metadata)

    report = examine_grpc(http, server.call)

    assert broken(report) == set()
    assert {"grpc.G2", "grpc.G6"} <= {finding.check for finding in report.of("skipped")}


def test_the_command_examines_a_real_server(tmp_path: Path) -> None:
    running = RunningServer("served_models:dense", "--grpc-port", "0")
    try:
        address = re.search(r"127\.0\.0\.1:(\d+)", running.greeting.replace(running.url, ""))
        assert address is not None, running.greeting
        ended = command("conformance", running.url, "--grpc", address[0])
    finally:
        running.close()

    assert ended.returncode == 0, ended.stdout
    assert "passed   grpc: G1, G1-metadata, G2, G3" in ended.stdout


def test_an_address_where_nothing_answers_is_told(tiny_server: RunningServer) -> None:
    with pytest.raises(ModelLoadError, match=r"nothing answers gRPC at 127\.0\.0\.1:9 within 0\.5 s"):
        conformance(tiny_server.url, grpc="127.0.0.1:9", timeout_s=0.5)
