"""Web pages of other sites: they change nothing, and read answers only if their origin is listed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from nograd.errors import ConfigError
from nograd.server.http.connection import Connection
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.security.origins import Cors, HostRules, parse_host, parse_origin
from nograd.server.settings.definition import ServeConfig
from tests.fakes import Reply, Site, doubling, x
from tests.test_short_path import post, said

HOST = "127.0.0.1:8000"
JSON = {"content-type": "application/json"}
CHANGES = ("/cache/clear", "/v2/repository/index", "/v2/repository/models/doubling/unload")
APP = "https://app.example"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"doubling": doubling()}, repository=True) as site:
        yield site


def change(site: Site, headers: Mapping[str, str], path: str = "/cache/clear", body: bytes = b"") -> Reply:
    return site.request("POST", path, body, headers=headers)


# -- requests that change state


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:8000", **JSON},
        {"host": "rebound.example", "origin": "http://rebound.example", **JSON},
        {"host": "127.0.0.1.nip.example:8000", **JSON},
        {"host": "192.0.2.7:8000", **JSON},
        {"host": "localhost@evil.example", **JSON},
        {"host": HOST, "origin": "https://evil.example", **JSON},
        {"host": HOST, "origin": "http://127.0.0.1:3000", **JSON},
        {"host": HOST, "origin": "null", **JSON},
        {"host": HOST, "sec-fetch-site": "cross-site", **JSON},
        {"host": HOST, "sec-fetch-site": "same-site", **JSON},
    ],
)
def test_a_page_of_another_site_changes_nothing(site: Site, path: str, headers: Mapping[str, str]) -> None:
    refused = change(site, headers, path)

    assert refused.status == 403
    assert "--allowed-hosts" in refused.body.decode() or "--cors-origins" in refused.body.decode()
    assert site.infer("doubling", x([1, 2])).status == 200


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("multipart/form-data; boundary=a", {}),
        ("application/jsonp", {}),
        (None, {"origin": f"http://{HOST}"}),
        (None, {"sec-fetch-site": "same-origin"}),
    ],
)
def test_a_content_type_that_a_form_can_send_is_refused(site: Site, kind: str | None, more: Mapping[str, str]) -> None:
    refused = change(site, {"host": HOST, **more, **({} if kind is None else {"content-type": kind})}, body=b"{}")

    assert refused.status == 400
    assert refused.json["error"].endswith("this call takes application/json")


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": HOST},
        {"host": "localhost", **JSON},
        {"host": "[::1]:8000", "content-type": "application/json; charset=utf-8"},
        {"host": "models.localhost:9000", "content-type": "Application/JSON"},
        {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin", **JSON},
        {"host": "localhost", "origin": "http://localhost:80", **JSON},
        {"host": "localhost", "origin": "https://localhost", **JSON},
        {"host": HOST, "content-type": "application/octet-stream"},
    ],
    ids=["HTTP/1.0", "urllib, curl", "name", "IPv6", "subdomain", "own page", "default port", "behind TLS", "tritonclient aio"],
)
def test_clients_of_today_and_the_own_page_are_served(site: Site, path: str, headers: Mapping[str, str]) -> None:
    assert change(site, headers, path).status == 200


def test_reading_and_inference_are_not_bound_to_the_host(site: Site) -> None:
    foreign = {"host": "nograd.models.svc:80", "origin": "https://evil.example"}
    body = json.dumps({"inputs": [x([1, 2])]}).encode()

    assert site.request("GET", "/v2", headers=foreign).status == 200
    assert site.request("POST", "/v2/models/doubling/infer", body, headers=foreign).status == 200


@pytest.mark.parametrize(
    ("allowed", "host", "is_allowed"),
    [
        ("api.example", "API.example.:443", True),
        ("api.example", "x.api.example", False),
        ("*.example", "a.b.example", True),
        ("*.example", "example", False),
        ("*.example", "badexample", False),
        ("api.example:8000", "api.example:8000", True),
        ("api.example:8000", "api.example", False),
        ("10.0.0.5, api", "api:1", True),
        ("[fd00::5]", "[fd00::5]:8000", True),
        ("*", "anything.example", True),
    ],
)
def test_allowed_hosts_are_served_too(allowed: str, host: str, is_allowed: bool) -> None:
    with Site({"doubling": doubling()}, allowed_hosts=allowed) as site:
        assert change(site, {"host": host}).status == (200 if is_allowed else 403)
        assert change(site, {"host": HOST}).status == 200


@pytest.mark.parametrize(
    ("bound", "host", "is_allowed"),
    [
        ("0.0.0.0", "203.0.113.9:8000", True),
        ("::", "[fd00::1]", True),
        ("0.0.0.0", "localhost:8000", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "Box-7:8000", True),
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("10.0.0.5", "localhost", False),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("models.lan", "models.lan:8000", True),
        ("::1", "127.0.0.1", True),
        ("localhost", "127.9.9.9", True),
        ("127.0.0.1", "box-7", False),
        ("unix:/run/nograd.sock", "anything", True),
    ],
)
def test_the_bound_address_decides_which_hosts_are_the_servers(bound: str, host: str, is_allowed: bool) -> None:
    parsed = parse_host(host)

    assert parsed is not None
    assert HostRules(bound, (), "box-7").allow(parsed) == is_allowed


@pytest.mark.parametrize("text", ["", ":80", "a b", "[::1", "a:b", "a:123456", "http://a", "a/b", "a,b", "a?b"])
def test_a_text_that_is_not_a_host_is_refused(text: str) -> None:
    assert parse_host(text) is None
    assert parse_origin(f"http://{text}") is None


# -- browser clients of other origins


@pytest.fixture
def shared() -> Iterator[Site]:
    with Site({"doubling": doubling()}, cors_origins=f"{APP}, http://localhost:3000", repository=True) as site:
        yield site


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "https://APP.example:443"])
def test_a_listed_origin_may_read_answers_and_errors(shared: Site, origin: str) -> None:
    body = json.dumps({"inputs": [x([1, 2])]}).encode()

    for path, status in (("/v2/models/doubling/infer", 200), ("/v2/models/other/infer", 404)):
        answer = shared.request("POST", path, body, headers={"origin": origin})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, origin)
        assert "inference-header-content-length" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", "https://app.example:8443", "null"])
def test_another_origin_may_not(shared: Site, origin: str) -> None:
    assert "access-control-allow-origin" not in shared.request("GET", "/v2", headers={"origin": origin}).headers
    assert preflight(shared, origin).status == 405


def preflight(site: Site, origin: str, path: str = "/v2/models/doubling/infer") -> Reply:
    return site.request("OPTIONS", path, headers={"origin": origin, "access-control-request-method": "POST"})


def test_a_preflight_request_is_answered_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOGRAD_API_KEYS", "s3cret")
    with Site({"doubling": doubling()}, cors_origins=APP) as site:
        allowed = preflight(site, APP)
        refused = site.request("POST", "/v2/models/doubling/infer", headers={"origin": APP})

    assert (allowed.status, allowed.body) == (200, b"")
    assert allowed.headers["access-control-allow-origin"] == APP
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "x-api-key" in allowed.headers["access-control-allow-headers"]
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, APP)


def test_a_listed_origin_may_change_state_and_a_star_lists_none(shared: Site) -> None:
    headers = {"host": HOST, "origin": APP, "sec-fetch-site": "cross-site", **JSON}
    with Site({"doubling": doubling()}, cors_origins="*") as starred:
        assert change(starred, headers).status == 403
        assert starred.request("GET", "/v2", headers=headers).headers["access-control-allow-origin"] == "*"

    assert change(shared, headers).status == 200
    assert change(shared, {**headers, "host": "rebound.example"}).status == 403


def test_without_the_setting_answers_have_no_such_headers(site: Site) -> None:
    answer = site.request("GET", "/v2", headers={"origin": APP})

    assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]
    assert preflight(site, APP).status == 405


def test_the_page_is_not_shown_in_a_frame(site: Site) -> None:
    assert "frame-ancestors 'none'" in site.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"allowed_hosts": "http://api.example"}, "allowed_hosts has 'http://api.example'; it takes names such as"),
        ({"allowed_hosts": "a,*.b c"}, "allowed_hosts has '*.b c'; it takes"),
        ({"cors_origins": "app.example"}, "cors_origins has 'app.example'; it takes origins such as"),
        ({"cors_origins": f"{APP}/path"}, f"cors_origins has '{APP}/path'; it takes"),
        ({"cors_origins": "null"}, "cors_origins has 'null'; it takes"),
    ],
)
def test_a_setting_that_is_not_hosts_or_origins_is_refused(settings: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ServeConfig(**settings)  # type: ignore[arg-type]

    assert str(raised.value).startswith(error)


def test_several_host_headers_are_refused() -> None:
    from nograd.errors import ForbiddenError
    from nograd.server.security.origins import StateGuard

    guard = StateGuard(HostRules("127.0.0.1"), Cors())

    with pytest.raises(ForbiddenError, match=r"^the Host header is '127.0.0.1, evil.example', which is not this server"):
        guard.check([(b"host", b"127.0.0.1"), (b"host", b"evil.example")])


@pytest.mark.parametrize("kind", [Connection, ShortPathProtocol])
@pytest.mark.parametrize(("origin", "may_read"), [(APP, True), ("https://evil.example", False)])
def test_both_ways_of_an_infer_call_tell_a_page_whether_it_may_read(
    shared: Site, kind: type[Connection], origin: str, may_read: bool
) -> None:
    body = json.dumps({"inputs": [x([1, 2])]}).encode()

    written, _ = said(shared, kind, post(body, "/v2/models/doubling/infer", f"origin: {origin}"))

    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"access-control-allow-origin: " + APP.encode() in written) == may_read
