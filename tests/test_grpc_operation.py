"""gRPC's calls pass the same door as HTTP's, and are lines of the same log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from nograd.server.grpc.messages import SERVICE, ModelReadyRequest, ServerLiveRequest
from nograd.server.telemetry.access_log import AccessLog
from tests.fakes import doubling
from tests.grpc_site import GrpcSite, raw_request, rows

KEY = "alice-0123456789abcdef"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def site(tmp_path: Path, written: list[str]) -> Iterator[GrpcSite]:
    file = tmp_path / "keys"
    file.write_text(f"alice: {KEY}\n")
    with GrpcSite({"doubling": doubling()}, api_keys_file=str(file)) as site:
        site.service.access = AccessLog("json", written.append)
        site.service.access.open()
        yield site
        site.run(closed(site.service.access))  # its timer is the loop's


async def closed(log: AccessLog) -> None:
    log.close()


def code_of(site: GrpcSite, path: str, body: bytes, metadata: list[tuple[str, str]]) -> str:
    try:
        site.run(site.bytes_call(body, path, metadata=metadata))
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


READY = ModelReadyRequest(name="doubling").SerializeToString()


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ([("x-api-key", KEY)], "OK"),
        ([("authorization", f"Bearer {KEY}")], "OK"),
        ([("x-api-key", "wrong")], "UNAUTHENTICATED"),
        ([], "UNAUTHENTICATED"),
    ],
)
def test_a_call_needs_the_key_in_its_metadata(site: GrpcSite, metadata: list[tuple[str, str]], code: str) -> None:
    assert code_of(site, f"/{SERVICE}/ModelReady", READY, metadata) == code


def test_an_infer_call_without_a_key_is_refused_with_https_sentence(site: GrpcSite) -> None:
    request = raw_request("doubling", rows([1, 2]))

    assert site.refusal(request) == (
        "UNAUTHENTICATED",
        "this server needs an API key; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
    )
    assert site.run(site.call(request, metadata=[("x-api-key", KEY)])).raw_output_contents


def test_probes_need_none(site: GrpcSite) -> None:
    live = ServerLiveRequest().SerializeToString()

    assert code_of(site, f"/{SERVICE}/ServerLive", live, []) == "OK"
    assert code_of(site, f"/{SERVICE}/ServerReady", live, []) == "OK"
    assert code_of(site, HEALTH, health_pb2.HealthCheckRequest().SerializeToString(), []) == "OK"


@pytest.mark.parametrize(("metadata", "code"), [([], "UNAUTHENTICATED"), ([("x-api-key", KEY)], "OK")])
def test_reflection_needs_one(site: GrpcSite, metadata: list[tuple[str, str]], code: str) -> None:
    async def ask() -> str:
        call = site.channel.stream_stream(REFLECTION)(metadata=metadata)
        try:
            await call.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
            await call.read()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError):
            return str((await call.code()).name)
        call.cancel()
        return "OK"

    assert site.run(ask()) == code


def logged(site: GrpcSite, written: list[str]) -> list[dict[str, Any]]:
    async def close() -> None:
        site.service.close()

    site.run(close())
    return [json.loads(line) for text in written for line in text.splitlines()]


def test_every_call_is_a_line_of_the_access_log(site: GrpcSite, written: list[str]) -> None:
    request = raw_request("doubling", rows([1, 2]), id="mine")
    answer = site.run(site.call(request, metadata=[("x-api-key", KEY)]))
    site.refusal(request)
    site.refusal(raw_request("nobody", rows([1, 2])), metadata=[("x-api-key", KEY)])

    good, without, nobody = logged(site, written)

    assert {key: good[key] for key in ("protocol", "method", "path", "model", "id", "status", "client", "key")} == {
        "protocol": "grpc", "method": "ModelInfer", "path": f"/{SERVICE}/ModelInfer", "model": "doubling", "id": "mine",
        "status": 200, "client": "127.0.0.1", "key": "alice",
    }  # fmt: skip
    assert (good["bytes_in"], good["bytes_out"]) == (len(request.SerializeToString()), len(answer.SerializeToString()))
    assert (without["status"], "key" in without, "model" in without) == (401, False, False)
    assert (nobody["status"], nobody["key"]) == (404, "alice")
    assert nobody["error"] == "there is no model 'nobody'; served here: 'doubling'"
