"""RedisCache: a cache in Redis or Valkey, shared by processes and machines. Extra: redis.

A cache may be unavailable, slow or faulty without affecting requests. Every call has a timeout, a failure opens a circuit
breaker, and values with a wrong seal are misses. Only the statistics show it.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from threading import Lock
from typing import Any

from nograd.caching.breaker import Breaker
from nograd.caching.codec import FORMAT, CorruptValueError, seal, unseal
from nograd.caching.deadline import timed
from nograd.caching.memory import check_ttl, jittered
from nograd.caching.store import Cache, CacheStatistics
from nograd.errors import ConfigError, MissingExtraError, UnavailableError

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import RedisError, ResponseError
    from redis.exceptions import TimeoutError as RedisTimeoutError
    from redis.retry import Retry
except ImportError:
    raise MissingExtraError("redis", "redis") from None

__all__ = ["RedisCache", "Usage"]

WEEK_S = 7 * 86400.0

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")

MOST_KEYS, MOST_BYTES = 256, 2**20
"""Limits of one call: a batch fits in one call, and larger data is split so that no call exceeds its timeout."""

SCANNED = 1000
"""Keys examined per SCAN step; Redis serves other clients in between."""

_VALUES = frozenset((bytes, type(None)))

_log = logging.getLogger("nograd.caching")


@dataclass(frozen=True, slots=True)
class Usage:
    """Contents of Redis under a prefix, from all processes."""

    entries: int
    nbytes: int
    """Bytes of keys and values; Redis uses some more."""

    server: str
    """Name and version of the server."""


class RedisCache(Cache):
    """Stores values in Redis; thread-safe. The first call connects, not the constructor.

    Args:
        url: `redis://host:6379/0`, `rediss://...` for TLS, `unix:///path`, `redis+cluster://...` or `rediss+cluster://...` for
            a cluster; may contain `username:password@` and options of redis-py (`?ssl_ca_certs=...`).
        ttl_s: lifetime of a value in seconds, +-10 %; None: no limit, Redis itself evicts.
        timeout_s: timeout per call and for connecting, in seconds.
        retry_after_s: seconds without calls after a failure.
        prefix: prefix of all keys, so that other programs may use the same Redis.
        clock: returns monotonic time in seconds.

    Raises:
        MissingExtraError: redis-py is not installed.
        ConfigError: the URL is malformed, or a setting is out of its range.
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
        self._breaker, self._writing = Breaker(retry_after_s), Breaker(retry_after_s)
        self._lock = Lock()
        self._random = random.Random()  # noqa: S311  spreads expiries, guards nothing
        self._counts = dict.fromkeys(("hits", "misses", "puts", "corrupt", "failures", "skipped"), 0)
        self._last_error = ""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for start in range(0, len(keys), MOST_KEYS):
            some = keys[start : start + MOST_KEYS] if len(keys) > MOST_KEYS else keys
            names = [self._prefix + key for key in some]
            found = self._call(partial(_mget, names=names)) or [None] * len(some)
            values += [self._open_value(key, value) for key, value in zip(some, found, strict=True)]
        hits = sum(value is not None for value in values)
        self._count(hits=hits, misses=len(keys) - hits)
        return values

    def put_many(self, items: Mapping[bytes, bytes], ttl_s: float | None = None) -> None:
        check_ttl(ttl_s)
        lifetime_s = self._ttl_s if ttl_s is None else ttl_s
        for some in _portions([(self._prefix + key, seal(key, value)) for key, value in items.items()]):
            if not self._may_write():
                self._count(skipped=1)
            elif self._call(partial(self._put, some, lifetime_s)):
                self._count(puts=len(some))

    def _put(self, sealed: Sequence[tuple[bytes, bytes]], lifetime_s: float | None, client: Any) -> bool:
        with client.pipeline(transaction=False) as pipeline:
            for name, value in sealed:
                lifetime_ms = lifetime_s and max(1, int(1000 * jittered(lifetime_s, self._random.random())))
                pipeline.set(name, value, px=lifetime_ms)
            try:
                pipeline.execute()
            except ResponseError as error:  # full or read-only: lookups may still work
                self._note_failure(error, self._writing)
                return False
        with self._lock:
            self._writing.succeeded()
        return True

    def _may_write(self) -> bool:
        with self._lock:
            return self._writing.may_call(self._clock())

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(**self._counts, policy="redis", last_error=self._last_error)

    def usage(self) -> Usage:
        """Count all entries under the prefix, from all processes; slow for many.

        Raises:
            UnavailableError: Redis does not respond.
        """
        with self._raise_unavailable() as client:
            count = nbytes = 0
            for names in self._scan(client):
                with client.pipeline(transaction=False) as pipeline:
                    for name in names:
                        pipeline.strlen(name)
                    lengths = [length for length in pipeline.execute(raise_on_error=False) if isinstance(length, int)]
                count += len(names)
                nbytes += sum(map(len, names)) + sum(
                    lengths
                )  # other types than strings are not nograd's, and are counted without a size
            info = _first_node(client.info("server"))
            kind = "Valkey" if "valkey_version" in info else "Redis"
            return Usage(count, nbytes, f"{kind} {info.get('valkey_version', info['redis_version'])}")

    def clear(self) -> None:
        """Remove all entries under the prefix, from all processes.

        Raises:
            UnavailableError: Redis does not respond.
        """
        with self._raise_unavailable() as client:
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
        """Make a call and return its result; None if it fails or the breaker is open."""
        if self._breaker.is_open and not self._may_try():
            return None
        try:
            found = self._tried(call)
        except Exception as error:  # noqa: BLE001  for malformed responses the client raises arbitrary errors
            self._note_failure(error, self._breaker)
            if not isinstance(error, RedisError | OSError):
                self.close()  # the state of its connections is unknown
            return None
        if self._breaker.is_open:
            with self._lock:
                self._breaker.succeeded()
            _log.warning("cache %s answers again", self.url)
        return found

    def _may_try(self) -> bool:
        with self._lock:
            may = self._breaker.may_call(self._clock())
            self._counts["skipped"] += not may
        return may

    def _tried(self, call: Callable[[Any], Any]) -> Any:
        """Make a call; retry once if the connection was closed in the meantime, so that a restart of Redis causes no miss."""
        try:
            return call(self._connected())
        except RedisTimeoutError:
            raise
        except RedisConnectionError as error:
            if "Connection refused" in str(error):
                raise
            return call(self._connected())

    def _connected(self) -> Any:
        client = self._client
        if client is None:
            made = self._connect()  # outside of the lock, because cluster clients connect here
            with self._lock:
                client = self._client = made if self._client is None else self._client
            if client is not made:
                made.close()
        return client

    def _note_failure(self, error: Exception, breaker: Breaker) -> None:
        with self._lock:
            was_open = breaker.is_open
            breaker.failed(self._clock())
            self._counts["failures"] += 1
            self._last_error = f"{type(error).__name__}: {error}"
        if not was_open:
            what = "takes no values" if breaker is self._writing else "does not answer"
            _log.warning("cache %s %s and is left out until it does: %s", self.url, what, error)

    @contextmanager
    def _raise_unavailable(self) -> Iterator[Any]:
        """Raise UnavailableError if an operation requested by the user fails."""
        try:
            yield self._connected()
        except (RedisError, OSError, ValueError) as error:
            raise UnavailableError(f"cache {self.url} does not answer: {error}") from error

    def _scan(self, client: Any) -> Iterator[list[bytes]]:
        """Yield the keys under the prefix in chunks."""
        pattern = _escaped(self._prefix) + b"*"
        names: list[bytes] = []
        for name in client.scan_iter(match=pattern, count=SCANNED):
            names.append(name)
            if len(names) == SCANNED:
                yield names
                names = []
        if names:
            yield names

    def _open_value(self, key: bytes, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        try:
            return unseal(key, sealed)
        except CorruptValueError as error:
            with self._lock:
                self._counts["corrupt"] += 1
                self._last_error = f"a value was changed after it was stored: {error}"
            return None

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                self._counts[name] += count


def without_password(url: str) -> str:
    """Return a URL without its password, also for malformed URLs, because users forget to escape characters of the password."""
    scheme, mark, rest = url.partition("://") if "://" in url else ("", "", url)
    return scheme + mark + re.split("[?#]", rest.rpartition("@")[2])[0]


def _connector(url: str, timeout_s: float) -> Callable[[], Any]:
    """Return a function that creates a client without automatic retries."""
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise ConfigError(f"the cache's URL is {without_password(url)!r}; it must begin with {', '.join(SCHEMES)}, then ://")
    is_cluster = scheme.endswith("+cluster")
    plain = url.replace("+cluster", "", 1) if is_cluster else url
    settings: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    options = _options(url, plain)
    if scheme != "rediss+cluster":  # redis-py takes no custom class here: each read has its own timeout
        settings["connection_class"] = timed(options.get("connection_class", redis.Connection))
    kind: Any = redis.RedisCluster if is_cluster else redis.Redis
    return partial(kind.from_url, plain, **settings)


def _options(url: str, plain: str) -> dict[str, Any]:
    """Return the options of a URL, checked without connecting."""
    try:
        options: dict[str, Any] = redis.connection.parse_url(plain)  # type: ignore[no-untyped-call]
        pool = redis.ConnectionPool.from_url(plain)
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        said = "are the characters of its password percent-encoded?" if "@" in url else str(error)
        raise ConfigError(f"the cache's URL {without_password(url)!r} cannot be read: {said}") from None
    if "decode_responses" in options:
        raise ConfigError(f"the cache's URL {without_password(url)!r} has decode_responses; values are bytes: leave it out")
    return options


def _mget(client: Any, names: list[bytes]) -> list[bytes | None]:
    """Look up values by name in one round trip.

    Raises:
        ValueError: the response does not match the request.
    """
    found = client.mget_nonatomic(names) if isinstance(client, redis.RedisCluster) else client.mget(names)
    if not isinstance(found, list) or len(found) != len(names) or not _VALUES.issuperset(map(type, found)):
        raise ValueError(f"MGET of {len(names)} keys was answered with {str(found)[:100]}")
    values: list[bytes | None] = found
    return values


def _portions(items: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield items in chunks that fit in one call."""
    some: list[tuple[bytes, bytes]] = []
    size = 0
    for item in items:
        if some and (len(some) == MOST_KEYS or size + len(item[1]) > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(item)
        size += len(item[1])
    if some:
        yield some


def _first_node(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a server's information; clusters return it by node."""
    return info if "redis_version" in info else next(iter(info.values()))


def _escaped(prefix: bytes) -> bytes:
    """Escape a prefix for use in a pattern."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in prefix)
