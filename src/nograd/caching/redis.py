"""RedisCache: bytes by key in Redis or Valkey, shared by processes and machines. Extra: redis.

A cache may be away, slow or wrong, and nobody must notice but the statistics: every call has a time-out, a failure opens a
circuit breaker, and a value whose seal is wrong is no value.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from threading import Lock
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from nograd.caching.breaker import Breaker
from nograd.caching.codec import FORMAT, CorruptValueError, seal, unseal
from nograd.caching.memory import check_ttl, jittered
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import ConfigError, MissingExtraError, UnavailableError

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError
    from redis.exceptions import TimeoutError as RedisTimeoutError
    from redis.retry import Retry
except ImportError:
    raise MissingExtraError("redis", "redis") from None

__all__ = ["RedisCache", "Usage"]

WEEK_S = 7 * 86400.0

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")

SCANNED = 1000
"""Keys that one SCAN looks at: Redis answers others in between."""

_log = logging.getLogger("nograd.caching")


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in Redis under a prefix, of all processes."""

    entries: int
    nbytes: int
    """Of the keys and values; Redis itself takes some more."""

    server: str
    """Name and version of the server."""


class RedisCache(Cache):
    """Keeps values in Redis; thread-safe. Making one connects nowhere: the first call does.

    Args:
        url: `redis://host:6379/0`, `rediss://...` for TLS, `unix:///path`, `redis+cluster://...` or `rediss+cluster://...` for
            a cluster; with `username:password@` and options of redis-py (`?ssl_ca_certs=...`).
        ttl_s: seconds that a value lives, give or take a tenth; None: for ever, where Redis itself evicts.
        timeout_s: seconds for a call, at most, and for connecting.
        retry_after_s: seconds in which no call is made after one failed.
        prefix: what every key begins with, so that others may use the same Redis.
        clock: gives seconds that never go back.

    Raises:
        MissingExtraError: redis-py is not installed.
        ConfigError: the URL cannot be read, or a setting is out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float | None = WEEK_S,
        timeout_s: float = 0.05,
        retry_after_s: float = 5.0,
        prefix: str = "nograd",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_ttl(ttl_s)
        for name, seconds in (("timeout_s", timeout_s), ("retry_after_s", retry_after_s)):
            if not (isfinite(seconds) and seconds > 0):
                raise ConfigError(f"{name} is {seconds}; it must be above 0, finite")
        self.url = without_password(url)
        self._connect = _connector(url, timeout_s)
        self._client: Any = None
        self._ttl_s = ttl_s
        self._prefix = f"{prefix}:{FORMAT}:".encode()
        self._clock = clock
        self._breaker = Breaker(retry_after_s)
        self._lock = Lock()
        self._random = random.Random()  # noqa: S311  spreads expiries, guards nothing
        self._counts = dict.fromkeys(("hits", "misses", "puts", "corrupt", "failures", "skipped"), 0)
        self._last_error = ""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: Sequence[bytes | None] | None = None
        if keys:
            names = [self._prefix + key for key in keys]
            found = self._call(lambda client: self._mget(client, names))
        values = [self._opened(key, value) for key, value in zip(keys, found or [None] * len(keys), strict=True)]
        hits = sum(value is not None for value in values)
        self._count(hits=hits, misses=len(keys) - hits)
        return values

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        check_ttl(ttl_s)
        lifetime_s = self._ttl_s if ttl_s is None else ttl_s
        sealed = {self._prefix + key: seal(key, value) for key, value in items.items()}

        def put(client: Any) -> bool:
            with client.pipeline(transaction=False) as pipeline:
                for name, value in sealed.items():
                    lifetime_ms = lifetime_s and max(1, int(1000 * jittered(lifetime_s, self._random.random())))
                    pipeline.set(name, value, px=lifetime_ms)
                pipeline.execute()
            return True

        if sealed and self._call(put):
            self._count(puts=len(sealed))

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(**self._counts, policy="redis", last_error=self._last_error)

    def usage(self) -> Usage:
        """Look at every entry that lies there, of all processes; slow for many.

        Raises:
            UnavailableError: Redis does not answer.
        """
        with self._told() as client:
            count = nbytes = 0
            for names in self._scan(client):
                with client.pipeline(transaction=False) as pipeline:
                    for name in names:
                        pipeline.strlen(name)
                    lengths = pipeline.execute()
                count += len(names)
                nbytes += sum(map(len, names)) + sum(lengths)
            info = _first_node(client.info("server"))
            kind = "Valkey" if "valkey_version" in info else "Redis"
            return Usage(count, nbytes, f"{kind} {info.get('valkey_version', info['redis_version'])}")

    def clear(self) -> None:
        """Forget every entry under the prefix, of all processes.

        Raises:
            UnavailableError: Redis does not answer.
        """
        with self._told() as client:
            for names in self._scan(client):
                with client.pipeline(transaction=False) as pipeline:
                    for name in names:
                        pipeline.unlink(name)
                    pipeline.execute()

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # -- calls

    def _call(self, call: Callable[[Any], Any]) -> Any:
        """Return what a call returns; None where it fails, or fails too often to be tried."""
        with self._lock:
            if not self._breaker.may_call(self._clock()):
                self._counts["skipped"] += 1
                return None
        try:
            found = self._tried(call)
        except (RedisError, OSError, ValueError) as error:  # ValueError: an answer that is not Redis' protocol
            self._note_failure(error)
            return None
        with self._lock:
            if self._breaker.is_open:
                _log.warning("cache %s answers again", self.url)
            self._breaker.succeeded()
        return found

    def _tried(self, call: Callable[[Any], Any]) -> Any:
        """Call; once more where the connection turns out to have been closed meanwhile: a restarted Redis costs no answer."""
        try:
            return call(self._connected())
        except RedisTimeoutError:
            raise
        except RedisConnectionError as error:
            if "Connection refused" in str(error):
                raise
            return call(self._connected())

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _note_failure(self, error: Exception) -> None:
        with self._lock:
            was_open = self._breaker.is_open
            self._breaker.failed(self._clock())
            self._counts["failures"] += 1
            self._last_error = f"{type(error).__name__}: {error}"
        if not was_open:
            _log.warning("cache %s does not answer and is left out until it does: %s", self.url, error)

    @contextmanager
    def _told(self) -> Iterator[Any]:
        """Do what the user asked for, and tell the user where it fails."""
        try:
            yield self._connected()
        except (RedisError, OSError, ValueError) as error:
            raise UnavailableError(f"cache {self.url} does not answer: {error}") from error

    def _scan(self, client: Any) -> Iterator[list[bytes]]:
        """Yield this prefix' names, some at a time."""
        pattern = _escaped(self._prefix) + b"*"
        names: list[bytes] = []
        for name in client.scan_iter(match=pattern, count=SCANNED):
            names.append(name)
            if len(names) == SCANNED:
                yield names
                names = []
        if names:
            yield names

    def _mget(self, client: Any, names: list[bytes]) -> Any:
        return client.mget_nonatomic(names) if isinstance(client, redis.RedisCluster) else client.mget(names)

    def _opened(self, key: bytes, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        try:
            return unseal(key, sealed)
        except CorruptValueError as error:
            with self._lock:
                self._counts["corrupt"] += 1
                self._last_error = f"a value that is not what was put there: {error}"
            return None

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                self._counts[name] += count


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")) if "@" in parts.netloc else url


def _connector(url: str, timeout_s: float) -> Callable[[], Any]:
    """Return what makes the client: one that never tries again by itself."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ConfigError(f"the cache's URL is {without_password(url)!r}; it must begin with {', '.join(SCHEMES)}, then ://")
    is_cluster = scheme.endswith("+cluster")
    plain = url.replace("+cluster", "", 1) if is_cluster else url
    settings: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    try:  # what can be told of a URL without connecting
        redis.connection.parse_url(plain)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ConfigError(f"the cache's URL {without_password(url)!r} cannot be read: {error}") from None
    if is_cluster:
        return lambda: redis.RedisCluster.from_url(plain, **settings)
    return lambda: redis.Redis.from_url(plain, **settings)


def _first_node(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a server's facts; a cluster gives them by node."""
    return info if "redis_version" in info else next(iter(info.values()))


def _escaped(prefix: bytes) -> bytes:
    """Return a prefix as a pattern that means nothing but itself."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in prefix)
