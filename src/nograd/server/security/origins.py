"""Checks of Origin and Host: which web pages may change the server's state, and which may read its responses. Pure.

A browser sends requests for any page that its user visits, also to servers that only this machine can reach. It sends the
page's origin in `Origin` (https://fetch.spec.whatwg.org/#origin-header). If the page's domain points to the server's address
(DNS rebinding), the browser treats both as one origin, but the `Host` header still contains that domain.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeAlias

from nograd.errors import ConfigError, ForbiddenError, ProtocolError

__all__ = ["ORIGIN", "Cors", "Host", "HostRules", "StateGuard", "parse_host", "parse_list", "parse_origin"]

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Lower-case names, and values."""

Address: TypeAlias = IPv4Address | IPv6Address

ORIGIN = b"origin"
ANY = "*"
FETCH_SITE = b"sec-fetch-site"
LOOKED_AT = frozenset((b"host", ORIGIN, FETCH_SITE, b"content-type"))
HOW_HOST = "list the names of this server with --allowed-hosts"
HOW_ORIGIN = "only pages of this server change its state; list others with --cors-origins"

PORTS = {"http": 80, "https": 443}
UNIX = "unix:"
"""Prefix of `host` for a Unix socket, which browsers cannot reach."""

JSON_TYPES = frozenset((b"application/json", b"application/octet-stream"))
"""Content types of calls that change state. tritonclient's asyncio client sends the second one. A page cannot send them to
another origin without a preflight request.
"""

