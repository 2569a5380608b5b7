"""RedisCache against a real redis-server: killed, frozen, restarted, filled with garbage."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
import redis

from nograd.caching import MemoryCache
from nograd.caching.breaker import Breaker
from nograd.caching.codec import seal
from nograd.caching.redis import MOST_BYTES, MOST_KEYS, RedisCache
from nograd.caching.tiers import TieredCache
from nograd.errors import ConfigError, UnavailableError
from tests.redis_server import RedisServer, redis_server
from tests.waiting import HANG_S


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(server: RedisServer, clock: Clock) -> Iterator[RedisCache]:
    with RedisCache(server.url, timeout_s=0.25, clock=clock) as cache:
        yield cache


A, B = b"a" * 16, b"b" * 16


def counts(cache: RedisCache) -> tuple[int, int, int]:
    found = cache.statistics()
    return found.hits, found.misses, found.failures


def test_what_is_put_is_found_by_another(server: RedisServer, cache: RedisCache) -> None:
    cache.put_many({A: b"1", B: bytes(100_000)})
    with RedisCache(server.url) as other:
        assert other.get_many([B, b"c" * 16, A, A]) == [bytes(100_000), None, b"1", b"1"]
        assert counts(other) == (3, 1, 0)
    assert cache.statistics().puts == 2
    assert cache.get_many([]) == []


def test_a_batch_is_one_round_trip(server: RedisServer, cache: RedisCache) -> None:
    with server.client() as client:
        client.config_resetstat()
        cache.get_many([bytes([number]) * 16 for number in range(100)])
        found = client.info("commandstats")
    assert found["cmdstat_mget"]["calls"] == 1
    assert "cmdstat_get" not in found


def test_values_live_for_about_as_long_as_was_said(server: RedisServer) -> None:
    with (
        server.client() as client,
        RedisCache(server.url, ttl_s=100) as cache,
        RedisCache(server.url, ttl_s=None, prefix="x") as other,
    ):
        cache.put_many({bytes([number]) * 16: b"v" for number in range(50)})
        cache.put_many({A: b"v"}, ttl_s=10)
        lives = [client.pttl(name) for name in client.scan_iter(b"nograd:*")]
        other.put_many({A: b"v"})
        assert client.pttl(b"x:1:" + A) == -1
    short, *rest = sorted(lives)
    assert 8_000 < short <= 11_000
    assert all(80_000 < life <= 110_000 for life in rest)
    assert max(rest) - min(rest) > 5_000


def garbage(key: bytes) -> list[bytes]:
    good = seal(key, b"value")
    return [b"", b"garbage", good[:-1], good + b"?", good[:13] + b"V" + good[14:], seal(B, b"value"), b"\x80\x04\x8c\x02os"]


def test_garbage_and_other_versions_are_misses(server: RedisServer, cache: RedisCache) -> None:
    wrong = garbage(A)
    newer = bytearray(seal(A, b"value"))
    newer[6] += 1
    with server.client() as client:
        for value in [*wrong, bytes(newer)]:
            client.set(b"nograd:1:" + A, value)
            assert cache.get_many([A]) == [None]
        client.delete(b"nograd:1:" + A)
        client.lpush(b"nograd:1:" + A, "a list")
        assert cache.get_many([A]) == [None]
    found = cache.statistics()
    assert (found.corrupt, found.hits, found.failures) == (len(wrong) + 1, 0, 0)
    assert "not sealed in format 1" in found.last_error


def test_a_dead_redis_costs_one_failure_a_period(server: RedisServer, cache: RedisCache, clock: Clock) -> None:
    cache.put_many({A: b"1"})
    server.kill()
    for _ in range(20):
        assert cache.get_many([A]) == [None]
        cache.put_many({B: b"2"})
    assert cache.statistics().failures == 1
    assert cache.statistics().skipped == 39
    assert "refused" in cache.statistics().last_error or "Connection" in cache.statistics().last_error

    clock.now = 5.0
    assert cache.get_many([A]) == [None]
    assert cache.statistics().failures == 2
    clock.now = 9.9
    assert cache.get_many([A]) == [None]
    assert cache.statistics().failures == 2

    server.start()
    clock.now = 10.0
    cache.put_many({A: b"again"})
    assert cache.get_many([A]) == [b"again"]
    assert cache.statistics().failures == 2


def test_a_restarted_redis_costs_no_failure(server: RedisServer, cache: RedisCache) -> None:
    cache.put_many({A: b"1"})
    server.kill()
    server.start()
    assert cache.get_many([A]) == [None]  # it forgot
    cache.put_many({A: b"2"})
    assert cache.get_many([A]) == [b"2"]
    assert cache.statistics().failures == 0


def test_a_frozen_redis_costs_one_time_out_a_period(server: RedisServer, cache: RedisCache, clock: Clock) -> None:
    cache.put_many({A: b"1"})
    server.freeze()
    for _ in range(50):
        assert cache.get_many([A]) == [None]
    assert (cache.statistics().failures, cache.statistics().skipped) == (1, 49)
    assert "Timeout" in cache.statistics().last_error
    server.thaw()
    clock.now = 5.0
    assert cache.get_many([A]) == [b"1"]


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_ones(
    server: RedisServer, cache: RedisCache, clock: Clock
) -> None:
    """A connection on which an answer is still under way must not be used again."""
    cache.put_many({A: b"of a", B: b"of b"})
    server.freeze()
    assert cache.get_many([A]) == [None]
    server.thaw()
    clock.now = 5.0
    for _ in range(5):
        assert cache.get_many([B]) == [b"of b"]


def test_something_that_is_no_redis(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):  # the listener was shut down
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with RedisCache(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", timeout_s=0.5, clock=clock) as cache:
            assert cache.get_many([A]) == [None]
            assert cache.statistics().failures == 1
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class Pretender:
    """Speaks as Redis does until it is asked for values, and then says what it was told to."""

    def __init__(self, said: bytes, *, every_s: float | None = None, greets: bool = True) -> None:
        self._said, self._every_s, self._greets = said, every_s, greets
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0?protocol=2"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while asked := connection.recv(65536):
            if b"MGET" not in asked and self._greets:
                connection.sendall(b"+OK\r\n" * (asked.count(b"CLIENT") + asked.count(b"SELECT")))
            elif self._every_s is None:
                connection.sendall(self._said)
            else:
                for byte in self._said:
                    connection.sendall(bytes([byte]))
                    if self._ended.wait(self._every_s):
                        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize("greets", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        b":5\r\n", b"*1\r\n$-1\r\n", b"*3\r\n$-1\r\n$-1\r\n$-1\r\n", b"*2\r\n:5\r\n:6\r\n", b"$5\r\nhello\r\n", b"+OK\r\n",
        b"*-1\r\n", b"*2\r\n*1\r\n$1\r\na\r\n$-1\r\n", b"*x\r\n", b"\xff\xfe\r\n", b"-\xff\r\n", b"*2\r\n-ERR no\r\n$-1\r\n",
    ],
)  # fmt: skip
def test_whatever_comes_as_an_answer_is_a_miss(said: bytes, greets: bool, clock: Clock) -> None:
    with Pretender(said, greets=greets) as server, RedisCache(server.url, timeout_s=5, clock=clock) as cache:
        assert cache.get_many([A, B]) == [None, None]
        assert cache.statistics().failures == 1
        assert cache.get_many([A]) == [None]
        assert cache.statistics().skipped == 1


def test_an_answer_that_comes_byte_by_byte_is_too_slow_as_a_whole(clock: Clock) -> None:
    good = b"*1\r\n$17\r\n" + seal(A, b"value") + b"\r\n"
    with Pretender(good) as server, RedisCache(server.url, timeout_s=5, clock=clock) as cache:
        assert cache.get_many([A]) == [b"value"]
    with Pretender(good, every_s=0.05) as server, RedisCache(server.url, timeout_s=0.25, clock=clock) as cache:
        assert cache.get_many([A]) == [None]
        assert (cache.statistics().failures, cache.statistics().hits) == (1, 0)
        assert "Timeout" in cache.statistics().last_error


@pytest.mark.parametrize("refusal", ["full", "read-only"])
def test_a_redis_that_takes_no_values_is_still_asked_for_them(
    server: RedisServer, cache: RedisCache, clock: Clock, refusal: str
) -> None:
    cache.put_many({A: b"1"})
    with server.client() as client:
        if refusal == "full":
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
        else:
            client.replicaof("127.0.0.1", "1")
        for _ in range(3):
            cache.put_many({B: b"2"})
            assert cache.get_many([A]) == [b"1"]
        assert (cache.statistics().failures, cache.statistics().skipped, cache.statistics().puts) == (1, 2, 1)
        client.config_set("maxmemory", "0")
        client.replicaof("NO", "ONE")
    clock.now = 5.0
    cache.put_many({B: b"2"})
    assert cache.get_many([B]) == [b"2"]


def test_a_data_set_goes_in_calls_that_end_in_time(server: RedisServer) -> None:
    keys = [number.to_bytes(16, "little") for number in range(3 * MOST_KEYS + 1)]
    with server.client() as client, RedisCache(server.url, timeout_s=5) as cache:
        cache.put_many(dict.fromkeys(keys, b"value"))
        cache.put_many({A: bytes(MOST_BYTES), B: bytes(MOST_BYTES)})
        client.config_resetstat()
        assert cache.get_many(keys) == [b"value"] * len(keys)
        assert cache.get_many([A, B]) == [bytes(MOST_BYTES)] * 2
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 5
        assert cache.statistics().failures == 0


def test_connecting_to_a_cluster_that_is_frozen_holds_up_nobody_else(tmp_path: Path, clock: Clock) -> None:
    connecting, opened = threading.Event(), threading.Event()

    def connect() -> object:
        connecting.set()
        assert opened.wait(HANG_S)
        raise redis.exceptions.TimeoutError("frozen")

    cache = RedisCache("redis+cluster://127.0.0.1:1", clock=clock)
    cache._connect = connect
    thread = threading.Thread(target=cache.get_many, args=([A],))
    thread.start()
    assert connecting.wait(HANG_S)
    assert not cache._lock.locked()
    assert cache.statistics().failures == 0
    opened.set()
    thread.join()
    assert cache.statistics().failures == 1


def test_a_wrong_password_is_a_failure_that_says_so(tmp_path: Path, clock: Clock) -> None:
    with redis_server(tmp_path) as server:
        with server.client() as client:
            client.config_set("requirepass", "right")
        right, wrong = (f"redis://:{word}@127.0.0.1:{server.port}/0" for word in ("right", "wrong"))
        with RedisCache(right, clock=clock) as cache:
            cache.put_many({A: b"1"})
            assert cache.get_many([A]) == [b"1"]
            assert "right" not in cache.url
        with RedisCache(wrong, clock=clock) as cache:
            assert cache.get_many([A]) == [None]
            assert "wrong" not in str(cache.statistics())
            assert "Auth" in cache.statistics().last_error


def test_a_cluster(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1") as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                pass
        with RedisCache(f"redis+cluster://127.0.0.1:{server.port}", timeout_s=5) as cache:
            cache.put_many({bytes([number]) * 16: bytes([number]) for number in range(20)})
            assert cache.get_many([bytes([number]) * 16 for number in range(21)]) == [*(bytes([n]) for n in range(20)), None]
            assert cache.usage().entries == 20
            cache.clear()
            assert cache.usage().entries == 0
            assert cache.statistics().failures == 0


def test_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    from tests.redis_server import _free_port

    port = _free_port()
    options = (
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-auth-clients",
        "no",
    )
    with redis_server(tmp_path, *options, "--tls-ca-cert-file", str(certificate)):
        with RedisCache(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", timeout_s=5) as cache:
            cache.put_many({A: b"1"})
            assert cache.get_many([A]) == [b"1"]
        with RedisCache(f"rediss://127.0.0.1:{port}/0", timeout_s=5) as cache:  # nobody vouches for that certificate
            assert cache.get_many([A]) == [None]
            assert "certificate" in cache.statistics().last_error.lower()


def test_clear_takes_its_own_prefix_only(server: RedisServer, cache: RedisCache) -> None:
    with server.client() as client, RedisCache(server.url, prefix="no*") as other:
        client.set("mine", "1")
        cache.put_many({bytes([number]) * 16: bytes(50) for number in range(100)})
        other.put_many({A: b"1"})
        assert cache.usage().entries == 100
        assert cache.usage().nbytes == 100 * (len("nograd:1:") + 16 + 12 + 50)
        assert cache.usage().server.startswith(("Redis ", "Valkey "))
        client.lpush("nograd:1:other", "a list under our prefix")
        assert cache.usage().entries == 101
        client.delete("nograd:1:other")
        other.clear()
        assert cache.usage().entries == 100
        cache.clear()
        assert cache.usage().entries == 0
        assert client.get("mine") == b"1"


def test_what_the_user_asks_for_is_told_where_it_fails(server: RedisServer, cache: RedisCache) -> None:
    server.kill()
    for ask in (cache.usage, cache.clear):
        with pytest.raises(UnavailableError, match=f"cache redis://127.0.0.1:{server.port}/0 does not answer"):
            ask()


def test_threads_share_one(cache: RedisCache) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(100):
            key = bytes([number, turn]) * 8
            cache.put_many({key: key})
            if cache.get_many([key]) != [key]:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("localhost:6379", "it must begin with redis, rediss, unix, redis.cluster, rediss.cluster, then ://"),
        ("http://localhost", "it must begin with redis"),
        ("redis://localhost:port/0", "cannot be read"),
        ("memcached://user:secret@host", "'memcached://host'"),
        ("user:secret@host:6379", "'host:6379'"),
        ("redis://:secret/more@host:6379/0", "'redis://host:6379/0' cannot be read: are the characters of its password"),
        ("redis://:secret?more@host:6379/0", "'redis://host:6379/0' cannot be read"),
        ("redis://:secret#more@host:6379/0", "'redis://host:6379/0' cannot be read"),
        ("redis://host?password=secret&db=x", "'redis://host' cannot be read: Invalid value for 'db'"),
        ("redis://host?password=secret&nonsense=1", "'redis://host' cannot be read: .* unexpected keyword argument 'nonsense'"),
        ("redis://host?decode_responses=True", "has decode_responses; values are bytes: leave it out"),
        ("redis+cluster://host?decode_responses=True", "has decode_responses; values are bytes: leave it out"),
    ],
)
def test_urls_that_are_none(url: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as told:
        RedisCache(url)
    assert "secret" not in str(told.value)


def test_a_password_is_never_shown() -> None:
    for url in ("redis://:secret@host/0", "redis://host/0?password=secret", "rediss://u:sec%40ret@host/0"):
        assert RedisCache(url).url.endswith("://host/0")
    assert RedisCache("unix:///run/redis.sock?password=secret").url == "unix:///run/redis.sock"


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"retry_after_s": -1}, {"ttl_s": 0}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RedisCache("redis://localhost", **settings)  # type: ignore[arg-type]


# -- tiers


def test_tiers_ask_far_once_and_only_for_what_is_not_near(server: RedisServer, cache: RedisCache) -> None:
    near = MemoryCache()
    with TieredCache(near, cache) as tiers:
        cache.put_many({A: b"1", B: b"2"})
        near.put(B, b"2")
        assert tiers.get_many([A, B, b"c" * 16, A]) == [b"1", b"2", None, b"1"]
        assert counts(cache) == (1, 1, 0)
        assert tiers.get_many([A]) == [b"1"]
        assert counts(cache) == (1, 1, 0)
        server.kill()
        assert tiers.get_many([A, b"d" * 16]) == [b"1", None]
        found = tiers.statistics()
        assert (found.entries, found.failures) == (2, 1)
        assert near.get(A) == b"1"


# -- the breaker


def test_a_breaker_lets_one_call_try_and_waits_for_what_comes_of_it() -> None:
    breaker = Breaker(5.0)
    assert breaker.may_call(0.0)
    assert breaker.may_call(0.0)
    breaker.failed(1.0)
    assert breaker.is_open
    assert not breaker.may_call(5.9)
    assert breaker.may_call(6.0)
    assert not breaker.may_call(6.1)  # one is trying
    assert breaker.may_call(11.0)  # and never told: its thread may have died
    breaker.failed(11.2)
    assert not breaker.may_call(16.1)
    assert breaker.may_call(16.2)
    breaker.succeeded()
    assert breaker.may_call(16.2)
    assert not breaker.is_open
