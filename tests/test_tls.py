"""TLS of HTTP and gRPC, with real certificates and real clients."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest

from nograd.errors import ConfigError
from nograd.server.grpc.messages import SERVICE, ServerReadyRequest, ServerReadyResponse
from nograd.server.security.tls import Tls
from nograd.server.settings.definition import ServeConfig
from tests.certificates import Pair, authority, issued, with_password
from tests.running_server import RunningServer, serving

WAIT_S = 30.0
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Pair:
    return authority(folder)


@pytest.fixture(scope="module")
def pair(ca: Pair, folder: Path) -> Pair:
    return issued(ca, folder, "server")


def options(pair: Pair, *more: str) -> list[str]:
    return ["--cache-size", "0", "--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--grpc-port", "0", *more]


@pytest.fixture(scope="module")
def server(pair: Pair) -> Iterator[RunningServer]:
    with serving("gated", *options(pair)) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server(ca: Pair, pair: Pair) -> Iterator[RunningServer]:
    """Takes clients with a certificate of the authority only."""
    with serving("gated", *options(pair, "--tls-ca", str(ca.cert))) as server:
        yield server


def trusting(ca: Pair, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca.cert)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def grpc_ready(server: RunningServer, ca: Pair, own: Pair | None = None) -> bool:
    (address,) = [line.split()[1] for line in server.greeting.splitlines() if line.startswith("  gRPC")]
    key, cert = (own.key.read_bytes(), own.cert.read_bytes()) if own is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.cert.read_bytes(), key, cert)
    with grpc.secure_channel(address, credentials) as channel:
        answer = channel.unary_unary(f"/{SERVICE}/ServerReady")(ServerReadyRequest().SerializeToString(), timeout=WAIT_S)
    return bool(ServerReadyResponse.FromString(answer).ready)


def test_https_answers_a_client_that_trusts_the_authority(server: RunningServer, ca: Pair) -> None:
    assert server.url.startswith("https://127.0.0.1:")

    with httpx.Client(verify=trusting(ca), timeout=WAIT_S) as client:
        answers = [client.post(f"{server.url}/v2/models/gated/infer", json=BODY).json() for _ in range(3)]

    assert [answer["outputs"][0]["data"] for answer in answers] == [[2.0, 4.0]] * 3


def test_a_client_that_does_not_trust_it_does_not_talk(server: RunningServer) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{server.url}/v2", timeout=WAIT_S)


def test_plain_http_is_not_answered_where_tls_is(server: RunningServer) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https", "http") + "/v2", timeout=WAIT_S)


def test_grpc_has_the_same_certificate(server: RunningServer, ca: Pair) -> None:
    assert grpc_ready(server, ca)


def test_clients_need_a_certificate_where_an_authority_for_them_is_given(
    strict_server: RunningServer, ca: Pair, folder: Path
) -> None:
    own = issued(ca, folder, "client")

    with httpx.Client(verify=trusting(ca, own), timeout=WAIT_S) as client:
        assert client.get(f"{strict_server.url}/v2/health/ready").status_code == 200
    assert grpc_ready(strict_server, ca, own)


def test_clients_without_a_certificate_or_with_a_strangers_are_turned_away(
    strict_server: RunningServer, ca: Pair, tmp_path: Path
) -> None:
    stranger = issued(authority(tmp_path, "other"), tmp_path, "stranger")

    for own in (None, stranger):
        with httpx.Client(verify=trusting(ca, own), timeout=WAIT_S) as client, pytest.raises(httpx.TransportError):
            client.get(f"{strict_server.url}/v2/health/ready")
        with pytest.raises(grpc.RpcError) as refused:
            grpc_ready(strict_server, ca, own)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def served_by(server: RunningServer, ca: Pair) -> bytes:
    """Return the certificate that a new connection is shown."""
    url = httpx.URL(server.url)
    return ssl.get_server_certificate((url.host, url.port or 0), ca_certs=str(ca.cert), timeout=WAIT_S).encode()


def test_a_renewed_certificate_is_read_at_sighup(ca: Pair, tmp_path: Path) -> None:
    first, second = issued(ca, tmp_path, "first"), issued(ca, tmp_path, "second")
    used = Pair(tmp_path / "used.pem", tmp_path / "used.key")
    used.cert.write_bytes(first.cert.read_bytes())
    used.key.write_bytes(first.key.read_bytes())
    with serving("gated", "--tls-cert", str(used.cert), "--tls-key", str(used.key)) as server:
        assert served_by(server, ca).strip() == first.cert.read_bytes().strip()
        used.cert.write_bytes(second.cert.read_bytes())  # half of it: refused, the old one stays
        os.kill(server.process.pid, signal.SIGHUP)
        wait_said(server, "certificate_not_reloaded")
        assert served_by(server, ca).strip() == first.cert.read_bytes().strip()
        used.key.write_bytes(second.key.read_bytes())
        os.kill(server.process.pid, signal.SIGHUP)
        wait_said(server, "certificate_reloaded")
        assert served_by(server, ca).strip() == second.cert.read_bytes().strip()


def wait_said(server: RunningServer, event: str) -> None:
    """Return when the log has the event; each look asks the server something, which takes its loop a turn."""
    url = httpx.URL(server.url)
    for _ in range(5000):
        if event in server.stderr():
            return
        ssl.get_server_certificate((url.host, url.port or 0), timeout=WAIT_S)
    raise AssertionError(f"the log has no {event}: {server.stderr()}")


# -- files that are not what they should be


def broken(folder: Path, pair: Pair) -> list[tuple[Tls, str]]:
    nothing, junk, other = folder / "nothing.pem", folder / "junk.pem", authority(folder, "elsewhere")
    junk.write_text("hello")
    cut = folder / "cut.pem"
    cut.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    locked = with_password(pair, folder)
    cert, key = str(pair.cert), str(pair.key)
    return [
        (Tls(str(nothing), key), f"tls_cert cannot be read from '{nothing}': No such file or directory"),
        (Tls(cert, str(nothing)), f"tls_key cannot be read from '{nothing}': No such file or directory"),
        (Tls(cert, key, str(nothing)), f"tls_ca cannot be read from '{nothing}': No such file or directory"),
        (Tls(str(junk), key), f"tls_cert is '{junk}', which contains no CERTIFICATE in PEM ('-----BEGIN ...')"),
        (Tls(cert, cert), f"tls_key is '{cert}', which contains no PRIVATE KEY in PEM ('-----BEGIN ...')"),
        (Tls(cert, key, str(junk)), f"tls_ca is '{junk}', which contains no CERTIFICATE in PEM ('-----BEGIN ...')"),
        (Tls(cert, str(other.key)), f"the key in '{other.key}' does not match the certificate in '{cert}'"),
        (Tls(str(cut), key), f"'{cut}' and '{key}' are not a valid certificate and key: "),
        (
            Tls(cert, str(locked)),
            f"the key in '{locked}' has a password, which a server cannot prompt for; "
            f"write a key without one: openssl pkey -in {locked} -out server.key",
        ),
    ]


def test_a_wrong_file_is_named(pair: Pair, tmp_path: Path) -> None:
    for tls, said in broken(tmp_path, pair):
        with pytest.raises(ConfigError) as raised:
            tls.context()
        assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"tls_cert": "a"}, "tls_cert is set and tls_key is not; TLS takes a certificate and its key"),
        ({"tls_key": "a"}, "tls_key is set and tls_cert is not; TLS takes a certificate and its key"),
        ({"tls_ca": "a"}, "tls_ca is set and tls_cert is not; clients' certificates are requested over TLS only"),
    ],
)
def test_half_of_the_settings_is_refused(given: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ServeConfig(**given)  # type: ignore[arg-type]

    assert str(raised.value) == error


def test_a_wrong_file_ends_the_command_before_the_model_is_loaded(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 2: nograd: tls_key cannot be read from '.*': No such file"):
        RunningServer("served_models:raising", "--tls-cert", str(pair.cert), "--tls-key", str(tmp_path / "no.key"))
