"""API keys: who has one comes in, by every door; nobody learns anything of them."""

from __future__ import annotations

import hmac
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nograd.errors import ConfigError, UnauthorizedError
from nograd.server.http.connection import Connection
from nograd.server.http.short_path import ShortPathProtocol
from nograd.server.security.api_keys import VARIABLE, ApiKeyGate, ApiKeys, open_gate, parse_keys
from tests.fakes import Reply, Site, doubling, x
from tests.running_server import RunningServer, serving
from tests.test_short_path import Wire, infer_body, post

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
PATH = "/v2/models/doubling/infer"
WAIT_S = 30.0


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\nalice: {ALICE}\n\n{BOB}\n")
    return file


@pytest.fixture
def site(key_file: Path) -> Iterator[Site]:
    with Site({"doubling": doubling()}, api_keys_file=str(key_file)) as site:
        yield site


def infer(site: Site, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.request("POST", PATH, json.dumps({"inputs": [x([1, 2])]}).encode(), headers=named)


# -- files of keys


def test_a_file_has_a_key_a_line_with_a_name_or_without() -> None:
    assert parse_keys(f"alice: {ALICE}\n# none\n\n  {BOB}  \nwith:colon\n", "keys") == {
        "alice": ALICE, "key-4": BOB, "key-5": "with:colon",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "keys contains no API key; a line is KEY or NAME: KEY"),
        ("# nothing\n", "keys contains no API key; a line is KEY or NAME: KEY"),
        ("ci:\n", "line 1 of keys has an empty key; a line is KEY or NAME: KEY"),
        ("# keys\na: secret\nb:   \n", "line 3 of keys has an empty key; a line is KEY or NAME: KEY"),
        ('ci: ""\n', "line 1 of keys has an empty key; a line is KEY or NAME: KEY"),
        ("secret\n''\n", "line 2 of keys has an empty key; a line is KEY or NAME: KEY"),
        ("secret one\n", "line 1 of keys is not an API key; a line is KEY or NAME: KEY, in ASCII, without spaces"),
        ("a: x\nb: sécret\n", "line 2 of keys is not an API key; a line is KEY or NAME: KEY, in ASCII, without spaces"),
        ("a: secret\na: other\n", "line 2 of keys repeats the name 'a'; each key needs its own name"),
    ],
)
def test_a_line_that_is_no_key_is_told_without_saying_what_is_in_it(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_keys(text, "keys")

    assert str(raised.value) == error


def test_keys_may_come_in_the_environment_too(key_file: Path) -> None:
    door = open_gate(str(key_file), "", {VARIABLE: "one-more, alice: another"})

    names = [door.enter([(b"x-api-key", key.encode())], PATH) for key in (ALICE, BOB, "one-more", "another")]

    assert names == ["alice", "key-4", "key-1", "alice of NOGRAD_API_KEYS"]


@pytest.mark.parametrize("value", ["", "  ", "\n"])
@pytest.mark.parametrize("has_file", [False, True])
def test_a_variable_that_is_set_and_empty_is_an_error(key_file: Path, value: str, has_file: bool) -> None:
    with pytest.raises(ConfigError, match=r"^NOGRAD_API_KEYS is empty; .*unset it to serve without keys$"):
        open_gate(str(key_file) if has_file else "", "", {VARIABLE: value})


@pytest.mark.parametrize("value", [",", "a:,b: secret", "a: x, b:"])
def test_a_list_of_keys_with_an_empty_one_is_an_error(value: str) -> None:
    with pytest.raises(ConfigError, match=r"of NOGRAD_API_KEYS has an empty key|^NOGRAD_API_KEYS contains no API key"):
        open_gate("", "", {VARIABLE: value})


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o604, True), (0o644, True)])
def test_a_file_that_other_users_can_read_is_reported(
    key_file: Path, mode: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    key_file.chmod(mode)

    with caplog.at_level("WARNING", "nograd"):
        open_gate(str(key_file), "", {})

    assert [record.getMessage() for record in caplog.records] == ["keys_readable"] * warns


def test_without_keys_the_door_is_open() -> None:
    door = open_gate("", "", {})

    assert door.is_open
    assert door.enter([], PATH) is None


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the API keys cannot be read from '.*nowhere': No such file or directory$"):
        open_gate(str(tmp_path / "nowhere"), "", {})


def test_every_key_is_compared_whole_whatever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    known = ApiKeys({"first": "a" * 20, "second": "b" * 20, "third": "c" * 20})
    monkeypatch.setattr(hmac, "compare_digest", compare)

    found = [known.name_of(given) for given in (b"a" * 20, b"c" * 20, b"", b"a" * 19)]

    assert found == ["first", "third", None, None]
    assert len(compared) == 4 * 3
    assert {len(digest) for pair in compared for digest in pair} == {32}


def test_a_door_remembers_no_key(key_file: Path) -> None:
    door = open_gate(str(key_file), "", {})

    assert door._keys is not None
    assert ALICE not in repr(door._keys._keys) + repr(vars(door))


# -- HTTP


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {ALICE}"},
        {"authorization": f"bearer  {BOB}"},
        {"x-api-key": BOB},
        {"authorization": "Bearer wrong", "x-api-key": ALICE},
    ],
)
def test_a_request_with_a_key_is_answered(site: Site, headers: dict[str, str]) -> None:
    assert infer(site, **headers).data() == [2, 4]