CORS_REQUEST_HEADERS = (
    b"authorization, content-type, inference-header-content-length, x-api-key, x-request-id, x-server-timing, "
    b"x-envoy-expected-rq-timeout-ms"
)
CORS_RESPONSE_HEADERS = b"inference-header-content-length, retry-after, server-timing, x-request-id"
CORS_MAX_AGE_S = 600

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|[^\s\[\]:/?#@,]+)(?::(\d{1,5})?)?", re.ASCII)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE)


class Host(NamedTuple):
    """A host, and its port if given."""

    name: str
    """Lower case, without brackets, zone and final dot."""

    port: int | None = None


class Origin(NamedTuple):
    """Scheme and host of a page."""

    scheme: str
    host: Host


def parse_host(text: str) -> Host | None:
    """Parse the host of a `Host` header or a setting; None if the text is not a host.

    >>> parse_host("[::1]:8000"), parse_host("LocalHost."), parse_host("a@b")
    (Host(name='::1', port=8000), Host(name='localhost', port=None), None)
    """
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    name = found[1].strip("[]").partition("%")[0].lower().removesuffix(".")
    return Host(name, int(found[2]) if found[2] else None) if name else None


def parse_origin(text: str) -> Origin | None:
    """Parse the origin of an `Origin` header or a setting; None if the text is not an origin, such as `null`.

    >>> parse_origin("https://app.example:8443")
    Origin(scheme='https', host=Host(name='app.example', port=8443))
    """
    found = _ORIGIN.fullmatch(text)
    host = parse_host(found[2]) if found is not None else None
    if found is None or host is None:
        return None
    scheme = found[1].lower()
    return Origin(scheme, host._replace(port=host.port or PORTS.get(scheme)))


def parse_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated setting into words."""
    return tuple(word for each in text.split(",") if (word := each.strip()))


@dataclass(frozen=True, slots=True)
class HostRules:
    """The allowed hosts of requests that change state.

    Args:
        bound: `host` of the server. Loopback addresses allow each other and `localhost`. Any other address allows itself and
            the machine's name. `0.0.0.0` and `::` allow every address, because DNS rebinding needs a domain.
        allowed: additional hosts: `name`, `name:port`, `*.domain`, or `*` for all.
        machine: name of the machine.
    """

    bound: str
    allowed: Sequence[str] = ()
    machine: str = ""

    def __post_init__(self) -> None:
        for each in self.allowed:
            if each != ANY and parse_host(each.removeprefix("*.")) is None:
                raise ConfigError(f"allowed_hosts has {each!r}; it takes names such as api.example, *.example or api:8000")

    def allow(self, host: Host) -> bool:
        """Return whether a host is allowed."""
        return self.bound.startswith(UNIX) or any(_matches(host, each) for each in self.allowed) or self._is_bound(host)

    def _is_bound(self, host: Host) -> bool:
        bound, given = _address(self.bound), _address(host.name)
        if bound is not None and bound.is_unspecified:
            return given is not None or _is_loopback(host.name) or self._is_machine(host)
        if _is_loopback(self.bound):
            return _is_loopback(host.name)
        return host.name == self.bound.lower() or (given is not None and given == bound) or self._is_machine(host)

    def _is_machine(self, host: Host) -> bool:
        return bool(self.machine) and host.name == self.machine.lower()


def _matches(host: Host, allowed: str) -> bool:
    if allowed == ANY:
        return True
    expected = parse_host(allowed.removeprefix("*."))
    if expected is None or expected.port not in (None, host.port):
        return False
    return host.name.endswith(f".{expected.name}") if allowed.startswith("*.") else host.name == expected.name


def _address(text: str) -> Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _is_loopback(name: str) -> bool:
    """Return whether a name or address is loopback. Browsers resolve `.localhost` without DNS (RFC 6761)."""
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") if address is None else address.is_loopback


class Cors:
    """CORS headers: whether pages of other origins may read responses (https://fetch.spec.whatwg.org/#http-cors-protocol).

    Args:
        origins: origins such as `https://app.example`, or `*` for all; empty: none.

    Raises:
        ConfigError: an entry is not an origin.
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._is_any = ANY in origins
        self._origins = frozenset(_require_origin(each) for each in origins if each != ANY)

    def __bool__(self) -> bool:
        return self._is_any or bool(self._origins)

    def names(self, origin: Origin | None) -> bool:
        """Return whether an origin is listed explicitly, not by `*`."""
        return origin in self._origins

    def headers(self, given: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
        """Return the response headers that allow a page to read the response.

        Args:
            given: the request's `Origin`.
        """
        if given is None or not self:
            return ((b"vary", ORIGIN),) if self._origins else ()
        if self._is_any and not self._origins:
            return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", CORS_RESPONSE_HEADERS))
        if not (self._is_any or self.names(parse_origin(given.decode("latin-1")))):
            return ((b"vary", ORIGIN),)
        return (
            (b"access-control-allow-origin", given),
            (b"access-control-expose-headers", CORS_RESPONSE_HEADERS),
            (b"vary", ORIGIN),
        )

    def preflight(self, headers: Headers) -> tuple[tuple[bytes, bytes], ...] | None:
        """Return the response headers of an allowed preflight request; None for other requests."""
        values = dict(headers)
        if not self or b"access-control-request-method" not in values:
            return None
        allowed = self.headers(values.get(ORIGIN))
        if not any(name == b"access-control-allow-origin" for name, _ in allowed):
            return None
        return (
            *(each for each in allowed if each[0] != b"access-control-expose-headers"),
            (b"access-control-allow-methods", b"GET, HEAD, POST"),
            (b"access-control-allow-headers", CORS_REQUEST_HEADERS),
            (b"access-control-max-age", b"%d" % CORS_MAX_AGE_S),
        )


def _require_origin(text: str) -> Origin:
    origin = parse_origin(text)
    if origin is None:
        raise ConfigError(f"cors_origins has {text!r}; it takes origins such as https://app.example:8443, or *")
    return origin


class StateGuard:
    """Rejects requests of foreign web pages that would change the server's state.

    Args:
        hosts: allowed hosts of such requests.
        cors: its explicitly listed origins may change state, those of `*` may not.
    """

    def __init__(self, hosts: HostRules, cors: Cors) -> None:
        self._hosts = hosts
        self._cors = cors

    @classmethod
    def of(cls, host: str, allowed_hosts: str, cors: Cors) -> StateGuard:
        """Create the guard of a server on this machine from settings."""
        return cls(HostRules(host, parse_list(allowed_hosts), socket.gethostname()), cors)

    def check(self, headers: Headers) -> None:
        """Check a request.

        Args:
            headers: headers of the request.

        Raises:
            ForbiddenError: `Host` or `Origin` belongs to another site.
            ProtocolError: a form of any page can send this content type.
        """
        given = [(name, value) for name, value in headers if name in LOOKED_AT]
        hosts = [value.decode("latin-1") for name, value in given if name == b"host"]
        for text in hosts:
            host = parse_host(text)
            if len(hosts) > 1 or host is None or not self._hosts.allow(host):
                raise ForbiddenError(f"the Host header is {', '.join(hosts)!r}, which is not this server; {HOW_HOST}")
        values = dict(given)
        self._check_origin(values, hosts[0] if hosts else "")
        kind = values.get(b"content-type")
        is_page = ORIGIN in values or FETCH_SITE in values
        if is_page if kind is None else kind.partition(b";")[0].strip().lower() not in JSON_TYPES:
            was = "missing" if kind is None else repr(kind.decode("latin-1"))
            raise ProtocolError(f"the content type is {was}; this call takes application/json")

    def _check_origin(self, values: dict[bytes, bytes], host: str) -> None:
        """Check the origin of a request's page. Other clients do not send these headers."""
        text = values.get(ORIGIN)
        if text is None:
            if values.get(FETCH_SITE, b"none") not in (b"none", b"same-origin"):
                raise ForbiddenError(f"the request is from a page of another site; {HOW_ORIGIN}")
            return
        origin = parse_origin(text.decode("latin-1"))
        if not (self._cors.names(origin) or (origin is not None and _is_same(origin, parse_host(host)))):
            raise ForbiddenError(f"the request is from a page of {text.decode('latin-1')!r}; {HOW_ORIGIN}")


def _is_same(origin: Origin, host: Host | None) -> bool:
    """Return whether an origin is the request's host. The scheme is not compared, because a proxy may terminate TLS."""
    return host is not None and origin.host == host._replace(port=host.port or PORTS.get(origin.scheme))
