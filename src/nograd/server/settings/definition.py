"""Settings of `nograd serve`: one definition for all ways to set them, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any, get_type_hints

from nograd.errors import ConfigError
from nograd.runtime.redaction import is_masked, mask_url
from nograd.server.security.origins import Cors, HostRules, parse_list

if TYPE_CHECKING:
    from nograd.server.security.tls import Tls

__all__ = ["AREAS", "CLUSTER", "FORMATS", "GROUPS", "LEVELS", "ServeConfig", "Setting", "settings_by_name"]

NETWORK, BATCHING, CACHE, MODEL, SECURITY, LOGGING, CLUSTER = GROUPS = (
    "Network", "Batching", "Cache", "Model", "Security", "Logging", "Workers and cluster",
)  # fmt: skip
"""Headings under which help and reference list the settings, in this order."""

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
COUNTS = (
    "max_batch_size", "max_queue_rows", "max_body_bytes", "max_header_bytes", "max_headers", "max_connections",
    "max_request_elements", "max_text_chars", "preprocess_threads", "workers",
)  # fmt: skip
"""Settings that must be at least 1."""

AREAS = ("metrics", "page")
"""Areas that `open_without_key` may open: `/metrics`, and the data of the live page."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of `ServeConfig` for the command line, the schema and the reference page."""

    name: str
    type: Any
    """`int`, `float`, `bool`, `str`, or one of them or None."""

    default: Any
    help: str
    group: str
    """One of `GROUPS`."""

    metavar: str = ""
    """Placeholder of the value in help texts; empty: that of the type."""

    choices: tuple[str, ...] = ()
    """Allowed values; empty: any value of the type, within the range that `ServeConfig` checks."""

    key: str = ""
    """Name for users: in the file, and of the option with dashes. Without the unit, because the value holds it: `timeout`."""

    unit: str = ""
    """Unit of the field's number: `s`, `ms`, `MB` or `B`; empty: it has none. Users write an amount, such as `30s`."""

    is_list: bool = False
    """Whether users write a list: the option is repeated, and the field joins the values with commas."""

    @property
    def option(self) -> str:
        """Name of the option on the command line."""
        return f"--{self.key.replace('_', '-')}"


UNITS = {"_ms": "ms", "_s": "s", "_mb": "MB", "_bytes": "B"}
"""Suffix of a field's name -> unit of its value."""


