"""The server's own description: it is OpenAPI, says what is answered and nothing else, and knows the models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nograd import Signature, TensorSpec
from nograd.server.http.openapi_schemas import SCHEMAS
from nograd.server.http.routes import ROUTES
from tests.fakes import Fake, Site, doubling, echoing
from tests.running_server import RunningServer
from tests.served_models import tiny
from tests.text_models import embedder

openapi_spec_validator = pytest.importorskip(
    "openapi_spec_validator", reason="openapi-spec-validator is not installed; run: pip install 'nograd[dev]'"
)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    ids = Signature(
        (TensorSpec("ids", "int64", ("tokens",)), TensorSpec("mask", "int64", ("tokens",), default=1)),
        (TensorSpec("score", "float64"),),
    )
    models = {
        "doubling": doubling(),
        "a b/{ü}%": doubling(),
        "ids": Fake(lambda batch: {"score": batch["ids"].sum(1).astype(float)}, ids),
        "large": echoing(TensorSpec("t", "float32", (64, 64))),
        "embedder": embedder(),
    }
    with Site(models, repository=True) as site:
        yield site


@pytest.fixture(scope="module")
def found(site: Site) -> Any:
    return site.get("/openapi.json").json


def test_it_is_openapi(found: Any) -> None:
    openapi_spec_validator.validate(found)

    assert found["openapi"].startswith("3.1")


def test_the_description_of_a_server_with_a_torch_model_is_openapi() -> None:
    with Site({"tiny": tiny()}) as site:
        openapi_spec_validator.validate(site.get("/openapi.json").json)


def test_a_real_server_describes_itself(text_server: RunningServer) -> None:
    openapi_spec_validator.validate(httpx.get(f"{text_server.url}/openapi.json").json())


def test_every_route_is_described_once_and_its_schemas_exist(site: Site, found: Any) -> None:
    described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}

    assert {(route.method, route.path) for route in ROUTES} <= described
    assert len({route.name for route in ROUTES}) == len(ROUTES)
    assert {name for route in ROUTES for name in (route.answer, route.body) if name and "/" not in name} <= set(SCHEMAS)


def test_every_path_is_answered_by_its_methods_and_refuses_others(site: Site, found: Any) -> None:
    for path, operations in found["paths"].items():
        at = path.replace("{model}", "embedder").replace("{version}", "1").replace("{file}", "main.js")
        for method in ("GET", "POST", "PUT"):
            if (method, path.rpartition("/")[2]) == ("POST", "unload"):
                continue  # the others need the model
            status = site.request(method, at).status
            if method.lower() in operations:
                assert status in (200, 400), (method, at)
            else:
                assert status == 405, (method, at)


def test_every_reference_leads_somewhere_and_every_schema_is_used(found: Any) -> None:
    named = set(re.findall(r"#/components/(\w+/\w+)", str(found)))

    assert named == {f"{kind}/{name}" for kind in found["components"] for name in found["components"][kind]}


def test_each_model_has_its_own_infer_call_with_its_tensors(found: Any) -> None:
    call = found["paths"]["/v2/models/ids/infer"]["post"]

    content = call["requestBody"]["content"]["application/json"]
    ids, mask = content["schema"]["properties"]["inputs"]["items"]["anyOf"]
    assert (ids["properties"]["name"], mask["properties"]["name"]) == ({"const": "ids"}, {"const": "mask"})
    assert ids["properties"]["datatype"] == {"const": "INT64"}
    assert (ids["properties"]["shape"]["maxItems"], ids["properties"]["shape"]["description"]) == (2, "int64 [rows, tokens]")
    answer = call["responses"]["200"]["content"]["application/json"]["schema"]
    (score,) = answer["properties"]["outputs"]["items"]["anyOf"]
    assert score["properties"]["name"] == {"const": "score"}
    assert score["properties"]["shape"]["maxItems"] == 1


def test_the_example_of_each_model_is_answered(site: Site, found: Any) -> None:
    examples = {}
    for path, operations in found["paths"].items():
        example = (
            operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        )
        if example is not None:
            examples[path] = site.request("POST", path, json.dumps(example).encode()).status

    assert examples == dict.fromkeys(
        [f"/v2/models/{name}/infer" for name in ("doubling", "a%20b%2F%7B%C3%BC%7D%25", "ids", "embedder")], 200
    )


def test_a_server_with_keys_says_where_they_go_and_who_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOGRAD_API_KEYS", "secret")
    with Site({"embedder": embedder()}) as site:
        found = site.request("GET", "/openapi.json", headers={"authorization": "Bearer secret"}).json
        without = {path: site.get(path).status for path, operations in found["paths"].items() if "get" in operations}

    openapi_spec_validator.validate(found)
    assert found["security"] == [{"bearer": []}, {"key": []}]
    told = {path: "401" in operations["get"]["responses"] for path, operations in found["paths"].items() if "get" in operations}
    assert {path: status == 401 for path, status in without.items()} == told
    assert told["/v2"]
    assert found["paths"]["/v2/health/live"]["get"]["security"] == []


def test_embeddings_name_the_models_that_give_them(site: Site, found: Any) -> None:
    schema = found["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert schema["properties"]["model"]["examples"] == ["embedder"]
    assert schema["examples"] == [{"model": "embedder", "input": [""]}]