HOW = "send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({}, "this server needs an API key"),
        ({"authorization": ""}, "this server needs an API key"),
        ({"authorization": "Bearer"}, "this server needs an API key"),
        ({"authorization": "Bearer wrong"}, "this API key is unknown"),
        ({"authorization": f"Digest {ALICE}"}, "this server needs an API key"),
        ({"x-api-key": ALICE[:-1]}, "this API key is unknown"),
        ({"x-api-key": ALICE + "x"}, "this API key is unknown"),
    ],
)
def test_a_request_without_one_is_401_in_the_protocols_form(site: Site, headers: dict[str, str], wrong: str) -> None:
    reply = infer(site, **headers)

    assert (reply.status, reply.error) == (401, f"{wrong}; {HOW}")
    assert reply.headers["www-authenticate"] == 'Bearer realm="nograd"'


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/doubling", "/v2/models/doubling/ready", "/metrics", "/live.json", "/nowhere"]
)
def test_all_but_health_needs_a_key(site: Site, path: str) -> None:
    assert site.get(path).status == 401
    assert site.request("GET", path, headers={"x-api-key": ALICE}).status in (200, 404)


@pytest.mark.parametrize("path", ["/health", "/healthz", "/v2/health/live", "/v2/health/ready", "/", "/page/page.css"])
def test_probes_and_the_page_that_asks_for_the_key_need_none(site: Site, path: str) -> None:
    assert site.get(path).status == 200


@pytest.mark.parametrize(
    ("areas", "open_paths"),
    [("metrics", {"/metrics"}), ("page", {"/live.json"}), ("metrics, page", {"/metrics", "/live.json"})],
)
def test_metrics_and_page_may_be_open(key_file: Path, areas: str, open_paths: set[str]) -> None:
    with Site({"doubling": doubling()}, api_keys_file=str(key_file), open_without_key=areas) as site:
        assert {path for path in ("/metrics", "/live.json", "/v2") if site.get(path).status == 200} == open_paths
        assert infer(site).status == 401


@pytest.mark.parametrize("kind", [Connection, ShortPathProtocol])
@pytest.mark.parametrize("headers", [[], ["x-api-key: wrong"], [f"x-api-key: {BOB}"], [f"authorization: Bearer {ALICE}"]])
def test_the_short_path_has_the_same_door(
    site: Site, kind: type[Connection], headers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk() -> bytes:
        wire = Wire(site, kind)
        wire.protocol.data_received(post(infer_body([1, 2]), PATH, *headers))
        said = await wire.transport.answers()
        wire.protocol.connection_lost(None)
        return said

    status = int(site.run(talk()).split()[1])

    assert status == (200 if headers and "wrong" not in headers[0] else 401)


def test_a_connection_whose_first_request_had_a_key_is_asked_for_it_again(site: Site) -> None:
    async def talk() -> bytes:
        wire = Wire(site, ShortPathProtocol)
        wire.protocol.data_received(post(infer_body([1, 2]), PATH, f"x-api-key: {ALICE}"))
        await wire.transport.answers(1)
        wire.protocol.data_received(post(infer_body([1, 2]), PATH))
        said = await wire.transport.answers(2)
        wire.protocol.connection_lost(None)
        return said

    said = site.run(talk())

    assert (said.count(b"HTTP/1.1 200"), said.count(b"HTTP/1.1 401")) == (1, 1)


def test_keys_are_read_anew_and_a_bad_file_changes_nothing(site: Site, key_file: Path) -> None:
    key_file.write_text("carol: carol-0123456789\n")
    site.service.reload_keys()
    assert [infer(site, x_api_key=key).status for key in (ALICE, "carol-0123456789")] == [401, 200]

    key_file.write_text("")
    site.service.reload_keys()
    assert infer(site, x_api_key="carol-0123456789").status == 200


# -- a real server


def status_once(server: RunningServer, key: str, wanted: int) -> int:
    """Ask until the server answers so; a signal is heard when its loop turns."""
    for _ in range(5000):
        if (status := httpx.get(f"{server.url}/v2", headers={"x-api-key": key}, timeout=WAIT_S).status_code) == wanted:
            return status
    return status


def test_a_server_reads_its_keys_anew_at_sighup_and_its_log_holds_none(key_file: Path) -> None:
    with serving("gated", "--api-keys-file", str(key_file), "--access-log", environment={VARIABLE: "from-outside"}) as server:
        answers = [
            httpx.get(f"{server.url}/v2", headers=headers, timeout=WAIT_S).status_code
            for headers in ({}, {"x-api-key": "not-a-key"}, {"authorization": f"Bearer {ALICE}"}, {"x-api-key": "from-outside"})
        ]
        key_file.write_text("carol: carol-0123456789\n")
        os.kill(server.process.pid, signal.SIGHUP)
        assert status_once(server, "carol-0123456789", 200) == 200
        assert status_once(server, ALICE, 401) == 401
        assert server.stop() == 0
        log = server.stderr()

    assert answers == [401, 401, 200, 200]
    assert "keys_reloaded keys=2" in log
    assert "key=alice" in log
    assert "key=carol" in log
    for key in (ALICE, BOB, "not-a-key", "from-outside", "carol-0123456789"):
        assert key not in log


def test_unauthorized_is_an_error_of_ours() -> None:
    with pytest.raises(UnauthorizedError):
        ApiKeyGate(ApiKeys({"a": "b"})).enter([], "/v2")