def setting(
    default: Any, help: str, group: str, *, metavar: str = "", choices: Sequence[str] = (), key: str = "",  # noqa: A002
    is_list: bool = False,
) -> Any:  # fmt: skip
    """Declare a field of `ServeConfig`. The key for users is the field's name without its unit, if none is given."""
    described = {"help": help, "group": group, "metavar": metavar, "choices": tuple(choices), "is_list": is_list}
    return field(default=default, metadata={**described, "key": key})


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Settings of a server. Each field carries its help text, its group and the values that it allows.

    The command line, the environment (`NOGRAD_*`), `nograd.toml`, `--print-config`, the JSON schema and the reference page all
    derive from these fields, so a new setting is one field. Units end the names: `_ms`, `_s`, `_mb`, `_bytes`, `_rows`. Users
    write the unit with the value instead: `timeout = "30s"`.
    """

    host: str = setting(
        "127.0.0.1", "Address to listen on. The default accepts connections from this machine only.", NETWORK,
        metavar="ADDRESS",
    )  # fmt: skip
    port: int = setting(8000, "TCP port for HTTP; 0 takes a free one.", NETWORK, metavar="PORT")
    grpc_port: int | None = setting(
        None, "TCP port for gRPC (8001 is usual; 0 takes a free one); unset: HTTP only.", NETWORK, metavar="PORT"
    )
    timeout_s: float = setting(30.0, "Timeout of a request that sets none; the response is then 504.", NETWORK)
    grace_s: float = setting(30.0, "Time to finish accepted requests after SIGTERM.", NETWORK)
    lame_duck_s: float = setting(
        0.0, "Time to keep accepting requests after readiness turns false, so that load balancers can react.", NETWORK
    )
    max_body_bytes: int = setting(64 * 2**20, "Maximum size of one request body.", NETWORK, key="max_body_size")
    max_request_rows: int | None = setting(
        None, "Maximum rows of one request; unset: max_queue_rows for models with preprocessing.", NETWORK
    )
    max_request_elements: int = setting(
        2**26, "Maximum elements (numbers or texts) of one input, counted before they are decoded.", NETWORK
    )
    max_text_chars: int = setting(2**20, "Maximum characters of one text, counted before it is tokenized.", NETWORK)
    max_header_bytes: int = setting(
        65536, "Maximum size of a request's line and headers; above it the response is 431.", NETWORK, key="max_header_size"
    )
    max_headers: int = setting(100, "Maximum number of headers of a request; above it the response is 431.", NETWORK)
    header_timeout_s: float = setting(
        10.0, "Time to receive a request's headers, from their first byte; then the response is 408.", NETWORK
    )
    keep_alive_s: float = setting(75.0, "Time to keep an idle connection open; a proxy's own limit should be lower.", NETWORK)
    send_timeout_s: float = setting(
        30.0, "Time that a client may take to read a response, or each MiB of a long one; then the connection is closed.",
        NETWORK,
    )  # fmt: skip
    max_connections: int = setting(1000, "Maximum open HTTP connections per worker; a connection above that gets 503.", NETWORK)
    max_batch_size: int = setting(
        32, "Maximum rows in one run. A bundle whose cost curve counts rows runs no more than the curve covers.", BATCHING
    )
    max_wait_ms: float = setting(0.0, "Maximum time to wait for a batch to fill (0: run immediately).", BATCHING)
    max_queue_rows: int = setting(1024, "Maximum rows that wait for the device; a request above that gets 503.", BATCHING)
    preprocess_threads: int = setting(
        1, "Threads per model for pre- and postprocessing; above 1, the model's functions must be thread-safe.", BATCHING
    )
    cache_mb: float = setting(64.0, "Memory for cached responses (0: no cache).", CACHE, key="cache_size")
    cache_url: str = setting(
        "", "Redis that shares cached responses between servers, such as redis://host:6379/0.", CACHE, metavar="URL"
    )
    cache_ttl_s: float | None = setting(
        None, "Lifetime of a cached response; unset: no limit in memory, one week in Redis.", CACHE
    )
    stuck_after_s: float = setting(
        30.0, "Time of one run before liveness fails, or 20 times the predicted duration if that is longer.", MODEL
    )
    device: str = setting(
        "auto", "Torch device, such as cuda:0; auto takes the first GPU, or the CPU.", MODEL, metavar="DEVICE"
    )
    trusted: bool = setting(default=False, help="Open model files that can run code: .pt2, .pt, some bundles.", group=MODEL)
    accept_coupled_rows: bool = setting(
        default=False,
        help="Batch rows that influence each other, as in dynamic 8-bit files; default: run them alone.",
        group=MODEL,
    )
    repository: bool = setting(default=False, help="Let clients load, reload and unload the configured models.", group=MODEL)
    repository_dir: str = setting(
        "", "Folder of bundles that clients may load, too; enables --repository.", MODEL, metavar="FOLDER"
    )
    tls_cert: str = setting("", "Server certificate chain (PEM); enables HTTPS, and TLS for gRPC.", SECURITY, metavar="FILE")
    tls_key: str = setting("", "Private key of the certificate (PEM).", SECURITY, metavar="FILE")
    tls_ca: str = setting(
        "", "Certificate authorities (PEM); clients then need a certificate that one of them signed.", SECURITY, metavar="FILE"
    )
    api_keys_file: str = setting(
        "", "API keys, one per line, KEY or NAME: KEY; unset: NOGRAD_API_KEYS, or no keys.", SECURITY, metavar="FILE"
    )
    open_without_key: str = setting(
        "", "Area that needs no API key besides health; may be repeated.", SECURITY, metavar="metrics|page", is_list=True
    )
    allowed_hosts: str = setting(
        "", "Another name of this server, such as api.example or *.example (*: any); may be repeated. Calls that change state "
        "are refused for other hosts.", SECURITY, metavar="HOST", is_list=True,
    )  # fmt: skip
    cors_origins: str = setting(
        "", "Origin of web pages that may call this server, such as https://app.example (*: all, without calls that change "
        "state); may be repeated.", SECURITY, metavar="ORIGIN", is_list=True,
    )  # fmt: skip
    log_format: str = setting("text", "Log format on stderr.", LOGGING, choices=FORMATS)
    log_level: str = setting("info", "Minimum log level.", LOGGING, choices=LEVELS)
    access_log: bool = setting(default=False, help="Log every request, at any log level.", group=LOGGING)
    traces: str = setting(
        "", "OpenTelemetry collector, OTLP over HTTP, such as http://localhost:4318; also OTEL_EXPORTER_OTLP_ENDPOINT.",
        LOGGING, metavar="URL",
    )  # fmt: skip
    workers: int = setting(1, "Processes that share the port; the supervisor restarts a worker that ends.", CLUSTER)
    devices: str = setting(
        "", "Torch device of one worker, such as cuda:1; may be repeated.", CLUSTER, metavar="DEVICE", is_list=True
    )

    def __post_init__(self) -> None:
        self._check_ports()
        self._check_operation()
        self._check_security()
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_request_rows is not None and self.max_request_rows < 1:
            raise ConfigError(f"max_request_rows is {self.max_request_rows}; it must be at least 1")
        if self.cache_ttl_s is not None and not (isfinite(self.cache_ttl_s) and self.cache_ttl_s > 0):
            raise ConfigError(f"cache_ttl_s is {self.cache_ttl_s}; it must be above 0, finite")
        if self.cache_url and not self.cache_mb:
            raise ConfigError(
                "cache_url is set and cache_mb is 0; answers from Redis are also kept in memory: set cache_mb above 0"
            )
        for name in ("max_wait_ms", "grace_s", "lame_duck_s", "cache_mb"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more, finite")
        self._check_workers()
        for name in ("timeout_s", "header_timeout_s", "keep_alive_s", "send_timeout_s"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0, finite")

    def address(self, port: int) -> str:
        """Return host and port in URL notation.

        >>> ServeConfig(host="::1").address(8000)
        '[::1]:8000'
        """
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def has_workers(self) -> bool:
        """Whether worker processes serve and this process only supervises them."""
        return self.workers > 1 or bool(self.devices)

    def _check_workers(self) -> None:
        listed = [word for word in self.devices.split(",") if word.strip()]
        if self.devices and not listed:
            raise ConfigError(f"devices is {self.devices!r}; it must be torch devices with commas, such as cuda:0,cuda:1")
        if self.devices and self.device != "auto":
            raise ConfigError(f"devices is {self.devices!r} and device is {self.device!r}; give one of them")
        if 1 < self.workers < len(listed):
            raise ConfigError(
                f"workers is {self.workers}, for {len(listed)} devices ({self.devices}); it must be at least {len(listed)}"
            )
        if self.has_workers and self.has_repository:
            raise ConfigError(
                "repository is on and there are workers; models are loaded into a single process: use one worker, or "
                "turn the repository off"
            )

    @property
    def has_repository(self) -> bool:
        """Whether the repository extension is on."""
        return self.repository or bool(self.repository_dir)

    @property
    def tls(self) -> Tls | None:
        """Certificate and key; None without TLS."""
        if not self.tls_cert:
            return None
        from nograd.server.security.tls import Tls

        return Tls(self.tls_cert, self.tls_key, self.tls_ca)

    def _check_security(self) -> None:
        HostRules(self.host, parse_list(self.allowed_hosts))
        Cors(parse_list(self.cors_origins))
        for name in ("cache_url", "traces"):
            if is_masked(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}, which --print-config has masked; insert the credentials")
        for area in parse_list(self.open_without_key):
            if area not in AREAS:
                raise ConfigError(f"open_without_key has {area!r}; it takes {' and '.join(AREAS)}, with a comma")

    def _check_operation(self) -> None:
        for name, each in settings_by_name().items():
            if each.choices and getattr(self, name) not in each.choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(each.choices)}")
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ConfigError(f"{given} is set and {missing} is not; TLS takes a certificate and its key")
        if self.tls_ca and not self.tls_cert:
            raise ConfigError("tls_ca is set and tls_cert is not; clients' certificates are requested over TLS only")
        if self.traces and not self.traces.startswith(("http://", "https://")):
            raise ConfigError(
                f"traces is {mask_url(self.traces)!r}; it is the URL of a collector, such as http://localhost:4318"
            )
        if not (isfinite(self.stuck_after_s) and self.stuck_after_s > 0):
            raise ConfigError(f"stuck_after_s is {self.stuck_after_s}; it must be above 0, finite")

    def _check_ports(self) -> None:
        if self.host.startswith("[") and self.host.endswith("]"):  # as URLs write IPv6
            object.__setattr__(self, "host", self.host[1:-1])
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            if port is not None and not 0 <= port <= 65535:
                raise ConfigError(f"{name} is {port}; it must be from 0 to 65535")
        if self.port and self.port == self.grpc_port:
            raise ConfigError(f"port and grpc_port are both {self.port}; HTTP and gRPC need different ports")


@cache
def settings_by_name() -> dict[str, Setting]:
    """Return the settings of a server, in the order of their fields."""
    types = get_type_hints(ServeConfig)
    return {each.name: _described(each.name, types[each.name], each.default, each.metadata) for each in fields(ServeConfig)}


def _described(name: str, kind: Any, default: Any, metadata: Mapping[str, Any]) -> Setting:
    suffix = next((suffix for suffix in UNITS if name.endswith(suffix)), "")
    unit = UNITS.get(suffix, "")
    metavar = metadata["metavar"] or {"": "", "s": "TIME", "ms": "TIME"}.get(unit, "SIZE")
    key = metadata["key"] or name.removesuffix(suffix)
    return Setting(name, kind, default, **{**metadata, "metavar": metavar, "key": key, "unit": unit})
