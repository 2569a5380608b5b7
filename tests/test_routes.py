"""The table of routes: every row is found by its method and path, whatever names its placeholders hold."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nograd.errors import MethodError, ModelNotFoundError
from nograd.server.http.routes import LONGEST_CACHED_PATH, ROUTES, Route, _routes_of_path, find_route
from tests.fakes import Site, doubling, x

FILES = ("/", "/page/main.js")

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda text: text not in ("stats", ".", ".."))


def filled(route: Route, values: dict[str, str]) -> bytes:
    return re.sub(r"{(\w+)}", lambda found: quote(values[found[1]], safe=""), route.path).encode()


@given(model=names, version=names)
def test_every_route_is_found_with_the_names_of_its_path(model: str, version: str) -> None:
    values = {"model": model, "version": version, "file": "main.js"}
    for route in ROUTES:
        found, given_names = find_route(route.method, filled(route, values), FILES)

        assert found is route
        assert given_names == {name: values[name] for name in re.findall(r"{(\w+)}", route.path)}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_another_method_is_refused_with_the_allowed_ones(route: Route) -> None:
    allowed = ("GET", "HEAD") if route.method == "GET" else ("POST",)
    path = filled(route, {"model": "m", "version": "1", "file": "main.js"})

    with pytest.raises(MethodError, match=f"takes {' or '.join(allowed)}, not DELETE") as raised:
        find_route("DELETE", path, FILES)
    assert raised.value.allowed == allowed
    if "HEAD" in allowed:
        assert find_route("HEAD", path, FILES)[0] is route


def test_a_repository_may_have_its_own_name_before_the_call() -> None:
    for name in ("models", "index", "shelf"):
        route, names = find_route("POST", f"/v2/repository/{name}/models/a%2Fb/load".encode(), FILES)

        assert (route.name, names) == ("repository_load", {"model": "a/b"})
        assert find_route("POST", f"/v2/repository/{name}/index".encode(), FILES)[0].name == "repository_index"


@pytest.mark.parametrize("model", ["org/model", "a/b/c", "stats/a", "a/ready/b"])
@pytest.mark.parametrize(
    ("method", "path", "name", "version"),
    [
        ("POST", "/v2/models/{}/infer", "infer", None),
        ("POST", "/v2/models/{}/versions/2/infer", "infer_version", "2"),
        ("GET", "/v2/models/{}/ready", "model_ready", None),
        ("GET", "/v2/models/{}", "model_metadata", None),
        ("POST", "/v2/repository/models/{}/load", "repository_load", None),
    ],
)
def test_a_model_s_name_may_have_its_slashes_as_they_are(
    model: str, method: str, path: str, name: str, version: str | None
) -> None:
    route, names = find_route(method, path.format(model).encode(), FILES, {model})
    assert (route.name, names["model"], names.get("version")) == (name, model, version)


@pytest.mark.parametrize(
    ("path", "name", "model"), [("/v2/models/a/ready", "model_ready", "a"), ("/v2/models/a/stats", "model_statistics", "a")]
)
def test_a_name_without_slashes_is_meant_if_a_route_fits(path: str, name: str, model: str) -> None:
    route, names = find_route("GET", path.encode(), FILES, {"a", path.removeprefix("/v2/models/")})
    assert (route.name, names) == (name, {"model": model})


def test_a_name_with_slashes_that_is_not_served_is_no_name() -> None:
    for path in (b"/v2/models/a//infer", b"/v2/models//a/infer", b"/v2/models/c/d/infer"):
        with pytest.raises(ModelNotFoundError, match="there is nothing at"):
            find_route("POST", path, FILES, {"a", "a/b", "c"})


def test_openai_s_model_names_may_have_slashes() -> None:
    assert find_route("GET", b"/v1/models/org/model", FILES)[1] == {"model": "org/model"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"/v3", "there is nothing at /v3; the protocol's paths begin with /v2, /openapi.json has all"),
        (b"/page/none.js", "there is nothing at /page/none.js"),
        (b"/v2/models//infer", "a model has '', '/ready' and '/infer' and '/stats' and '/config'"),
        (b"/v2/models/m/versions/1/train", "a model has '', '/ready'"),
        (b"/v2/repository/models/m/train", "the repository has /v2/repository/index, "),
    ],
)
def test_a_path_without_a_route_names_the_routes_near_it(path: bytes, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        find_route("GET", path, FILES)

    assert message in str(raised.value)


def test_long_paths_are_not_kept() -> None:
    _routes_of_path.cache_clear()
    name = "m" * LONGEST_CACHED_PATH

    assert find_route("POST", f"/v2/models/{name}/infer".encode(), FILES)[1] == {"model": name}
    assert _routes_of_path.cache_info().currsize == 0


@pytest.mark.parametrize(("alias", "path"), [("/health", "/v2/health/ready"), ("/healthz", "/v2/health/live")])
def test_the_usual_paths_of_health_answer_as_the_protocols_do(alias: str, path: str) -> None:
    with Site({"doubling": doubling()}, started=False) as loading, Site({"doubling": doubling()}) as ready:
        for site in (loading, ready):
            assert (site.get(alias).status, site.get(alias).body) == (site.get(path).status, site.get(path).body)
        assert ready.get(alias).status == 200


def test_a_model_answers_under_its_name_with_slashes_as_they_are() -> None:
    with Site({"org/model": doubling()}) as site:
        body = json.dumps({"inputs": [x([1, 2])]}).encode()
        assert site.request("POST", "/v2/models/org/model/infer", body).status == 200
        assert site.get("/v2/models/org/model").json["name"] == "org/model"
        assert site.get("/v2/models/org/other").status == 404


def test_a_model_is_served_under_a_name_with_slashes() -> None:
    with Site({"org/team/model": doubling()}) as site:
        assert site.infer("org%2Fteam%2Fmodel", x([1, 2])).data() == [2, 4]
        assert site.get("/v2/models/org%2Fteam%2Fmodel/ready").status == 200
